//! `samewire join`: from a join string to a machine of the network (ux.md §2.2).

use std::io::Read as _;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::Args;
use serde_json::json;
use sw_cli::local::{Client, Context, Globals, Progress, Response, delay, finish, say, warn};
use sw_daemon::Problem;
use sw_types::JoinString;
use sw_types::local::{BackendState, Notify, PeerStatus, PingResult, Status};
use sw_types::problem::Slug;

use super::background::{self, Paths, manner, start};
use super::interrupt::Interrupt;
use super::screen::{self, Look, Mark, Step};
use super::up::look;
use crate::network::NetworkPlan;

/// How long the registration may take; waiting for an admin's approval has no limit.
const REGISTER_LIMIT: Duration = Duration::from_secs(30);
/// How long a first answer is waited for.
const ANSWER_LIMIT: Duration = Duration::from_secs(8);

/// What Ctrl-C says once the daemon runs.
const STARTED: &str =
    "note: interrupted; samewire runs here, but this machine has not joined.\n  fix: paste the line again";
/// What Ctrl-C says while the daemon asks the server.
const UNKNOWN: &str =
    "note: interrupted while the server was asked.\n  fix: see whether this machine is in: samewire status";
/// The same once the server answered.
const GOES_ON: &str = "note: interrupted; this machine goes on joining by itself.\n  fix: see whether it is in: samewire status";

/// Flags of `join`.
#[derive(Args, Clone, Debug)]
pub struct JoinArgs {
    /// What `samewire up` or `samewire invite` printed, beginning with sw1. (- reads it from standard input)
    string: String,
    /// Name of this machine in the network
    #[arg(long, value_name = "NAME")]
    hostname: Option<String>,
    /// Name of the interface, or userspace-networking for none; kept for later starts
    #[arg(long, value_name = "NAME")]
    tun: Option<String>,
    /// Print JSON
    #[arg(long)]
    json: bool,
    /// The script of the join line has just put this program here, and checked it
    #[arg(long, hide = true)]
    downloaded: bool,
}

/// What the daemon says of the server it found.
#[derive(serde::Deserialize)]
#[serde(rename_all = "camelCase")]
struct Joining {
    login_server: String,
    server_key: String,
}

/// The first packet there and back.
struct Answer {
    from: String,
    after: Duration,
    is_direct: bool,
}

struct Run<'a> {
    args: &'a JoinArgs,
    context: Context,
    look: Look,
    /// The daemon is the one whose state is in the usual place.
    has_own_state: bool,
    interrupt: Interrupt,
}

/// Runs the command.
pub fn run(args: &JoinArgs, globals: &Globals) -> ExitCode {
    let context = Context::new(globals, false);
    let look = look(&context);
    let has_own_state = globals.socket.is_none();
    let run = Run { args, context, look, has_own_state, interrupt: Interrupt::watch() };
    match run.join(&Paths::detect(globals.socket.as_deref())) {
        Ok(()) => ExitCode::SUCCESS,
        Err(problem) => finish(Err(problem.into()), &run.context, args.json),
    }
}

impl Run<'_> {
    fn join(&self, paths: &Paths) -> Result<(), Problem> {
        let string = self.string()?;
        // A daemon at a socket of its own has a state of its own.
        if self.has_own_state && NetworkPlan::read(&paths.control())?.is_some() {
            let (network, dir) = ("that it serves itself", paths.control().display().to_string());
            let problem = Slug::SecondNetwork.problem(&[("network", network), ("dir", ""), ("joined", "")]);
            return Err(Problem { why: format!("state in {dir}"), ..problem });
        }
        if self.args.downloaded {
            let (version, arch) =
                (env!("CARGO_PKG_VERSION"), std::env::consts::ARCH.replace("x86_64", "x86-64"));
            let text = format!("samewire {version} for Linux {arch}, checksum good");
            self.show(&Step::done("Downloaded", text));
        }
        let client = &self.context.client;
        let is_running = client.get::<Status>("/localapi/v0/status?peers=false").is_ok();
        let service = if is_running {
            manner(paths)
        } else {
            self.interrupt.cross(STARTED, || {
                background::keep_tun(paths, self.args.tun.as_deref())?;
                start(paths, self.is_quiet())
            })?
        };
        let mut bus = client.send("GET", "/localapi/v0/watch-ipn-bus?mask=0", None)?.ok()?;
        let body = json!({ "string": string.trim(), "hostname": self.args.hostname });
        self.interrupt.say(UNKNOWN);
        let joining: Joining = client.exchange("POST", "/localapi/samewire/v1/join", &body)?;
        self.interrupt.say(GOES_ON);
        let address = joining.login_server.split_once("://").map_or("", |(_, host)| host).to_owned();
        self.show(&Step::done("Server", format!("{address}, key {} as the invite says", joining.server_key)));
        self.await_running(&mut bus).map_err(of_invite)?;
        let status: Status = client.get("/localapi/v0/status")?;
        let own = status.self_node.clone().unwrap_or_default();
        let name = own.dns_name.split('.').next().unwrap_or_default().to_owned();
        let addresses: Vec<String> =
            own.tailscale_ips.iter().flatten().filter(|ip| ip.is_ipv4()).map(ToString::to_string).collect();
        let owner = owner(&status, &own).map(|owner| format!(", belongs to {owner}")).unwrap_or_default();
        self.show(&Step::done("This machine", format!("{name}, {}{owner}", addresses.join(", "))));
        self.show(&screen::service(&service));
        let answer = first_answer(client);
        self.show(&answer_step(answer.as_ref()));
        if !self.is_quiet() {
            self.context.tell_notices(&client.get("/localapi/v0/status?peers=false")?);
        }
        let network = status.current_tailnet.as_ref().map(|net| net.name.clone()).unwrap_or_default();
        if self.args.json {
            let answer = answer.map(|answer| {
                let path = if answer.is_direct { "direct" } else { "relayed" };
                json!({ "from": answer.from, "seconds": answer.after.as_secs_f64(), "path": path })
            });
            drop(say(json!({
                "network": network,
                "machine": name,
                "addresses": addresses,
                "loginServer": joining.login_server,
                "service": service.word(),
                "firstAnswer": answer,
            })));
            return Ok(());
        }
        let hint = answer.map(|answer| format!(" Try: ping {}", answer.from)).unwrap_or_default();
        drop(self.context.done(format!("\n  You are in {network}.{hint}")));
        Ok(())
    }

    /// The string, looked at before anything is started.
    fn string(&self) -> Result<String, Problem> {
        let mut string = self.args.string.clone();
        if string == "-" {
            string.clear();
            std::io::stdin()
                .take(4096)
                .read_to_string(&mut string)
                .map_err(|error| Problem::other("standard input cannot be read.", error.to_string(), ""))?;
        }
        let join: JoinString = string
            .parse()
            .map_err(|_| Slug::InviteCut.problem(&[("len", &string.trim().chars().count().to_string())]))?;
        let now = sw_os::clock::now().wall;
        if join.expiry() <= now {
            let (time, now) = (join.expiry().to_string(), now.to_string());
            return Err(Slug::InviteExpired.problem(&[("time", &time), ("now", &now)]));
        }
        Ok(string)
    }

    fn is_quiet(&self) -> bool {
        self.args.json || self.context.quiet
    }

    fn show(&self, step: &Step) {
        if !self.is_quiet() {
            let color = self.look.color && std::io::IsTerminal::is_terminal(&std::io::stderr());
            warn(step.show(Look { color, ..self.look }).trim_end());
        }
    }

    /// Watches the registration to its end. Where an admin must approve, it waits as long as that takes.
    fn await_running(&self, bus: &mut Response) -> Result<(), Problem> {
        let end = Instant::now() + REGISTER_LIMIT;
        let mut has_told = false;
        let _slow_reads_only = bus.set_read_timeout(Some(Duration::from_millis(500)));
        loop {
            let notify = match bus.next_line() {
                Ok(Some(line)) => serde_json::from_str::<Notify>(&line).unwrap_or_default(),
                // A silent half second, or a bus that broke: the state itself is asked.
                Ok(None) | Err(_) => {
                    let status: Status = self.context.client.get("/localapi/v0/status?peers=false")?;
                    let is_up = status.backend_state == "Running";
                    let waits = status.backend_state == "NeedsMachineAuth";
                    Notify {
                        state: is_up
                            .then_some(BackendState::Running)
                            .or(waits.then_some(BackendState::NeedsMachineAuth)),
                        ..Notify::default()
                    }
                }
            };
            if let Some(problem) = notify.problem {
                return Err(problem);
            }
            match Progress::of(notify.state) {
                Progress::Up => return Ok(()),
                Progress::WaitsForApproval => {
                    if !has_told {
                        let url = "the server's page Machines";
                        let values = [("name", "this machine"), ("url", url)];
                        warn(Slug::WaitingApproval.problem(&values).render().trim_end());
                    }
                    has_told = true;
                }
                Progress::OnTheWay => {}
            }
            if !has_told && Instant::now() > end {
                let limit = format!("{} s are over", REGISTER_LIMIT.as_secs());
                let fix = "it goes on trying; see: samewire status";
                return Err(Problem::other("this machine is not in the network yet.", limit, fix));
            }
        }
    }
}

/// What is said of keys, in the words of invites: who joins by one never saw a key.
fn of_invite(problem: Problem) -> Problem {
    if problem.known_slug() != Some(Slug::KeyRefused) {
        return problem;
    }
    let says = |word: &str| problem.why.contains(word);
    // Our server says how often it was used, and by whom last.
    let used = problem.why.rsplit_once("already used: ").and_then(|(_, uses)| {
        let (n, last) = uses.split_once(" of ")?;
        Some((n, last.split_once(", ").map_or("", |(_, last)| last)))
    });
    if let Some((n, last)) = used {
        return Slug::InviteUsedUp.problem(&[("n", n), ("last", last)]);
    }
    let what = if says("used") {
        "this invite has been used up."
    } else if says("revoked") {
        "this invite was taken back."
    } else if says("expired") {
        "this invite has expired."
    } else {
        "the server does not know this invite."
    };
    let fix = "on a machine in the network: samewire invite".to_owned();
    Problem { what: what.to_owned(), why: String::new(), fix, ..problem }
}

fn owner(status: &Status, own: &PeerStatus) -> Option<String> {
    let users = status.user.as_ref()?;
    let profile = users.get(&own.user_id)?;
    (!profile.login_name.is_empty() && own.tags.as_ref().is_none_or(Vec::is_empty))
        .then(|| profile.login_name.clone())
}

/// Asks the machine that is longest in the network for an answer.
fn first_answer(client: &Client) -> Option<Answer> {
    let end = Instant::now() + ANSWER_LIMIT;
    loop {
        let status: Status = client.get("/localapi/v0/status").ok()?;
        let peers = status.peer.iter().flat_map(|peers| peers.values()).filter(|peer| peer.online);
        let oldest = peers.min_by_key(|peer| peer.created);
        if let Some(peer) = oldest
            && let Some(ip) = peer.tailscale_ips.iter().flatten().find(|ip| ip.is_ipv4())
        {
            let path = format!("/localapi/v0/ping?ip={ip}&type=disco&size=0");
            let answer = client.send("POST", &path, None).ok()?.ok().ok()?.json::<PingResult>().ok()?;
            if answer.err.is_empty() && answer.latency_seconds > 0.0 {
                return Some(Answer {
                    from: peer.dns_name.split('.').next().unwrap_or_default().to_owned(),
                    after: Duration::from_secs_f64(answer.latency_seconds),
                    is_direct: !answer.endpoint.is_empty(),
                });
            }
        }
        if Instant::now() > end {
            return None;
        }
        std::thread::sleep(Duration::from_millis(100));
    }
}

fn answer_step(answer: Option<&Answer>) -> Step {
    match answer {
        Some(answer) => {
            let how = if answer.is_direct { "direct" } else { "relayed (trying direct)" };
            Step::done("First answer", format!("from {} in {}, {how}", answer.from, delay(answer.after)))
        }
        None => Step {
            mark: Mark::Caution,
            label: "First answer",
            text: "none yet".into(),
            under: vec!["fix: see who is here: samewire status".into()],
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refused_key_is_told_as_an_invite() {
        let told = |reason: &str| of_invite(Slug::KeyRefused.problem(&[("reason", reason)]));
        for (reason, what) in [
            ("it says: authkey already used", "this invite has been used up."),
            ("it says: authkey revoked", "this invite was taken back."),
            ("it says: authkey expired", "this invite has expired."),
            ("it says: no", "the server does not know this invite."),
        ] {
            let problem = told(reason);
            assert_eq!((problem.what.as_str(), problem.exit_code()), (what, 7));
            assert_eq!(problem.fix, "on a machine in the network: samewire invite");
        }
        let problem = told("it says: authkey already used: 10 of 10 times, last by birch, 4 min ago");
        assert_eq!(problem.slug, "invite-used-up");
        assert_eq!(problem.what, "this invite has been used 10 of 10 times.");
        assert_eq!(problem.why, "last by birch, 4 min ago");
        let other = Problem::other("something else.", "", "");
        assert_eq!(of_invite(other.clone()), other);
    }
}
