//! The rows: what is typed, how it ends, and what it must say.

/// One thing that a new user may do wrong, or that may go wrong for them.
#[derive(Clone, Copy)]
pub(crate) struct Row {
    pub(crate) words: &'static str,
    /// ux.md §1.3.
    pub(crate) code: i32,
    /// Parts of what is printed.
    pub(crate) says: &'static [&'static str],
}

const fn row(words: &'static str, code: i32, says: &'static [&'static str]) -> Row {
    Row { words, code, says }
}

const NOT_SET_UP: &[&str] =
    &["this machine is in no network yet.", "there is no state in /var/lib/samewire", "sudo samewire up"];

/// On a machine where nothing was ever started.
pub(crate) const ALONE: &[Row] = &[
    row("status", 3, NOT_SET_UP),
    row("ping birch", 3, NOT_SET_UP),
    row("ip", 3, NOT_SET_UP),
    row("whois 100.64.0.1", 3, NOT_SET_UP),
    row("whoami", 3, NOT_SET_UP),
    row("down", 3, NOT_SET_UP),
    row("set --hostname=x", 3, NOT_SET_UP),
    row("get", 3, NOT_SET_UP),
    row("login", 3, NOT_SET_UP),
    row("logout", 3, NOT_SET_UP),
    row("switch --list", 3, NOT_SET_UP),
    row("netcheck", 3, NOT_SET_UP),
    row("explain birch", 3, NOT_SET_UP),
    row("check", 3, NOT_SET_UP),
    row("nc birch 22", 3, NOT_SET_UP),
    row("metrics", 3, NOT_SET_UP),
    row("bugreport", 3, NOT_SET_UP),
    row("debug prefs", 3, NOT_SET_UP),
    row("exit-node list", 3, NOT_SET_UP),
    row("dns status", 3, NOT_SET_UP),
    row("invite", 3, NOT_SET_UP),
    row("admin", 3, NOT_SET_UP),
    row("leave", 3, NOT_SET_UP),
    row("serve 3000", 3, NOT_SET_UP),
    row("serve", 2, &["what to serve is missing."]),
    row("version --daemon", 3, NOT_SET_UP),
    row("wait --timeout=100ms", 8, &["the time ran out", "this machine is in no network yet"]),
    row("move", 1, &["this machine serves no network."]),
    row(
        "--socket /run/none.sock status",
        3,
        &[
            "samewire is not running",
            "nothing answers at /run/none.sock",
            "samewire daemon --socket=/run/none.sock",
        ],
    ),
    row("--socket /etc/passwd status", 3, &["nothing answers at /etc/passwd"]),
    // Words that are wrong: nothing is tried, exit 2.
    row("stauts", 2, &["there is no command \"stauts\".", "did you mean status?"]),
    row("help nosuch", 2, &["there is no command \"nosuch\".", "samewire help"]),
    row("--foo", 2, &["`samewire` has no flag \"--foo\".", "samewire --help"]),
    row("ping", 2, &["`samewire ping` lacks <MACHINE>.", "samewire ping --help"]),
    row("ping a b", 2, &["takes no argument \"b\"."]),
    row("ping --timeout=x y", 2, &["\"x\" is no value for --timeout", "500ms"]),
    row("ping --icmp --tsmp y", 2, &["exclude each other."]),
    row("set --foo", 2, &["has no flag \"--foo\"."]),
    row("set --accept-routes=maybe", 2, &["\"maybe\" is no value for --accept-routes", "true or false"]),
    row("up --hostnam x", 2, &["did you mean --hostname?"]),
    row("up extra", 2, &["`up` takes no argument \"extra\"."]),
    row("up --host-routes=false", 2, &["--host-routes can only be true."]),
    row("up --login-server=x --auth-key=y", 2, &["\"x\" is no server address."]),
    row("ip -4 -6", 2, &["exclude each other."]),
    row("nc x", 2, &["lacks <PORT>."]),
    row("nc x 99999", 2, &["\"99999\" is no value for <PORT>"]),
    row("whois", 2, &["lacks <ADDRESS>."]),
    row("explain", 2, &["lacks <TARGET>."]),
    row("netcheck --format=yaml", 2, &["\"yaml\" is no format.", "json-line"]),
    row("completion x", 2, &["\"x\" is no value for <SHELL>", "fish"]),
    row("completion", 2, &["lacks <SHELL>."]),
    row("metrics wriet", 2, &["did you mean write?", "samewire metrics --help"]),
    row("metrics write", 2, &["lacks <PATH>."]),
    row("bugreport a b", 2, &["takes no argument \"b\"."]),
    row("daemon --port=99999", 2, &["\"99999\" is no value for --port"]),
    row("invite --uses=0", 2, &["\"0\" is no value for --uses"]),
    row("invite --expires=x", 2, &["\"x\" is no value for --expires"]),
    row("backup", 2, &["lacks <FILE>."]),
    row("restore", 2, &["lacks <FILE>."]),
    row("join", 2, &["lacks <STRING>."]),
    row("join x", 2, &["this invite is incomplete.", "1 characters arrived", "copy the whole line again"]),
    row("control serve", 2, &["`samewire control serve` lacks --url <URL>."]),
    row("relay --foo", 2, &["`samewire relay` has no flag"]),
    row("wireguard", 2, &["lacks <IFNAME>."]),
    row("lab nosuch", 2, &["there is no command \"nosuch\".", "samewire lab --help"]),
    row("policy check /nonexistent", 2, &["\"/nonexistent\" cannot be read."]),
    // Verbs of the official client that are not here.
    row("funnel 3000", 2, &["is not in this version"]),
    row("cert x", 2, &["are not in this version"]),
    row("lock status", 2, &["is not in this version"]),
    row("drive list", 2, &["share a folder by NFS"]),
    row("update", 2, &["install the new program"]),
    row("web", 2, &["samewire admin"]),
    row("ssh birch", 2, &["the system's ssh"]),
    row("file cp /nonexistent birch:", 3, NOT_SET_UP),
    row("file get /tmp", 3, NOT_SET_UP),
    row("file cp x", 2, &["`file cp` wants files and a machine.", "samewire file cp FILE MACHINE:"]),
    row("file cp x birch", 2, &["the machine stands last, with a colon behind it."]),
    row("file cp - birch:", 2, &["--name"]),
    row("file get --conflict=x /tmp", 2, &["\"x\" is no value for --conflict"]),
    // Called by the official name: its texts, exit 0 and 1 only.
    row("as tailscale: version", 0, &[]),
    row("as tailscale: wait --timeout=100ms", 1, &["the time ran out"]),
    // Misfortunes.
    row("restore /nonexistent", 1, &["nothing was changed.", "No such file"]),
    row("restore /etc/passwd", 1, &["it is no backup, or it is damaged"]),
    row("policy check", 3, &["no control server runs here."]),
    row("control nodes list", 3, &["no control server runs here.", "samewire control serve"]),
    row("policy check --server=x --api-key=k", 2, &["cannot be used"]),
    row("policy check --server=http://127.0.0.1:9 --api-key=k", 5, &["127.0.0.1:9 does not answer."]),
    row("wireguard lo", 1, &["the interface could not be made."]),
    row("nobody: wireguard wg9", 4, &["needs root.", "sudo"]),
    row(
        "nobody: daemon --tun sw9 --statedir /tmp/samewire-nobody --socket /tmp/samewire-nobody.sock --port 0",
        4,
        &["needs root."],
    ),
];

/// On the first machine of a network, alone in it.
pub(crate) const UP: &[Row] = &[
    row("status", 0, &["alder"]),
    row("ping nosuch", 1, &["no machine is called \"nosuch\".", "samewire status lists all"]),
    row("ping aldr", 1, &["did you mean alder?"]),
    row("ping 100.99.99.99", 1, &["no machine has the address 100.99.99.99.", "samewire explain"]),
    row("ping 8.8.8.8", 1, &["no machine has the address 8.8.8.8."]),
    row("ping alder", 0, &["is local Tailscale IP"]),
    row("ip nosuch", 1, &["no machine is called \"nosuch\"."]),
    row("ip --assert=x", 2, &["\"x\" is no address."]),
    row("ip --assert=1.2.3.4", 1, &[]),
    row("whois 100.99.99.99", 1, &["no machine has the address"]),
    row("whois nosuch", 1, &["no machine is called"]),
    row("whois alder", 0, &["Machine:"]),
    row("whois --proto=x 100.64.0.1", 2, &["write tcp or udp"]),
    row("explain nosuch", 1, &["no machine is called"]),
    row("explain alder", 0, &["it is this machine"]),
    row(
        "explain 8.8.8.8",
        1,
        &["no machine of the network has this address or a route to it", "--advertise-routes"],
    ),
    row("nc nosuch 22", 1, &["no machine is called"]),
    row("nc alder 9", 1, &["alder does not answer on port 9.", "samewire explain alder:9"]),
    row("set", 2, &["`set` without a setting."]),
    row("set --hostname=a_b", 2, &["\"a_b\" cannot be a host name"]),
    row("set --exit-node=nosuch", 2, &["no machine is called"]),
    row("set --exit-node=1.2.3.4", 2, &["no machine is called \"1.2.3.4\"."]),
    row("set --exit-node=alder", 2, &["cannot be its own exit node"]),
    row("set --advertise-routes=10.0.0.1/8", 2, &["the subnet is 10.0.0.0/8"]),
    row("set --advertise-routes=x", 2, &["\"x\" is no prefix"]),
    row("set --operator=nosuchuser", 1, &["there is no user \"nosuchuser\" on this machine."]),
    row("set --ssh", 1, &["samewire has no SSH server of its own."]),
    row("set --relay-server-port=x", 2, &["\"x\" is no port."]),
    row("serve app", 2, &["\"app\" is nothing that can be served."]),
    row("serve /nonexistent", 1, &["\"/nonexistent\" cannot be served.", "No such file"]),
    row("serve --tcp=5432 db", 2, &["\"db\" is nothing to forward to."]),
    row("serve --tcp=5432 --set-path=/x 5432", 2, &["a forwarded port has no paths."]),
    row("serve --https=443 3000", 1, &["HTTPS cannot be served in this network.", "--http=80"]),
    row("serve --http=9 off", 1, &["nothing is served there (port 9).", "samewire serve status"]),
    row("serve --bg --http=443 3000", 1, &["port 443 of this machine's network address cannot be served."]),
    row("get nosuch", 2, &["there is no setting \"nosuch\".", "samewire get lists all"]),
    row("switch nosuch", 1, &["there is no account \"nosuch\"", "samewire switch --list"]),
    row("switch", 2, &["wants one network or account"]),
    row("switch remove x", 1, &["there is no account \"x\""]),
    row("metrics write /nonexistent/x", 1, &["the file was not written.", "No such file"]),
    row("debug localapi", 2, &["a path is missing."]),
    row("debug localapi GET nosuch", 1, &["not found."]),
    row("debug localapi POST debug?action=x", 1, &["unknown action."]),
    row("debug capture -o /nonexistent/x", 1, &["the capture could not be written."]),
    row("exit-node list", 1, &["no machine offers to be an exit node."]),
    row("file cp /nonexistent alder:", 1, &["files cannot be sent to alder.", "it is this machine"]),
    row("file cp /nonexistent nosuch:", 1, &["no machine is called"]),
    row("file get /nonexistent", 1, &["/nonexistent", "cannot be written to."]),
    row("file get /tmp", 0, &[]),
    row("dns query", 2, &["lacks <NAME>."]),
    row("invite --user nosuch", 1, &["there is no person \"nosuch\".", "samewire control users list"]),
    row("invite revoke nosuch", 1, &["there is no key \"nosuch\".", "samewire control keys list"]),
    row("invite --tag ci", 1, &["tagOwners", "samewire policy set"]),
    row("backup /nonexistent/x", 1, &["the backup was not written."]),
    row("join x", 2, &["this invite is incomplete."]),
    row("up --login-server=x", 2, &["\"x\" is no server address.", "https://HOST"]),
    row(
        "up --auth-key=file:/nonexistent --login-server=http://127.0.0.1",
        2,
        &["the file \"/nonexistent\" with the auth key cannot be read."],
    ),
    row("up --advertise-tags=1x", 2, &["\"tag:1x\" is no tag"]),
    row("up --login-server=http://127.0.0.9", 2, &["this machine is in the network of another server."]),
    row(
        "control nodes delete nosuch",
        1,
        &["there is no machine \"nosuch\".", "samewire control nodes list"],
    ),
    row("control users create", 2, &["lacks <NAME>."]),
    row("policy explain a b", 1, &["nothing is called \"a\"."]),
    row("leave", 2, &["this machine serves home.internal", "samewire uninstall"]),
    row("uninstall", 2, &["This machine serves home.internal.", "samewire uninstall --yes"]),
    row(
        "daemon",
        1,
        &["samewire already runs on this machine.", "a daemon answers at /run/samewire/samewire.sock"],
    ),
    // Others on this machine may look and not touch.
    row("nobody: status", 0, &["alder"]),
    row("nobody: down", 4, &["needs root or the operator's rights.", "you are nobody", "sudo samewire down"]),
    row("nobody: set --shields-up", 4, &["sudo samewire set --shields-up"]),
    row("nobody: invite", 4, &["needs root"]),
    row("nobody: logout", 4, &["needs root"]),
    row("nobody: leave", 4, &["needs root"]),
    row("nobody: login --timeout=1s", 4, &["needs root"]),
    row("nobody: debug capture -o -", 4, &["needs root"]),
    row("nobody: control nodes list", 4, &["administering the server on this machine needs root."]),
    row("nobody: policy check", 4, &["needs root"]),
    row("nobody: uninstall", 4, &["needs root"]),
    row("as tailscale: ping nosuch", 1, &["no machine is called"]),
];

/// On a machine that was disconnected by hand.
pub(crate) const WAITING: &[Row] = &[
    row("status", 1, &["this machine is disconnected.", "samewire up"]),
    row("ip", 1, &["this machine is disconnected."]),
    row("ping alder", 1, &["this machine is disconnected."]),
    row("whoami", 1, &["this machine is disconnected."]),
    row("explain alder", 1, &["this machine is disconnected."]),
    row("nc alder 22", 1, &["this machine is disconnected."]),
    row("wait --timeout=100ms", 8, &["this machine is disconnected"]),
    row("down", 0, &["already disconnected"]),
    row("as tailscale: status", 1, &["Tailscale is stopped."]),
];

/// On a machine that is in no network yet, with a daemon that runs; the server of another one is on this host.
pub(crate) const STRANGER: &[Row] = &[
    row("--socket /run/birch.sock status", 3, &["this machine is in no network yet."]),
    row("--socket /run/birch.sock ip", 3, &["this machine is in no network yet."]),
    row("--socket /run/birch.sock ping alder", 3, &["this machine is in no network yet."]),
    row("--socket /run/birch.sock explain alder", 3, &["this machine is in no network yet."]),
    row("--socket /run/birch.sock whoami", 3, &["this machine is in no network yet."]),
    row("--socket /run/birch.sock login --timeout=1s", 3, &["this machine is in no network yet."]),
    row("--socket /run/birch.sock up --auth-key=foo", 2, &["an auth key without the address of its server."]),
    row(
        "--socket /run/birch.sock up --login-server=http://127.0.0.1:81 --auth-key=x --timeout=30s",
        5,
        &["the server 127.0.0.1:81 does not answer.", "Connection refused", "samewire netcheck"],
    ),
    row(
        "--socket /run/birch.sock status",
        6,
        &["this machine is signed out.", "127.0.0.1:81 does not answer"],
    ),
    row(
        "--socket /run/birch.sock up --login-server=http://nosuch.invalid --auth-key=x --timeout=40s",
        5,
        &["the name nosuch.invalid does not resolve.", "check the spelling"],
    ),
    row(
        "--socket /run/birch.sock up --login-server=http://127.0.0.1:8099 --auth-key=x --timeout=30s",
        5,
        &["it is not a samewire or Tailscale-compatible server.", "404"],
    ),
    row(
        "--socket /run/birch.sock up --login-server=http://127.0.0.1 --timeout=8s",
        8,
        &["To authenticate, visit:", "the time ran out", "nobody signed in at http"],
    ),
    row("--socket /run/birch.sock nc alder 22", 6, &["this machine is signed out.", "open http"]),
    row("--socket /run/birch.sock logout", 0, &[]),
];

/// On a machine whose own key has come to its end.
pub(crate) const EXPIRED: &[Row] = &[
    row("--socket /run/birch.sock status", 6, KEY_EXPIRED),
    row("--socket /run/birch.sock ip", 6, KEY_EXPIRED),
    row("--socket /run/birch.sock ping alder", 6, KEY_EXPIRED),
    row("--socket /run/birch.sock explain alder", 6, KEY_EXPIRED),
    row("--socket /run/birch.sock nc alder 22", 6, KEY_EXPIRED),
    row("--socket /run/birch.sock wait --timeout=100ms", 8, &["this machine's key expired"]),
];

const KEY_EXPIRED: &[&str] = &["this machine's key expired", "it was good until", "samewire login"];

/// Daemons that cannot start.
pub(crate) const STARTING: &[Row] = &[
    row(
        "daemon --statedir /var/lib/birch --socket /run/other.sock --tun userspace-networking --port 0",
        1,
        &["another samewire daemon uses this state.", "/var/lib/birch"],
    ),
    row(
        "daemon --statedir /var/lib/other --socket /run/birch.sock --tun userspace-networking --port 0",
        1,
        &["samewire already runs on this machine.", "/run/birch.sock"],
    ),
    row(
        "daemon --statedir /var/lib/other --socket /run/file.sock --tun userspace-networking --port 0",
        1,
        &["/run/file.sock is there already, and it is no socket"],
    ),
    row(
        "daemon --statedir /var/lib/other --socket /run/other.sock --tun userspace-networking --port 0 --socks5-server=192.0.2.1:1080",
        1,
        &["the proxy could not be opened.", "192.0.2.1:1080"],
    ),
    row(
        "daemon --statedir /etc/passwd --socket /run/other.sock --tun userspace-networking",
        1,
        &["the state directory /etc/passwd cannot be used."],
    ),
    row(
        "daemon --statedir /var/lib/broken --socket /run/other.sock --tun userspace-networking",
        1,
        &["the state file is damaged, so samewire did not start.", "/var/lib/broken/node.state"],
    ),
    row(
        "daemon --statedir /var/lib/open --socket /run/other.sock --tun userspace-networking",
        1,
        &["can be read by others", "sudo chmod 600"],
    ),
    row(
        "daemon --statedir /var/lib/full/state --socket /run/other.sock --tun userspace-networking",
        1,
        &["the disk holding /var/lib/full", "0 bytes free"],
    ),
    row(
        "daemon --statedir /var/lib/other --socket /run/other.sock --port 0",
        1,
        &["the kernel offers no TUN device.", "--tun=userspace-networking"],
    ),
];
