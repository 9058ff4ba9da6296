//! What people type: the examples that stand first in the help of each verb.

use clap::Command;

/// A line, and what it does.
type Example = (&'static str, &'static str);

/// Every verb of `--help`, with what is typed most. That each line is understood is a test.
const EXAMPLES: &[(&str, &[Example])] = &[
    (
        "up",
        &[
            ("sudo samewire up", "the first machine: a new network; later: connect again"),
            (
                "sudo samewire up --domain net.example.org",
                "the same, reached by a name, with a public certificate",
            ),
            (
                "sudo samewire up --login-server http://192.168.8.10 --auth-key KEY",
                "into another server's network",
            ),
            ("samewire up --dry-run", "only say what would be done"),
        ],
    ),
    (
        "join",
        &[
            ("sudo samewire join sw1.AbC", "what `samewire invite` printed on another machine"),
            ("sudo samewire join --hostname attic -", "the string comes from standard input"),
        ],
    ),
    (
        "update",
        &[
            ("sudo samewire update", "the version that the network's server runs"),
            ("sudo samewire update --file ./samewire", "on the server itself: a program that you fetched"),
            ("sudo samewire update --undo", "back to the one before"),
        ],
    ),
    (
        "invite",
        &[
            ("samewire invite", "ten machines, one hour: lines for all kinds of them"),
            ("samewire invite --user jun --uses 1 --expires 7d", "one machine, which will be jun's"),
            ("samewire invite --tag tag:ci --json", "for a script"),
            ("samewire invite revoke A8DyxF", "take it back"),
        ],
    ),
    ("admin", &[("samewire admin", "open what it prints in a browser, within the hour")]),
    (
        "status",
        &[
            ("samewire status", "who is here, and how they are reached"),
            ("samewire status --json", "for a script"),
        ],
    ),
    (
        "ping",
        &[
            ("samewire ping attic", "until the path is direct, ten answers at most"),
            ("samewire ping -c 1 --icmp attic", "one answer of its own network stack"),
        ],
    ),
    ("ip", &[("samewire ip -4", "this machine's address"), ("samewire ip attic", "another one's addresses")]),
    ("whoami", &[("samewire whoami", "this machine, and whose it is")]),
    (
        "whois",
        &[
            ("samewire whois 100.64.0.7", "which machine, and whose"),
            ("samewire whois attic", "the same by name"),
        ],
    ),
    ("down", &[("sudo samewire down", "until `samewire up`")]),
    (
        "set",
        &[
            ("sudo samewire set --accept-routes", "use the subnets that others offer"),
            ("sudo samewire set --exit-node=birch", "all Internet traffic by birch; --exit-node= ends it"),
            ("sudo samewire set --advertise-routes=192.168.8.0/24", "offer this LAN; an admin allows it"),
            ("sudo samewire set --hostname=attic", "another name"),
        ],
    ),
    ("get", &[("samewire get", "all settings"), ("samewire get accept-routes", "one of them")]),
    (
        "exit-node",
        &[
            ("samewire exit-node list", "who offers"),
            ("samewire exit-node suggest", "the nearest; then: sudo samewire set --exit-node=NAME"),
        ],
    ),
    (
        "file",
        &[
            ("samewire file cp photo.jpg attic:", "send it"),
            ("samewire file get .", "fetch what came, into this folder"),
        ],
    ),
    (
        "serve",
        &[
            ("samewire serve 3000", "the program on port 3000, as http://THIS-MACHINE/, until Ctrl-C"),
            ("samewire serve --bg --set-path=/docs ./book", "a folder, for good"),
            ("samewire serve --bg --tcp=5432 5432", "a database"),
            ("samewire serve status", "what is served"),
            ("samewire serve --http=80 off", "take it back"),
        ],
    ),
    ("nc", &[("samewire nc attic 22", "standard input and output, to the port and back")]),
    ("wait", &[("samewire wait --timeout 30s", "at the start of a script")]),
    (
        "explain",
        &[
            ("samewire explain attic", "is it reached, by which path, and why not"),
            ("samewire explain attic:22", "and does the policy let this port, does it answer"),
        ],
    ),
    (
        "check",
        &[("samewire check", "what is wrong here, if anything; on the first machine: how others reach it")],
    ),
    ("netcheck", &[("samewire netcheck", "UDP, router, relays and their delays")]),
    (
        "dns",
        &[
            ("samewire dns status", "who answers for which names"),
            ("samewire dns query attic", "ask, and see who answered"),
        ],
    ),
    ("bugreport", &[("samewire bugreport", "then send the log from that marker on")]),
    ("help", &[("samewire help explain", "a command"), ("samewire help relay-hard-nat", "a message")]),
    (
        "login",
        &[(
            "sudo samewire login --login-server https://net.example.org",
            "a further network, beside the present one",
        )],
    ),
    ("logout", &[("sudo samewire logout", "the machine stays in the books until an admin removes it")]),
    (
        "switch",
        &[
            ("samewire switch --list", "the networks of this machine"),
            ("sudo samewire switch work", "change to one"),
        ],
    ),
    (
        "policy",
        &[
            (
                "sudo samewire policy explain laptop nas:445",
                "may it, and by which rule: the server on this machine",
            ),
            ("samewire policy check policy.hujson", "a file alone"),
            (
                "samewire policy diff new.hujson --server https://vpn.example.org",
                "who gains and loses what by it",
            ),
            ("samewire policy diff --world world.json old.hujson new.hujson", "the same without a server"),
            ("sudo samewire policy set policy.hujson", "put it in force"),
        ],
    ),
    (
        "backup",
        &[("sudo samewire backup network.samewire", "this machine's keys, and its network if it serves one")],
    ),
    (
        "restore",
        &[
            ("sudo samewire restore network.samewire", "what backup wrote, here or on another machine"),
            ("sudo samewire restore --latest", "the newest daily copy, when the database is damaged"),
        ],
    ),
    ("move", &[("samewire move --to birch.example.org", "the steps, in order; nothing is done")]),
    ("leave", &[("sudo samewire leave", "forget the network and be forgotten by it")]),
    ("uninstall", &[("sudo samewire uninstall", "asks first where a network would end")]),
    (
        "daemon",
        &[
            ("sudo samewire daemon", "what the service runs"),
            ("samewire daemon --tun userspace-networking --socks5-server 127.0.0.1:1055", "without root"),
        ],
    ),
    (
        "control",
        &[
            ("sudo samewire control nodes list", "machines, with those that wait"),
            ("sudo samewire control users create jun", "a person"),
            ("sudo samewire control keys create --reusable", "an auth key for scripts and official clients"),
            (
                "sudo samewire control serve --url http://192.168.8.10:8080 --state /var/lib/samewire/control",
                "a server apart from the machines",
            ),
        ],
    ),
    (
        "relay",
        &[(
            "sudo samewire relay --hostname 203.0.113.9 --state /var/lib/samewire/relay",
            "a relay of its own",
        )],
    ),
    ("wireguard", &[("sudo samewire wireguard wg0", "then: wg set wg0 ...")]),
    (
        "lab",
        &[
            ("sudo samewire lab demo", "two machines behind two NATs find each other; nothing is left"),
            ("sudo samewire lab up trial.toml", "a lab of your own; samewire lab up --help shows a file"),
        ],
    ),
    ("metrics", &[("samewire metrics", "as Prometheus reads them")]),
    (
        "debug",
        &[
            ("samewire debug netmap", "the network as the daemon knows it"),
            ("sudo samewire debug capture -o trace.pcap", "what goes through the tunnel"),
        ],
    ),
    ("completion", &[("samewire completion bash", "into a file of /etc/bash_completion.d")]),
    ("version", &[("samewire version --daemon", "of this program, and of the daemon that runs")]),
];

/// Puts the examples before the flags of each verb.
pub(crate) fn put_first(mut command: Command) -> Command {
    for (verb, examples) in EXAMPLES {
        let mut text = String::from("Examples:\n");
        for (line, does) in *examples {
            text.push_str(&format!("  {line}\n      {does}\n"));
        }
        let template = format!(
            "{{about-with-newline}}\n{text}\n{{usage-heading}} {{usage}}\n\n{{all-args}}{{after-help}}\n"
        );
        command = command.mut_subcommand(verb, |sub| sub.help_template(template));
    }
    command
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// Each verb has an example, and the program understands every one.
    pub(crate) fn every_example_is_understood(command: &Command) {
        let mut without: Vec<&str> =
            command.get_subcommands().filter(|verb| !verb.is_hide_set()).map(Command::get_name).collect();
        without.retain(|verb| EXAMPLES.iter().all(|(own, _)| own != verb));
        assert_eq!(without, Vec::<&str>::new(), "verbs without an example");
        for (verb, examples) in EXAMPLES {
            for (line, _) in *examples {
                let words: Vec<_> =
                    line.trim_start_matches("sudo ").split(' ').map(std::ffi::OsString::from).collect();
                let parsed = command.clone().try_get_matches_from(sw_cli::local::normalize(words));
                let matches = parsed.unwrap_or_else(|error| panic!("{line}: {error}"));
                assert_eq!(matches.subcommand_name(), Some(*verb), "{line}");
            }
        }
    }
}
