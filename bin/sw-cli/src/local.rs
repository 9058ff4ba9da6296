//! Verbs that talk to the daemon on this machine (localapi-cli.md part B, ux.md §1 and §2).

mod client;
mod debug;
mod dns;
mod exit_node;
mod explain;
mod file;
mod flags;
mod fold;
mod help;
mod ip;
mod netcheck;
mod ping;
mod prefs;
mod profiles;
mod serve;
mod simple;
mod status;
pub mod table;
mod terminal;
mod up;
mod whois;

use std::ffi::OsString;
use std::fmt::Display;
use std::io::{self, IsTerminal, Write as _};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::OnceLock;

use clap::{Args, Subcommand};
use sw_types::local::{Problem, Status};
use sw_types::problem::{Severity, Slug, quoted};

pub use self::client::{Client, Response};
pub use self::explain::{CheckArgs, ServerCheck};
pub use self::flags::normalize;
pub use self::terminal::{ColorChoice, Style, Terminal, age, delay, nearest, parse_duration};
pub use self::up::{FirstFlags, Progress, UpArgs};

/// Options of every verb.
#[derive(Args, Clone, Debug, Default)]
pub struct Globals {
    /// Talk to the daemon at this socket
    #[arg(long, global = true, value_name = "PATH", display_order = 900)]
    pub socket: Option<PathBuf>,
    /// When to colour
    #[arg(
        long,
        global = true,
        display_order = 901,
        value_enum,
        default_value_t,
        value_name = "WHEN",
        hide_possible_values = true
    )]
    pub color: ColorChoice,
    /// Print the stable lines that programs read, also on a terminal
    #[arg(long, global = true, conflicts_with = "pretty", hide = true)]
    pub plain: bool,
    /// Print the screens for people, also into a pipe
    #[arg(long, global = true, hide = true)]
    pub pretty: bool,
    /// Print only what was asked for
    #[arg(long, global = true, hide = true)]
    pub quiet: bool,
}

/// The verbs.
#[derive(Clone, Debug, Subcommand)]
pub enum Verb {
    /// Start a network on this machine, or connect it again, with these settings
    Up(up::UpArgs),
    /// Disconnect this machine; it stays in its network
    Down(simple::DownArgs),
    /// Change settings; only those named change
    Set(prefs::SetArgs),
    /// Show settings
    Get(prefs::GetArgs),
    /// Sign in, to a further network too
    Login(up::LoginArgs),
    /// Sign out of the network; the machine's key is given up
    Logout(simple::LogoutArgs),
    /// Change to another network or person
    Switch(profiles::SwitchArgs),
    /// Show the machines of the network and the paths to them
    Status(status::StatusArgs),
    /// Ask a machine for an answer, and how it travels
    Ping(ping::PingArgs),
    /// Show addresses
    Ip(ip::IpArgs),
    /// Show whose machine has an address
    Whois(whois::WhoisArgs),
    /// Show who this machine is
    Whoami(whois::WhoamiArgs),
    /// Examine the network this machine is in
    Netcheck(netcheck::NetcheckArgs),
    /// Show whether and how a machine is reached, and what would help
    Explain(explain::ExplainArgs),
    /// Examine this machine's setup
    Check(explain::CheckArgs),
    /// List the machines that carry Internet traffic for others
    ExitNode(exit_node::ExitNodeArgs),
    /// Send files to a machine, fetch those that came
    File(file::FileArgs),
    /// Give the network a program, a folder or a text of this machine under its name
    Serve(serve::ServeArgs),
    /// Show how names are resolved, or ask for one
    Dns(dns::DnsArgs),
    /// Connect to a port of a machine, with standard input and output
    Nc(simple::NcArgs),
    /// Wait until the machine is connected
    Wait(simple::WaitArgs),
    /// Print the version
    Version(simple::VersionArgs),
    /// Print the daemon's counters
    Metrics(simple::MetricsArgs),
    /// Print a marker that names this moment in the daemon's log
    Bugreport(simple::BugreportArgs),
    /// Look inside the daemon
    Debug(debug::DebugArgs),
    /// Print a completion script for a shell
    Completion(help::CompletionArgs),
    /// Show the manual's page on a word or a message
    Help(help::HelpArgs),
}

/// What ends a command before its time.
#[derive(Debug)]
pub enum Failure {
    /// Shown to the user; the exit code is that of its slug.
    Problem(Box<Problem>),
    /// As [`Self::Problem`], with an exit code of its own.
    Coded(Box<Problem>, u8),
    /// Everything was said.
    Exit(u8),
}

impl From<Problem> for Failure {
    fn from(problem: Problem) -> Self {
        Self::Problem(Box::new(problem))
    }
}

/// How a verb ends.
pub type Outcome = Result<(), Failure>;

/// What every verb has at hand.
#[derive(Clone, Debug)]
pub struct Context {
    pub client: Client,
    pub terminal: Terminal,
    /// Called as `tailscale`: official texts and codes.
    pub is_official: bool,
    pub quiet: bool,
}

impl Context {
    /// Takes the options of the command line.
    pub fn new(globals: &Globals, is_official: bool) -> Self {
        let pretty = match (globals.pretty, globals.plain, is_official) {
            (true, _, _) => Some(true),
            (false, true, _) | (false, false, true) => Some(false),
            (false, false, false) => None,
        };
        Self {
            client: Client::new(globals.socket.as_deref(), is_official),
            terminal: Terminal::detect(globals.color, pretty),
            is_official,
            quiet: globals.quiet,
        }
    }

    /// Fetches the status, with the peers.
    pub fn status(&self) -> Result<Status, Problem> {
        self.client.get("/localapi/v0/status")
    }

    /// After coming up: what is worth knowing of this machine, on standard error.
    pub fn tell_notices(&self, status: &Status) {
        for notice in status.notices.iter().filter(|_| !self.quiet && !self.is_official) {
            warn(render(notice, &self.terminal).trim_end());
        }
    }

    /// Prints what is true now, for people who did not ask for quiet.
    pub fn done(&self, text: impl Display) -> Outcome {
        if self.quiet || self.is_official { Ok(()) } else { say(text) }
    }
}

/// Runs a verb and returns the process's exit code. `command` is the whole command line's definition.
pub fn run(verb: Verb, globals: &Globals, is_official: bool, command: clap::Command) -> ExitCode {
    let context = Context::new(globals, is_official);
    let wants_json = verb.wants_json();
    finish(dispatch(verb, &context, command), &context, wants_json)
}

/// Reports a failure in the form that was asked for, and returns the exit code.
pub fn finish(outcome: Outcome, context: &Context, wants_json: bool) -> ExitCode {
    let (problem, code) = match outcome {
        Ok(()) => return ExitCode::SUCCESS,
        Err(Failure::Exit(code)) => return ExitCode::from(code),
        Err(Failure::Problem(problem)) => {
            let code = problem.exit_code();
            (problem, code)
        }
        Err(Failure::Coded(problem, code)) => (problem, code),
    };
    if wants_json && !context.is_official {
        let json = serde_json::json!({ "error": &*problem });
        warn(json);
    } else {
        warn(render(&problem, &context.terminal).trim_end());
    }
    // Called as tailscale: 0 and 1 only.
    ExitCode::from(if context.is_official { code.min(1) } else { code })
}

fn render(problem: &Problem, terminal: &Terminal) -> String {
    let text = problem.render();
    let severity = problem.known_slug().map_or(Severity::Error, Slug::severity);
    let style = match severity {
        Severity::Error => Style::Bad,
        Severity::Warning => Style::Caution,
        Severity::Note => Style::Bold,
    };
    let has_color = terminal.has_color && io::IsTerminal::is_terminal(&io::stderr());
    match text.strip_prefix(severity.word()) {
        Some(rest) if has_color => format!("{}{rest}", terminal.paint(style, severity.word())),
        Some(_) | None => text,
    }
}

fn dispatch(verb: Verb, context: &Context, command: clap::Command) -> Outcome {
    match verb {
        Verb::Up(args) => up::up(context, &args),
        Verb::Down(args) => simple::down(context, &args),
        Verb::Set(args) => prefs::set(context, &args),
        Verb::Get(args) => prefs::get(context, &args),
        Verb::Login(args) => up::login(context, &args),
        Verb::Logout(args) => simple::logout(context, &args),
        Verb::Switch(args) => profiles::switch(context, &args),
        Verb::Status(args) => status::status(context, &args),
        Verb::Ping(args) => ping::ping(context, &args),
        Verb::Ip(args) => ip::ip(context, &args),
        Verb::Whois(args) => whois::whois(context, &args),
        Verb::Whoami(args) => whois::whoami(context, &args),
        Verb::Netcheck(args) => netcheck::netcheck(context, &args),
        Verb::Explain(args) => explain::explain(context, &args),
        Verb::Check(args) => explain::check(context, &args),
        Verb::ExitNode(args) => exit_node::exit_node(context, &args),
        Verb::File(args) => file::file(context, &args),
        Verb::Serve(args) => serve::serve(context, &args),
        Verb::Dns(args) => dns::dns(context, &args),
        Verb::Nc(args) => simple::nc(context, &args),
        Verb::Wait(args) => simple::wait(context, &args),
        Verb::Version(args) => simple::version(context, &args),
        Verb::Metrics(args) => simple::metrics(context, &args),
        Verb::Bugreport(args) => simple::bugreport(context, &args),
        Verb::Debug(args) => debug::debug(context, &args),
        Verb::Completion(args) => help::completion(&args, command),
        Verb::Help(args) => help::help(context, &args, command),
    }
}

impl Verb {
    fn wants_json(&self) -> bool {
        match self {
            Self::Up(args) => args.json,
            Self::Get(args) => args.json,
            Self::Switch(args) => args.json,
            Self::Status(args) => args.json,
            Self::Ping(args) => args.json,
            Self::Whois(args) => args.json,
            Self::Whoami(args) => args.json,
            Self::Netcheck(args) => args.format.starts_with("json"),
            Self::Explain(args) => args.json,
            Self::Check(args) => args.json,
            Self::Serve(args) => args.json,
            Self::Dns(args) => args.wants_json(),
            Self::Version(args) => args.json,
            Self::Down(_)
            | Self::Set(_)
            | Self::Login(_)
            | Self::Logout(_)
            | Self::Ip(_)
            | Self::ExitNode(_)
            | Self::File(_)
            | Self::Nc(_)
            | Self::Wait(_)
            | Self::Metrics(_)
            | Self::Bugreport(_)
            | Self::Debug(_)
            | Self::Completion(_)
            | Self::Help(_) => false,
        }
    }
}

/// Whether this program was called by an official name; and the daemon's, if it was that.
pub fn called_as(arguments: &[OsString]) -> CalledAs {
    let name = arguments
        .first()
        .map(|path| PathBuf::from(path).file_name().unwrap_or_default().to_string_lossy().into_owned())
        .unwrap_or_default();
    match name.as_str() {
        "tailscale" => CalledAs::Tailscale,
        "tailscaled" => CalledAs::Tailscaled,
        _ => CalledAs::Samewire,
    }
}

/// The names of the program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CalledAs {
    Samewire,
    Tailscale,
    Tailscaled,
}

/// The width at which lines are folded: set once, when the program starts for people at a terminal.
static COLUMNS: OnceLock<usize> = OnceLock::new();

/// Says at the start of the program who reads: people get lines that fit their terminal, programs and those who called
/// it by an official name get them whole.
pub fn begin(globals: &Globals, is_official: bool) {
    let terminal = Context::new(globals, is_official).terminal;
    if !is_official && !globals.plain {
        COLUMNS.get_or_init(|| terminal.columns);
    }
}

/// The width of a terminal at which people read this stream; none where nothing may be folded or cut.
pub(crate) fn columns_of(stream: &impl IsTerminal) -> Option<usize> {
    COLUMNS.get().copied().filter(|_| stream.is_terminal())
}

/// Prints an answer on standard output, folded for people.
pub fn say(text: impl Display) -> Outcome {
    let text = text.to_string();
    let shown = columns_of(&io::stdout()).map_or_else(|| text.clone(), |columns| fold::fold(&text, columns));
    print_bytes(format!("{shown}\n").as_bytes())
}

/// Prints bytes on standard output; a reader that went away ends the command silently.
pub fn print_bytes(bytes: &[u8]) -> Outcome {
    let mut stdout = io::stdout().lock();
    stdout.write_all(bytes).and_then(|()| stdout.flush()).map_err(|_| Failure::Exit(141))
}

/// Prints a message on standard error, folded for people.
pub fn warn(text: impl Display) {
    let text = text.to_string();
    let shown = columns_of(&io::stderr()).map_or_else(|| text.clone(), |columns| fold::fold(&text, columns));
    // Nobody is left to tell when standard error is closed.
    let _closed = writeln!(io::stderr().lock(), "{shown}");
}

/// Prints an object indented by two blanks.
pub fn say_json(value: &impl serde::Serialize) -> Outcome {
    let text =
        serde_json::to_string_pretty(value).map_err(|error| Problem::other(error.to_string(), "", ""))?;
    print_bytes(format!("{text}\n").as_bytes())
}

/// A command line that was wrong: nothing was tried.
pub fn misuse(what: impl Into<String>, fix: impl Into<String>) -> Failure {
    Problem::misuse(what, fix).into()
}

/// The user's own limit ran out (ux.md §1.3).
pub(crate) fn timed_out(why: impl Into<String>, fix: &str) -> Failure {
    let problem = Problem::other("the time ran out before the machine was up.", why, fix);
    Failure::Coded(Box::new(problem), 8)
}

/// What keeps this machine from its network; `None` when nothing does.
pub fn not_connected(status: &Status) -> Option<Problem> {
    let name = || status.self_node.as_ref().map(|node| node.host_name.clone()).unwrap_or_default();
    let told = status.health.first().cloned().unwrap_or_default();
    Some(match status.backend_state.as_str() {
        "Running" => return None,
        "Stopped" => {
            Problem::other("this machine is disconnected.", "it was disconnected by hand", "samewire up")
        }
        "NeedsLogin" if has_expired(status) => key_expired(status, &name()),
        "NeedsLogin" if !status.auth_url.is_empty() => Problem {
            fix: format!("open {}", status.auth_url),
            ..Slug::LoginNeeded.problem(&[("reason", "the server waits for a person to sign in")])
        },
        // Whoever has been in a network, or has tried to get into one, knows it by now.
        "NeedsLogin" if status.have_node_key || !told.is_empty() => {
            Slug::LoginNeeded.problem(&[("reason", told.trim_end_matches('.'))])
        }
        "NeedsLogin" => Slug::NotSetUp.problem(&[("dir", "")]),
        "NeedsMachineAuth" => {
            Slug::WaitingApproval.problem(&[("name", &name()), ("url", "the server's page Machines")])
        }
        "Starting" if told.is_empty() => Problem::other(
            "this machine is not connected yet.",
            "the server has not answered so far",
            "wait: it goes on trying by itself; samewire status says how it stands",
        ),
        "Starting" => Problem::other(
            "this machine is not connected yet.",
            told.trim_end_matches('.'),
            "check from here: samewire netcheck",
        ),
        other => {
            Problem::other("this machine is not connected.", format!("its state is {other}"), "samewire up")
        }
    })
}

/// Whether this machine's own key has come to its end.
fn has_expired(status: &Status) -> bool {
    let own = status.self_node.as_ref();
    own.is_some_and(|node| node.expired || node.key_expiry.is_some_and(|end| end <= self::status::now()))
}

fn key_expired(status: &Status, name: &str) -> Problem {
    let end = status.self_node.as_ref().and_then(|node| node.key_expiry);
    let age = end.map(|end| terminal::age(self::status::now().saturating_since(end))).unwrap_or_default();
    let reason = end.map(|end| format!("it was good until {end}")).unwrap_or_default();
    let problem = Slug::KeyExpired.problem(&[("age", &age), ("reason", &reason), ("name", name)]);
    match status.auth_url.as_str() {
        "" => problem,
        // The sign-in is under way already.
        url => Problem { fix: format!("open {url}; open connections stay up"), ..problem },
    }
}

/// The machine that a user's words name: an address, a full or a short name.
pub fn find_machine(status: &Status, words: &str) -> Result<Machine, Problem> {
    let wanted = words.trim_end_matches('.').to_ascii_lowercase();
    let own = status.self_node.iter().map(|node| (node, true));
    let peers = status.peer.iter().flat_map(|peers| peers.values()).map(|node| (node, false));
    let mut matches = Vec::new();
    let mut names = Vec::new();
    for (node, is_self) in own.chain(peers) {
        let dns_name = node.dns_name.trim_end_matches('.').to_ascii_lowercase();
        let base = dns_name.split('.').next().unwrap_or_default().to_owned();
        let has_address =
            |addresses: &[std::net::IpAddr]| addresses.iter().any(|ip| ip.to_string() == wanted);
        let is_exact = dns_name == wanted || node.tailscale_ips.as_deref().is_some_and(has_address);
        let machine = Machine {
            name: if base.is_empty() { node.host_name.clone() } else { base.clone() },
            addresses: node.tailscale_ips.clone().unwrap_or_default(),
            is_self,
        };
        if is_exact {
            return Ok(machine);
        }
        if base == wanted || (!wanted.is_empty() && node.host_name.to_ascii_lowercase() == wanted) {
            matches.push(machine.clone());
        }
        names.push(machine.name);
    }
    match matches.len() {
        1 => Ok(matches.remove(0)),
        0 => {
            let suggestion = nearest(&wanted, names.iter().map(String::as_str))
                .map(|name| format!("did you mean {name}? "))
                .unwrap_or_default();
            let machines = match names.len().saturating_sub(1) {
                1 => "1 machine is".to_owned(),
                count => format!("{count} machines are"),
            };
            Err(Slug::NoSuchMachine.problem(&[
                ("name", &quoted(words)),
                ("machines", &machines),
                ("suggestion", &suggestion),
            ]))
        }
        count => {
            let list: Vec<_> = matches.iter().map(|machine| machine.name.as_str()).collect();
            Err(Slug::NameAmbiguous.problem(&[
                ("name", &quoted(words)),
                ("n", &count.to_string()),
                ("list", &list.join(", ")),
            ]))
        }
    }
}

/// A machine of the network as far as a command needs it.
#[derive(Clone, Debug)]
pub struct Machine {
    pub name: String,
    pub addresses: Vec<std::net::IpAddr>,
    pub is_self: bool,
}
