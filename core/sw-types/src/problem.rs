//! What users read when something went wrong: one sentence, one reason, one next step (ux.md §1).
//!
//! The table below is the only place where these sentences stand; command line, page, API and health texts all
//! take them from here.

use std::fmt::Write as _;
use std::time::Duration;

use crate::local::Problem;

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Severity {
    /// It did not happen.
    Error,
    /// It happened, but.
    Warning,
    /// Worth knowing.
    Note,
}

impl Severity {
    /// The word at the head of the message.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Warning => "warning",
            Self::Note => "note",
        }
    }
}

/// The slug of a command line that was wrong.
const MISUSE: &str = "misuse";

/// One row of the table.
struct Row {
    name: &'static str,
    severity: Severity,
    exit: u8,
    what: &'static str,
    why: &'static str,
    fix: &'static str,
}

/// Declares the slugs and their texts; `{x}` is filled in by [`Slug::problem`].
macro_rules! slugs {
    ($($variant:ident $name:literal $severity:ident $exit:literal $what:literal $why:literal $fix:literal)*) => {
        /// The stable name of a message; `samewire help NAME` prints its page.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Slug { $($variant),* }

        impl Slug {
            /// All of them, in the order of ux.md §1.2.
            pub const ALL: &[Self] = &[$(Self::$variant),*];

            const fn row(self) -> Row {
                match self {
                    $(Self::$variant => Row {
                        name: $name, severity: Severity::$severity, exit: $exit, what: $what, why: $why, fix: $fix,
                    }),*
                }
            }
        }
    };
}

slugs! {
    DaemonNotRunning "daemon-not-running" Error 3
        "samewire is not running on this machine."
        "nothing answers at {socket}"
        "sudo systemctl start samewire"
    NotSetUp "not-set-up" Error 3
        "this machine is in no network yet."
        "there is no state in {dir}"
        "paste the join line from another machine, or start a new network: sudo samewire up"
    NoPermission "no-permission" Error 4
        "changing settings needs root or the operator's rights."
        "you are {user}; the operator is {operator}"
        "sudo samewire {words}, or once: sudo samewire set --operator={user}"
    NoTun "no-tun" Error 1
        "the kernel offers no TUN device."
        "/dev/net/tun does not exist"
        "sudo modprobe tun, or run without it: samewire up --tun=userspace-networking"
    TunNameTaken "tun-name-taken" Error 1
        "the interface name {tun} is in use."
        "another program ({holder}) holds it"
        "samewire up --tun=samewire1"
    PortTaken "port-taken" Warning 0
        "port {wanted} is taken, so samewire uses {port}."
        "{holder} listens on {wanted}"
        "nothing to do; join lines and the relay map already say {port}"
    PortTakenFixed "port-taken-fixed" Error 1
        "port {port} is taken."
        "{holder} listens on it, and --port asked for exactly this one"
        "stop that program, or leave --port out"
    ServerUnreachable "server-unreachable" Error 5
        "the server {host} does not answer."
        "tried {tried}: {error}"
        "check from here: samewire netcheck"
    ServerNameUnknown "server-name-unknown" Error 5
        "the name {host} does not resolve."
        "the resolver answers \"no such name\""
        "check the spelling, or use the server's address"
    ServerNotOurs "server-not-ours" Error 5
        "{host} answers, but it is not a samewire or Tailscale-compatible server."
        "GET /key?v={capver} gave {answer}"
        "check the address; the join line from the first machine is always right"
    ServerKeyChanged "server-key-changed" Error 7
        "{host} is not the server this machine joined."
        "its key is {new}, the pinned one is {old}"
        "if it was moved without a backup: samewire join a new invite; otherwise stay away from it"
    InviteExpired "invite-expired" Error 7
        "this invite has expired."
        "it was good until {time}; it is {now}"
        "on a machine in the network: samewire invite"
    InviteUsedUp "invite-used-up" Error 7
        "this invite has been used {n} of {n} times."
        "{last}"
        "on a machine in the network: samewire invite"
    InviteCut "invite-cut" Error 2
        "this invite is incomplete."
        "its check characters do not match; {len} characters arrived"
        "copy the whole line again"
    KeyRefused "key-refused" Error 7
        "the server refused this auth key."
        "{reason}"
        "make a new one: samewire invite --official"
    KeyExpired "key-expired" Error 6
        "this machine's key expired {age} ago, so others no longer accept it."
        "{reason}"
        "samewire login; open connections stay up. Or an admin: Machines, {name}, Extend"
    KeyExpiresSoon "key-expires-soon" Warning 0
        "this machine's key expires in {time}."
        "{reason}"
        "samewire login, any time before; nothing is interrupted"
    WaitingApproval "waiting-approval" Note 6
        "{name} waits for approval."
        "the network asks an admin before a new machine gets in"
        "an admin opens {url}. Ctrl-C is safe, the request stays"
    LoginNeeded "login-needed" Error 6
        "this machine is signed out."
        "{reason}"
        "samewire login"
    ClockWrong "clock-wrong" Warning 0
        "this machine's clock is {time} {direction}."
        "the server says {server}, this machine {own}"
        "sudo timedatectl set-ntp true. Certificates and key expiry cannot be trusted until then"
    UdpBlocked "udp-blocked" Warning 0
        "this network lets no UDP out, so everything is relayed over TCP."
        "{n} STUN servers asked over UDP, none answered; TCP 443 works"
        "let UDP out in its firewall; UDP {port} to {ip} alone already gives a faster relay"
    RelayHardNat "relay-hard-nat" Note 0
        "the path to {peer} is relayed."
        "both networks use a new port for every destination"
        "allow port mapping (UPnP or PCP) in either router, or use IPv6 on both"
    RelayTrying "relay-trying" Note 0
        "the path to {peer} is relayed; a direct one is being tried."
        "{n} of {m} addresses tried so far"
        "wait: up to 5 s; the packets already flow"
    CaptivePortal "captive-portal" Warning 0
        "this network wants a sign-in page first."
        "{url} answered in place of the test page"
        "open {url} in a browser"
    PolicyDenies "policy-denies" Error 1
        "the policy does not let {me} reach {peer} on port {port}."
        "{nearest}"
        "an admin opens Access and adds a rule; samewire explain {peer}:{port} shows what to add"
    NoSuchMachine "no-such-machine" Error 1
        "no machine is called {name}."
        "{machines} visible from here"
        "{suggestion}samewire status lists all"
    NameAmbiguous "name-ambiguous" Error 2
        "{name} fits {n} machines: {list}."
        ""
        "use the full name"
    PeerOffline "peer-offline" Error 1
        "{peer} is offline."
        "its last sign of life was {age} ago"
        "switch it on; nothing needs to be done here"
    PeerKeyExpired "peer-key-expired" Error 1
        "{peer} may not talk until it signs in again."
        "its key expired {date}"
        "on {peer}: samewire login (or its Tailscale app: Log in)"
    NameNotResolved "name-not-resolved" Warning 0
        "names of this network do not resolve on this machine."
        "{reason}; the names work at 100.100.100.100"
        "samewire dns repair"
    SecondNetwork "second-network" Error 2
        "this machine is already in the network {network}."
        "state in {dir}, joined {date}"
        "to see it: samewire status. To leave it first: samewire leave"
    NetworkNearby "network-nearby" Warning 2
        "another samewire network is near: {network}, on {name} ({ip})."
        "it answered on this LAN"
        "to join it: on {name} run samewire invite. To start a second one all the same: samewire up --new-network"
    DiskFull "disk-full" Error 1
        "the disk holding {dir} is full, so nothing was changed."
        "{free} bytes free, {needed} needed"
        "free some space; samewire keeps running with what it has"
    StateDamaged "state-damaged" Error 1
        "the state file is damaged, so samewire did not start."
        "{file}: {reason}"
        "go back to the last daily copy; what is there now is kept beside it: sudo samewire restore --latest"
    UpdateAvailable "update-available" Note 0
        "samewire {new} is out; this is {own}."
        "{reason}"
        "sudo samewire update. It goes back by itself if the new one does not connect"
    ServerOlder "server-older" Warning 0
        "the server speaks an older protocol ({capver}) than this machine."
        "{feature} is off until it is updated"
        "on {server}: sudo samewire update"
    RouteOverlapsLan "route-overlaps-lan" Warning 0
        "the route {route} from {peer} is not used here."
        "this machine sits in a LAN with the same addresses"
        "samewire set --accept-route={route}@{peer}, or give that site other addresses: samewire help same-subnet"
    ForwardingOff "forwarding-off" Error 1
        "this machine cannot forward packets yet."
        "{setting} is 0"
        "sudo samewire set --advertise-routes={routes} --enable-forwarding"
    RouteNotAllowed "route-not-allowed" Note 0
        "{route} is offered but not allowed yet."
        "an admin must allow it, or an autoApprovers rule"
        "open {url}/machines/{name}"
    ExitDead "exit-dead" Warning 0
        "the exit node {name} does not answer, so there is no Internet from here."
        "last answer {age} ago; it is {state}"
        "samewire set --exit-node= (your own line), or another: samewire exit-node list"
    LoseSsh "lose-ssh" Warning 2
        "this would cut the connection you are typing on."
        "you came in by {ip}, over samewire"
        "use another way in, or go on: --accept-risk=lose-ssh"
    FirewallDrops "firewall-drops" Warning 0
        "this machine's firewall drops what comes from the network."
        "rule {rule} in {chain} counts {n} packets from {tun}"
        "sudo samewire firewall allow (adds one rule, marked samewire, to that chain; undone by samewire down)"
    MtuHole "mtu-hole" Warning 0
        "big packets to {peer} get lost; samewire now sends smaller ones."
        "packets over {size} bytes vanish between {a} and {b}"
        "nothing to do; the speed loss is under {n} %"
    NotReachableOutside "not-reachable-outside" Warning 0
        "machines outside this LAN cannot reach this server."
        "the router at {router} maps no ports and there is no public IPv6"
        "in the router, forward TCP and UDP port {port} to {ip}; then: samewire check"
    CertFailed "cert-failed" Warning 0
        "no public certificate, so samewire made its own and pins it."
        "{reason}"
        "open TCP 443 from outside; it tries again in {time} by itself. Phones need this"
    TooManyTries "too-many-tries" Error 7
        "the server asks to wait."
        "{reason}"
        "wait: it tries again by itself in {time}"
    NameTaken "name-taken" Note 0
        "this machine is called {name}."
        "{wanted} is taken by a machine of {owner}"
        "to choose another: samewire set --hostname=NAME"
    OtherClient "other-client" Warning 0
        "tailscaled also runs on this machine."
        "it owns {tun} and the routes of 100.64.0.0/10"
        "run one of them: sudo systemctl disable --now tailscaled"
    UnknownVerb "unknown-verb" Error 2
        "there is no command {verb}."
        ""
        "{suggestion}All commands: samewire help"
}

impl Slug {
    /// The stable name.
    pub const fn name(self) -> &'static str {
        self.row().name
    }

    /// How bad it is.
    pub const fn severity(self) -> Severity {
        self.row().severity
    }

    /// The exit code of a command that ends with it (ux.md §1.3).
    pub const fn exit_code(self) -> u8 {
        self.row().exit
    }

    /// Finds a slug by its name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|slug| slug.name() == name)
    }

    /// The texts with unfilled braces, for the manual.
    pub const fn template(self) -> (&'static str, &'static str, &'static str) {
        let row = self.row();
        (row.what, row.why, row.fix)
    }

    /// Fills in the texts. A reason one of whose values is empty is left out: nothing is guessed.
    pub fn problem(self, values: &[(&str, &str)]) -> Problem {
        let row = self.row();
        let has_reason =
            values.iter().all(|(key, value)| !value.is_empty() || !row.why.contains(&format!("{{{key}}}")));
        Problem {
            slug: row.name.to_owned(),
            what: fill(row.what, values),
            why: if has_reason { without_numbers(&fill(row.why, values)) } else { String::new() },
            fix: fill(row.fix, values),
        }
    }
}

/// Leaves out the numbers that Rust puts behind the system's own words: `(os error 2)`.
pub fn without_numbers(text: &str) -> String {
    let Some((before, rest)) = text.split_once(" (os error ") else { return text.to_owned() };
    let after = rest.split_once(')').map_or("", |(_, after)| after);
    format!("{before}{}", without_numbers(after))
}

fn fill(template: &str, values: &[(&str, &str)]) -> String {
    let mut text = template.to_owned();
    for (key, value) in values {
        text = text.replace(&format!("{{{key}}}"), value);
    }
    text
}

impl Problem {
    /// A problem without a page of its own: slug `other`.
    pub fn other(what: impl Into<String>, why: impl Into<String>, fix: impl Into<String>) -> Self {
        let (what, why) = (without_numbers(&what.into()), without_numbers(&why.into()));
        Self { slug: "other".to_owned(), what, why, fix: fix.into() }
    }

    /// A command line that was wrong: nothing was tried.
    pub fn misuse(what: impl Into<String>, fix: impl Into<String>) -> Self {
        Self { slug: MISUSE.to_owned(), ..Self::other(what, "", fix) }
    }

    /// The slug, if it is one of the table.
    pub fn known_slug(&self) -> Option<Slug> {
        Slug::from_name(&self.slug)
    }

    /// The exit code of a command that ends with this problem.
    pub fn exit_code(&self) -> u8 {
        let unlisted = if self.slug == MISUSE { 2 } else { 1 };
        self.known_slug().map_or(unlisted, Slug::exit_code)
    }

    /// One line for where no more can be shown: health texts of the official shape.
    pub fn sentence(&self) -> String {
        match (self.fix.strip_prefix("wait: "), self.fix.is_empty()) {
            (Some(wait), _) => format!("{} Wait: {wait}", self.what),
            (None, true) => self.what.clone(),
            (None, false) => format!("{} Fix: {}", self.what, self.fix),
        }
    }

    /// The three lines that are printed.
    pub fn render(&self) -> String {
        let severity = self.known_slug().map_or(Severity::Error, Slug::severity);
        let mut text = format!("{}: {}\n", severity.word(), self.what);
        if !self.why.is_empty() {
            let _infallible = writeln!(text, "  why: {}", without_numbers(&self.why));
        }
        if let Some(wait) = self.fix.strip_prefix("wait: ") {
            let _infallible = writeln!(text, " wait: {wait}");
        } else if !self.fix.is_empty() {
            let _infallible = writeln!(text, "  fix: {}", self.fix);
        }
        text
    }
}

/// A time span in its largest unit: `4 s`, `3 min`, `5 h`, `1 day`, `3 days`.
pub fn span(duration: Duration) -> String {
    match duration.as_secs() {
        seconds @ 0..60 => format!("{seconds} s"),
        seconds @ 60..3600 => format!("{} min", seconds / 60),
        seconds @ 3600..86_400 => format!("{} h", seconds / 3600),
        86_400..172_800 => "1 day".to_owned(),
        seconds => format!("{} days", seconds / 86_400),
    }
}

/// Repeats a user's own words: in double quotes, control characters and quotes escaped.
pub fn quoted(words: &str) -> String {
    let mut text = String::from("\"");
    for character in words.chars().take(256) {
        if character == '"' || character == '\\' {
            text.push('\\');
            text.push(character);
        } else if character.is_control() {
            text.extend(character.escape_default());
        } else {
            text.push(character);
        }
    }
    text.push('"');
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_worked_example_has_its_three_lines() {
        let problem = Slug::DaemonNotRunning.problem(&[("socket", "/run/samewire/samewire.sock")]);
        assert_eq!(
            problem.render(),
            "error: samewire is not running on this machine.\n  why: nothing answers at /run/samewire/samewire.sock\n  \
             fix: sudo systemctl start samewire\n"
        );
        assert_eq!(problem.exit_code(), 3);
    }

    #[test]
    fn a_reason_that_is_not_known_is_left_out() {
        assert_eq!(Slug::LoginNeeded.problem(&[("reason", "")]).why, "");
    }

    #[test]
    fn the_numbers_of_the_system_are_left_out() {
        let problem = Problem::other("x.", "a: No such file or directory (os error 2); b (os error 13)", "");
        assert_eq!(problem.why, "a: No such file or directory; b");
        assert_eq!(Problem::misuse("x.", "y").exit_code(), 2);
    }

    #[test]
    fn one_line_says_what_happened_and_what_to_do() {
        let values = [("time", "3 days"), ("reason", "")];
        let said = Slug::KeyExpiresSoon.problem(&values).sentence();
        assert_eq!(
            said,
            "this machine's key expires in 3 days. Fix: samewire login, any time before; nothing is interrupted"
        );
        let said = Slug::TooManyTries.problem(&[("reason", ""), ("time", "48 s")]).sentence();
        assert_eq!(said, "the server asks to wait. Wait: it tries again by itself in 48 s");
        assert_eq!(span(Duration::from_secs(90_000)), "1 day");
    }

    #[test]
    fn names_are_unique_and_found_again() {
        for slug in Slug::ALL {
            assert_eq!(Slug::from_name(slug.name()), Some(*slug));
        }
        assert_eq!(Slug::ALL.len(), 49);
    }

    #[test]
    fn users_words_cannot_forge_lines() {
        assert_eq!(quoted("a\nb\"c"), r#""a\nb\"c""#);
    }
}
