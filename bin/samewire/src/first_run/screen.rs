//! What `up` on the first machine, `invite` and `join` show (ux.md §2.1 to §2.3).

use super::qr;
use super::reach::{Reach, url_host};
use serde::{Deserialize, Serialize};
use std::fmt::Write as _;
use sw_control::Invitation;
use sw_types::local::Problem;

/// What the terminal can show.
#[derive(Clone, Copy, Debug)]
pub struct Look {
    pub color: bool,
    pub unicode: bool,
    pub columns: usize,
    pub is_terminal: bool,
}

/// The three marks in front of a finished step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mark {
    Done,
    Caution,
    /// Not done, and that is all right.
    Left,
}

/// One finished step, with what stands under it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    pub mark: Mark,
    pub label: &'static str,
    pub text: String,
    /// Further lines, indented by six.
    pub under: Vec<String>,
}

impl Step {
    /// A step that went well.
    pub fn done(label: &'static str, text: impl Into<String>) -> Self {
        Self { mark: Mark::Done, label, text: text.into(), under: Vec::new() }
    }

    /// The line, and the lines under it.
    pub fn show(&self, look: Look) -> String {
        let (word, color) = match (self.mark, look.unicode) {
            (Mark::Done, true) => ("✓", 32),
            (Mark::Done, false) => ("ok", 32),
            (Mark::Caution, _) => ("!", 33),
            (Mark::Left, _) => ("-", 2),
        };
        let mark = if look.color { format!("\x1b[{color}m{word}\x1b[0m") } else { word.to_owned() };
        let mut out = format!("  {mark} {:<20}{}\n", self.label, self.text);
        for line in &self.under {
            writeln!(out, "      {line}").expect("writing to a string cannot fail");
        }
        out
    }

    /// The same for `--dry-run`.
    pub fn would(mut self) -> Self {
        self.text = format!("would: {}", self.text);
        self
    }
}

/// How the certificate came about.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Certificate {
    /// A public one for this name or address; it renews by itself.
    Public(String),
    /// Our own, pinned: nobody outside needs to trust it.
    Pinned,
    /// A public one was wanted and not to be had: why, and the one thing to do.
    Failed { why: String, fix: String },
}

/// How it starts again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Service {
    Systemd,
    NoRoot,
    NoManager,
    /// `--foreground`.
    Foreground,
}

/// The line "Reachable".
pub fn reachable(reach: &Reach, checked_from_outside: bool, port_443_holder: Option<&str>) -> Step {
    let taken = |port: u16| match port_443_holder {
        Some(holder) if port != 443 => format!(" (443 belongs to {holder})"),
        _ => String::new(),
    };
    let checked = if checked_from_outside { ", checked from outside" } else { "" };
    let done = |text: String| Step::done("Reachable", text);
    match reach {
        Reach::Domain { name, port } => done(format!("{name}, port {port}{}{checked}", taken(*port))),
        Reach::Public { address, port } => {
            done(format!("{}, port {port}{}{checked}", url_host(*address), taken(*port)))
        }
        Reach::Mapped { outside, by, .. } => done(format!(
            "{}, port {}, mapped by the router ({})",
            url_host(outside.ip()),
            outside.port(),
            by.word()
        )),
        Reach::LanBehindRouter { address, port, router } => Step {
            mark: Mark::Caution,
            label: "Reachable",
            text: format!("only in this LAN, {address}, port {port}{}", taken(*port)),
            under: vec![
                format!("why: the router at {router} maps no ports, and there is no IPv6"),
                format!("fix: forward TCP and UDP {port} to {address} in the router,"),
                "     then: samewire check".into(),
            ],
        },
        Reach::Lan { address, port } => done(format!("in this LAN, {address}, port {port}{}", taken(*port))),
        Reach::Nowhere { port } => Step {
            mark: Mark::Caution,
            label: "Reachable",
            text: format!("only on this machine, port {port}"),
            under: vec![
                "why: no network link has an address".into(),
                "fix: connect a network, then: samewire check".into(),
            ],
        },
    }
}

/// What `check` says where the router has something else to say than at the start.
pub fn changed_reach(now: &Reach) -> Step {
    let (host, port) = now.host_port();
    let text = match now {
        Reach::Mapped { by, .. } => format!("the router maps {host}, port {port}, by now ({})", by.word()),
        Reach::Domain { .. }
        | Reach::Public { .. }
        | Reach::LanBehindRouter { .. }
        | Reach::Lan { .. }
        | Reach::Nowhere { .. } => "the router maps the port no longer".to_owned(),
    };
    let under = vec!["fix: join lines follow with: sudo samewire up".into()];
    Step { mark: Mark::Caution, label: "Router", text, under }
}

/// The line "Reachable" of `check`: behind a closed router, what to say once the port is forwarded.
pub fn reachable_checked(reach: &Reach, checked_from_outside: bool, port_443_holder: Option<&str>) -> Step {
    let mut step = reachable(reach, checked_from_outside, port_443_holder);
    if matches!(reach, Reach::LanBehindRouter { .. })
        && let Some(then) = step.under.last_mut()
    {
        *then = "     then say at which address: sudo samewire up --domain ADDRESS".into();
    }
    step
}

/// The line "Certificate".
pub fn certificate(certificate: &Certificate) -> Step {
    match certificate {
        Certificate::Public(name) => Step::done("Certificate", format!("for {name}, renews by itself")),
        Certificate::Pinned => Step {
            mark: Mark::Left,
            label: "Certificate",
            text: "none needed here: samewire machines pin the server's key".into(),
            under: Vec::new(),
        },
        Certificate::Failed { why, fix } => Step {
            mark: Mark::Caution,
            label: "Certificate",
            text: why.clone(),
            under: vec![format!("fix: {fix}; it tries again by itself")],
        },
    }
}

/// The line "This machine".
pub fn this_machine(name: &str, addresses: &[String], is_root: bool, has_proxy: bool) -> Step {
    let text = format!("{name}, {}", addresses.join(", "));
    match (is_root, has_proxy) {
        (true, _) => Step::done("This machine", text),
        (false, false) => Step::done("This machine", format!("{text}, without root")),
        (false, true) => Step {
            under: vec![format!("                  proxy at {} (SOCKS5 and HTTP)", super::background::PROXY)],
            ..Step::done("This machine", format!("{text}, without root: programs use the"))
        },
    }
}

/// The line "Starts at boot".
pub fn service(service: &Service) -> Step {
    let left = |text: &str, under: Vec<String>| Step {
        mark: Mark::Left,
        label: "Starts at boot",
        text: text.into(),
        under,
    };
    match service {
        Service::Systemd => Step::done("Starts at boot", "as the service samewire"),
        Service::NoRoot => left("no. With root it could: sudo samewire up", Vec::new()),
        Service::NoManager => left(
            "no service manager found; add to your start-up:",
            vec!["                  samewire daemon".into()],
        ),
        Service::Foreground => left("no, it runs here until Ctrl-C", Vec::new()),
    }
}

/// The JSON of `up --json` on the first machine.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct FirstRun {
    pub network: String,
    pub machine: String,
    pub addresses: Vec<String>,
    pub reachable: Reachable,
    pub certificate: CertificateKind,
    /// What is wrong with the way in, if anything.
    pub problems: Vec<Problem>,
    #[serde(flatten)]
    pub invite: Invitation,
    pub admin_url: String,
    pub service: &'static str,
}

/// `reachable` of the JSON form.
#[derive(Clone, Debug, Serialize)]
pub struct Reachable {
    pub how: &'static str,
    pub address: String,
    pub port: u16,
    pub proved: Proved,
}

/// What somebody outside has proved.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct Proved {
    pub tcp: bool,
    pub udp: bool,
}

/// `certificate` of the JSON form.
#[derive(Clone, Debug, Serialize)]
pub struct CertificateKind {
    pub kind: &'static str,
}

impl Service {
    /// The word of `service` in JSON.
    pub fn word(&self) -> &'static str {
        match self {
            Self::Systemd => "systemd",
            Self::NoRoot | Self::NoManager => "none",
            Self::Foreground => "foreground",
        }
    }
}

impl Certificate {
    /// The word of `certificate.kind` in JSON.
    pub fn word(&self) -> &'static str {
        match self {
            Self::Public(_) => "public",
            Self::Pinned | Self::Failed { .. } => "pinned",
        }
    }
}

/// The three things of the first machine, for standard output.
pub fn three_things(run: &FirstRun, until: &str, ready_s: f64, look: Look) -> String {
    let invite = &run.invite;
    let mut out = format!(
        "\n  {}: paste this line there. It works {} times, until {until}.\n\n{}\n\n",
        bold("Add a machine", look),
        invite.uses,
        invite.join_line
    );
    out.push_str(&phone_block(&invite.join_url, look));
    write!(
        out,
        "\n  {}: open this once, within the hour.\n\n{}\n\n  {}\n",
        bold("Manage everything", look),
        run.admin_url,
        dim(&format!("Ready in {ready_s:.1} s. See who is here: samewire status"), look)
    )
    .expect("writing to a string cannot fail");
    out
}

const BESIDE: [&str; 8] = [
    "",
    "It opens a page with two taps to do",
    "and a button that copies the address.",
    "",
    "Works with the Tailscale app on",
    "iPhone, iPad and Android.",
    "",
    "Other ways: samewire invite",
];

/// The code with the text beside it (80 columns or more) or under it; without a terminal the URL alone.
fn phone_block(join_url: &str, look: Look) -> String {
    let mut out = format!("  {}: point its camera here.\n\n", bold("Add a phone", look));
    let code = qr::lines(join_url, look.color).filter(|_| look.is_terminal && look.unicode);
    let width = qr::lines(join_url, false).map_or(usize::MAX, |lines| lines[0].chars().count());
    match code {
        Some(code) if look.columns >= width + 2 => {
            let is_wide = look.columns >= 80;
            for (row, line) in code.iter().enumerate() {
                let beside =
                    if is_wide { BESIDE.get(row.wrapping_sub(3)).copied().unwrap_or_default() } else { "" };
                let text = format!("  {line}   {beside}");
                out.push_str(text.trim_end());
                out.push('\n');
            }
        }
        _ => {
            out.push_str(join_url);
            out.push('\n');
        }
    }
    out
}

/// The screen of `samewire invite`.
pub fn invite_screen(
    invite: &Invitation,
    network: &str,
    for_whom: Option<&str>,
    until: &str,
    look: Look,
) -> String {
    let whom = for_whom.map_or_else(|| "for anyone you give it to".to_owned(), |name| format!("for {name}"));
    let times = if invite.uses == 1 { "Once".to_owned() } else { format!("{} times", invite.uses) };
    let mut out = format!("  Invite to {network}, {whom}. {times}, until {until}.\n\n");
    write!(
        out,
        "  Linux\n{}\n\n  Has samewire already\nsamewire join {}\n\n  Has the Tailscale app already (Linux, macOS, Windows)\n{}\n\n",
        invite.join_line, invite.join_string, invite.official_up
    )
    .expect("writing to a string cannot fail");
    out.push_str(&phone_block(&invite.join_url, look).replace("Add a phone", "Phone or tablet"));
    writeln!(out, "\n  Take it back: samewire invite revoke {}", invite.invite_id)
        .expect("writing to a string cannot fail");
    out
}

fn bold(text: &str, look: Look) -> String {
    if look.color { format!("\x1b[1m{text}\x1b[0m") } else { text.to_owned() }
}

fn dim(text: &str, look: Look) -> String {
    if look.color { format!("\x1b[2m{text}\x1b[0m") } else { text.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLAIN: Look = Look { color: false, unicode: true, columns: 80, is_terminal: true };

    fn sample() -> FirstRun {
        FirstRun {
            network: "home.internal".into(),
            machine: "birch".into(),
            addresses: vec!["100.84.12.1".into()],
            reachable: Reachable {
                how: "public",
                address: "203.0.113.7".into(),
                port: 443,
                proved: Proved::default(),
            },
            certificate: CertificateKind { kind: "public" },
            problems: Vec::new(),
            invite: Invitation {
                login_server: "https://203.0.113.7".into(),
                invite_id: "A8DyxF".into(),
                join_url: "https://203.0.113.7/j/7QmX2vKd9sT4bN8cLw5eRy".into(),
                join_line: "curl -fsSL https://203.0.113.7/j/7QmX2vKd9sT4bN8cLw5eRy | sudo sh".into(),
                join_string: "sw1.abc".into(),
                expires: "2026-11-22T15:12:00Z".into(),
                uses: 10,
                official_up: "tailscale up --login-server=https://203.0.113.7 --auth-key=swkey-A8DyxF-x"
                    .into(),
            },
            admin_url: "https://203.0.113.7/admin/4tYw8PzR2mLc6HsDq9XfBn".into(),
            service: "systemd",
        }
    }

    #[test]
    fn steps_stand_in_their_columns() {
        let reach = Reach::LanBehindRouter {
            address: "192.168.8.10".parse().expect("an address"),
            port: 443,
            router: "192.168.8.1".parse().expect("an address"),
        };
        assert_eq!(
            reachable(&reach, false, None).show(PLAIN),
            "  ! Reachable           only in this LAN, 192.168.8.10, port 443\n      why: the router at 192.168.8.1 maps no ports, and there is no IPv6\n      fix: forward TCP and UDP 443 to 192.168.8.10 in the router,\n           then: samewire check\n"
        );
        let step = Step::done("New network", "home.internal, its keys stay on this machine");
        assert_eq!(
            step.show(PLAIN),
            "  ✓ New network         home.internal, its keys stay on this machine\n"
        );
        let ascii = Look { unicode: false, ..PLAIN };
        assert!(step.show(ascii).is_ascii());
    }

    #[test]
    fn what_is_pasted_stands_alone_on_its_line_and_the_rest_fits() {
        let text = three_things(&sample(), "15:12", 3.8, PLAIN);
        let lines: Vec<&str> = text.lines().collect();
        assert!(lines.contains(&"curl -fsSL https://203.0.113.7/j/7QmX2vKd9sT4bN8cLw5eRy | sudo sh"));
        assert!(lines.contains(&"https://203.0.113.7/admin/4tYw8PzR2mLc6HsDq9XfBn"));
        assert!(lines.iter().all(|line| line.chars().count() <= 80));
        assert!(text.contains("Works with the Tailscale app on"));
    }

    #[test]
    fn a_narrow_terminal_or_a_pipe_gets_no_code() {
        for look in [Look { columns: 30, ..PLAIN }, Look { is_terminal: false, ..PLAIN }] {
            assert!(!three_things(&sample(), "15:12", 3.8, look).contains('█'));
        }
    }

    #[test]
    fn the_json_has_the_fixed_keys() {
        let json = serde_json::to_value(sample()).expect("serialises");
        for key in ["joinLine", "joinString", "adminUrl", "loginServer", "officialUp", "inviteId", "joinUrl"]
        {
            assert!(json[key].is_string(), "{key}");
        }
        assert_eq!(json["reachable"]["proved"]["udp"], false);
    }
}
