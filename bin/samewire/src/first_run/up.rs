//! `samewire up` where no network is known: this machine becomes the first one of a new network (ux.md §2.1).

use std::io::IsTerminal as _;
use std::net::TcpStream;
use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use sw_cli::admin::{ClientError, ask};
use sw_cli::local::{Client, Context, Globals, ServerCheck, UpArgs, finish, say, warn};
use sw_control::Invitation;
use sw_daemon::{DaemonArgs, Problem};
use sw_types::local::{MaskedPrefs, Prefs, StartOptions, Status};

use super::background::{self, Paths, manner, start};
use super::interrupt::Interrupt;
use super::reach::{Reach, url_host};
use super::screen::{self, CertificateKind, FirstRun, Look, Proved, Reachable, Service, Step, three_things};
use crate::network::{self, NetworkPlan, Served};

/// How long the node may take to join its own server.
const RUNNING_LIMIT: Duration = Duration::from_secs(20);

/// What Ctrl-C says once the network is there.
const KEPT: &str =
    "note: interrupted; the new network is kept.\n  fix: samewire up once more goes on from here";

/// The same where a network was there before.
const STARTED: &str = "note: interrupted; samewire runs, and nothing else was changed.";

/// The same once the daemon is told what is wanted.
const TOLD: &str =
    "note: interrupted; samewire goes on with what it was told.\n  fix: see how far it is: samewire status";

/// Everything that the steps need.
struct Run<'a> {
    args: &'a UpArgs,
    context: Context,
    paths: Paths,
    begun: Instant,
    /// No socket of its own was named.
    is_usual: bool,
    /// In the foreground the daemon answers Ctrl-C itself.
    interrupt: Option<Interrupt>,
}

/// Does what `up` means on a machine without a network, or starts the daemon of one that has one. `None`: the
/// ordinary `up` has the rest to do.
pub fn run(args: &UpArgs, globals: &Globals) -> Option<ExitCode> {
    let run = Run {
        args,
        context: Context::new(globals, false),
        paths: Paths::detect(globals.socket.as_deref()),
        begun: Instant::now(),
        is_usual: globals.socket.is_none(),
        interrupt: (!args.first.foreground).then(Interrupt::watch),
    };
    let decided = args.check().and_then(|()| {
        run.start_new_program()?;
        if !args.names_server() {
            return run.decide();
        }
        // The network is another one's; all that is missing may be the daemon.
        let is_silent = run.context.client.get::<Status>("/localapi/v0/status?peers=false").is_err();
        if is_silent && globals.socket.is_none() {
            run.cross(STARTED, || run.keep_tun().and_then(|()| start(&run.paths, run.is_quiet())))?;
        }
        Ok(None)
    });
    match decided {
        Ok(None) => {
            // From here the daemon is told what is wanted, and goes on with it alone.
            run.cross(TOLD, || ());
            None
        }
        Ok(end) => end,
        Err(problem) => Some(finish(Err(problem.into()), &run.context, args.json)),
    }
}

impl Run<'_> {
    /// A daemon of another version than this program's ends, and this one's takes its place.
    fn start_new_program(&self) -> Result<(), Problem> {
        let status = self.context.client.get::<Status>("/localapi/v0/status?peers=false");
        let is_other = status.is_ok_and(|status| status.version != sw_daemon::VERSION_LONG);
        if !is_other || !self.is_usual || self.args.first.dry_run {
            return Ok(());
        }
        self.cross(STARTED, || {
            background::stop(&self.paths)?;
            start(&self.paths, self.is_quiet()).map(drop)
        })
    }

    fn decide(&self) -> Result<Option<ExitCode>, Problem> {
        let status: Option<Status> = self.context.client.get("/localapi/v0/status?peers=false").ok();
        let plan = NetworkPlan::read(&self.paths.control())?;
        let is_member = match &status {
            Some(_) => self.prefs().is_some_and(|prefs| !prefs.control_url.is_empty()),
            None => has_stored_network(&self.paths),
        };
        if let Some(old) = &plan
            && let Some(plan) = self.other_place(old)
        {
            if self.args.first.dry_run {
                return self.dry_run(&plan).map(Some);
            }
            background::stop(&self.paths)?;
            return self.first(Some(&plan), false).map(Some);
        }
        match (plan, is_member, status) {
            (_, true, Some(status)) if status.backend_state == "Running" && self.args.changes_nothing() => {
                self.already_up(&status).map(Some)
            }
            // A first try that was interrupted: nobody was shown how others join.
            (Some(_), true, Some(_)) if self.args.changes_nothing() && self.has_no_invite() => {
                self.first(None, true).map(Some)
            }
            (_, true, Some(_)) => Ok(None),
            (plan, true, None) if !self.args.first.dry_run => {
                self.cross(STARTED, || self.keep_tun().and_then(|()| start(&self.paths, self.is_quiet())))?;
                if plan.is_some() && self.args.changes_nothing() && self.has_no_invite() {
                    return self.first(None, true).map(Some);
                }
                Ok(None)
            }
            (Some(_), false, status) if !self.args.first.dry_run => {
                self.first(None, status.is_some()).map(Some)
            }
            (plan, _, status) => {
                let wanted =
                    self.planned(&NetworkPlan { port: network::free_port(), ..NetworkPlan::default() });
                if self.args.first.dry_run {
                    return self.dry_run(&plan.unwrap_or(wanted)).map(Some);
                }
                if !self.args.first.new_network
                    && let Some(problem) = super::nearby::look()
                {
                    return Err(problem);
                }
                if status.is_some() {
                    // A daemon that serves nothing; it starts anew with its network.
                    background::stop(&self.paths)?;
                }
                self.first(Some(&wanted), false).map(Some)
            }
        }
    }

    /// `old` with what this command line says of it.
    fn planned(&self, old: &NetworkPlan) -> NetworkPlan {
        let first = &self.args.first;
        let absolute = |file: &Path| file.canonicalize().unwrap_or_else(|_| file.to_owned());
        let domain = first.domain.as_deref().map(|name| match name.parse() {
            Ok(ip) => url_host(ip),
            Err(_) => name.to_owned(),
        });
        NetworkPlan {
            port: old.port,
            domain: domain.or_else(|| old.domain.clone()),
            acme_directory: first.acme_directory.clone().or_else(|| old.acme_directory.clone()),
            acme_ca: first.acme_ca.as_deref().map(absolute).or_else(|| old.acme_ca.clone()),
        }
    }

    /// The plan of a network that is to be reached in another way from now on: the user says so, or the router does.
    fn other_place(&self, old: &NetworkPlan) -> Option<NetworkPlan> {
        let planned = self.planned(old);
        let served = Served::read(&self.paths.control()).ok().flatten();
        let is_other = planned != *old || served.is_some_and(|served| served.now.is_some());
        (self.args.changes_nothing() && is_other).then_some(planned)
    }

    fn is_quiet(&self) -> bool {
        self.args.json || self.context.quiet
    }

    fn keep_tun(&self) -> Result<(), Problem> {
        background::keep_tun(&self.paths, self.args.first.tun.as_deref())
    }

    fn prefs(&self) -> Option<Prefs> {
        self.context.client.get("/localapi/v0/prefs").ok()
    }

    /// Whether the network that this machine serves never had an invite.
    fn has_no_invite(&self) -> bool {
        let keys = self.ask("GET", "keys", json!({}));
        keys.is_ok_and(|keys| keys.as_array().is_some_and(|all| all.iter().all(|key| key["invite"] != true)))
    }

    fn already_up(&self, status: &Status) -> Result<ExitCode, Problem> {
        let own = status.self_node.clone().unwrap_or_default();
        let address = own.tailscale_ips.iter().flatten().next().map(ToString::to_string).unwrap_or_default();
        let network = status.current_tailnet.as_ref().map(|net| net.name.clone()).unwrap_or_default();
        if self.args.json {
            let state = json!({ "network": network, "machine": own.host_name, "BackendState": "Running" });
            return told(say(state));
        }
        told(say(format!(
            "  {network}, this is {}, {address}.\n\nAlready up. A new join line: samewire invite",
            own.host_name
        )))
    }

    /// Keeps the plan of a new network, starts its daemon (unless it runs), makes this machine its first one and shows
    /// how others join.
    fn first(&self, new: Option<&NetworkPlan>, is_running: bool) -> Result<ExitCode, Problem> {
        let write = || match new {
            Some(plan) => self.keep_tun().and_then(|()| plan.write(&self.paths.control())),
            None => Ok(()),
        };
        if self.args.first.foreground && !is_running {
            write()?;
            return Ok(self.in_foreground());
        }
        let service = self.cross(KEPT, || {
            write()?;
            if is_running { Ok(manner(&self.paths)) } else { self.start_or_undo() }
        })?;
        self.finish_and_show(service)?;
        Ok(ExitCode::SUCCESS)
    }

    fn cross<T>(&self, now: &'static str, act: impl FnOnce() -> T) -> T {
        match &self.interrupt {
            Some(interrupt) => interrupt.cross(now, act),
            None => act(),
        }
    }

    fn start_or_undo(&self) -> Result<Service, Problem> {
        start(&self.paths, self.is_quiet()).inspect_err(|_| {
            // Nothing was made yet that is worth keeping: the next try decides anew.
            if !self.paths.control().join("control.db").exists() {
                NetworkPlan::remove(&self.paths.control());
            }
        })
    }

    /// The daemon in this very process; a thread does what another process does else.
    fn in_foreground(&self) -> ExitCode {
        let args = DaemonArgs::default();
        let (up, paths, begun) = (self.args.clone(), self.paths.clone(), self.begun);
        let client = self.context.clone();
        crate::machine::run(&args, Some(self.paths.socket.clone()), move || {
            std::thread::spawn(move || {
                let run = Run { args: &up, context: client, paths, begun, is_usual: true, interrupt: None };
                if let Err(problem) = run.finish_and_show(Service::Foreground) {
                    let _code = finish(Err(problem.into()), &run.context, up.json);
                }
            });
        })
    }

    fn finish_and_show(&self, service: Service) -> Result<(), Problem> {
        let served = Served::read(&self.paths.control())?.ok_or_else(|| {
            Problem::other("the server did not say where it is.", "", "samewire up once more")
        })?;
        let look = look(&self.context);
        let steps = Look { color: look.color && std::io::stderr().is_terminal(), ..look };
        let show = |step: &Step| {
            if !self.is_quiet() {
                warn(step.show(steps).trim_end());
            }
        };
        let network = self.ask("GET", "settings", json!({}))?;
        let network = network["name"].as_str().unwrap_or("home.internal").to_owned();
        show(&Step::done("New network", format!("{network}, its keys stay on this machine")));
        // An authority that gives a certificate was here.
        let is_proved = matches!(served.certificate, screen::Certificate::Public(_));
        show(&screen::reachable(&served.reach, is_proved, served.port_443_holder.as_deref()));
        show(&screen::certificate(&served.certificate));
        let (machine, addresses) = self.join_own_network(&served)?;
        let has_proxy = !self.paths.is_root && TcpStream::connect(background::PROXY).is_ok();
        show(&screen::this_machine(&machine, &addresses, self.paths.is_root, has_proxy));
        show(&screen::service(&service));
        if !self.is_quiet() {
            self.context.tell_notices(&self.context.client.get("/localapi/v0/status?peers=false")?);
        }
        let invite: Invitation = self.typed("POST", "invites", json!({}))?;
        let admin = self.ask("POST", "admin-link", json!({}))?;
        let run = FirstRun {
            network,
            machine,
            addresses,
            reachable: reachable(&served.reach, is_proved),
            certificate: CertificateKind { kind: served.certificate.word() },
            problems: served.problems(),
            invite,
            admin_url: admin["adminUrl"].as_str().unwrap_or_default().to_owned(),
            service: service.word(),
        };
        let shown = if self.args.json {
            format!("{}\n", serde_json::to_string(&run).unwrap_or_default())
        } else {
            three_things(&run, &clock_time(&run.invite.expires), self.begun.elapsed().as_secs_f64(), look)
        };
        drop(say(shown.trim_end_matches('\n')));
        Ok(())
    }

    /// The owner, a key for this machine, and the machine itself; what is there already stays.
    fn join_own_network(&self, served: &Served) -> Result<(String, Vec<String>), Problem> {
        let users = self.ask("GET", "users", json!({}))?;
        if users.as_array().is_none_or(Vec::is_empty) {
            self.ask("POST", "users", json!({ "name": caller_name(), "role": "owner" }))?;
        }
        let client = &self.context.client;
        let status: Status = client.get("/localapi/v0/status?peers=false")?;
        if status.have_node_key {
            let _prefs: Prefs = client.exchange("PATCH", "/localapi/v0/prefs", &wants_running())?;
        } else if status.backend_state != "Running" {
            let key = self.ask("POST", "keys", json!({ "preapproved": true, "expiry_seconds": 600 }))?;
            let options = StartOptions {
                update_prefs: Some(self.wanted_prefs(served)?),
                auth_key: key["key"].as_str().unwrap_or_default().to_owned(),
                ..StartOptions::default()
            };
            let body = serde_json::to_vec(&options).unwrap_or_default();
            client.command("POST", "/localapi/v0/start", Some(&body))?;
        }
        let status = await_running(client)?;
        let own = status.self_node.unwrap_or_default();
        let addresses = own.tailscale_ips.iter().flatten().filter(|ip| ip.is_ipv4()).map(ToString::to_string);
        let name = own.dns_name.split('.').next().unwrap_or_default().to_owned();
        Ok((name, addresses.collect()))
    }

    fn wanted_prefs(&self, served: &Served) -> Result<Prefs, Problem> {
        let mut prefs = self.args.wanted_prefs(&Prefs::default())?;
        prefs.control_url.clone_from(&served.login_server);
        prefs.want_running = true;
        Ok(prefs)
    }

    fn ask(&self, method: &str, path: &str, body: Value) -> Result<Value, Problem> {
        ask(&self.paths.control(), method, path, body).map_err(|error| problem_of(&error))
    }

    fn typed<T: for<'a> serde::Deserialize<'a>>(
        &self,
        method: &str,
        path: &str,
        body: Value,
    ) -> Result<T, Problem> {
        serde_json::from_value(self.ask(method, path, body)?)
            .map_err(|error| Problem::other("the server's answer was not understood.", error.to_string(), ""))
    }

    /// Says what would be done; nothing is changed.
    fn dry_run(&self, plan: &NetworkPlan) -> Result<ExitCode, Problem> {
        let facts = network::facts(plan);
        let reach = Reach::decide(&facts);
        let mut steps = vec![
            Step::done("New network", "home.internal, its keys stay on this machine"),
            screen::reachable(&reach, false, facts.port_443_holder.as_deref()),
            screen::certificate(&screen::Certificate::Pinned),
            Step::done("This machine", sw_os::host::facts().hostname),
            screen::service(&manner(&self.paths)),
        ];
        if self.args.json {
            let would = json!({
                "dryRun": true,
                "network": "home.internal",
                "machine": sw_os::host::facts().hostname,
                "reachable": reachable(&reach, false),
                "service": manner(&self.paths).word(),
            });
            return told(say(would));
        }
        let look = look(&self.context);
        for step in steps.drain(..) {
            warn(step.would().show(look).trim_end());
        }
        Ok(ExitCode::SUCCESS)
    }
}

fn wants_running() -> MaskedPrefs {
    let mut masked = MaskedPrefs::default();
    masked.set("WantRunning", true);
    masked
}

fn told(outcome: sw_cli::local::Outcome) -> Result<ExitCode, Problem> {
    match outcome {
        Ok(()) => Ok(ExitCode::SUCCESS),
        // The reader of the pipe went away.
        Err(_) => Ok(ExitCode::from(141)),
    }
}

/// What the control server's client says, as a message of this command.
pub(crate) fn problem_of(error: &ClientError) -> Problem {
    error.problem()
}

/// How machines reach the server of this machine, for `check`; nothing where it serves none.
pub fn server_check(globals: &Globals) -> Option<ServerCheck> {
    let paths = Paths::detect(globals.socket.as_deref());
    let served = Served::read(&paths.control()).ok().flatten()?;
    let look = look(&Context::new(globals, false));
    let is_proved = matches!(served.certificate, screen::Certificate::Public(_));
    let holder = served.port_443_holder.as_deref();
    let mut steps = vec![screen::reachable_checked(&served.reach, is_proved, holder)];
    steps.extend(served.now.as_ref().map(screen::changed_reach));
    steps.push(screen::certificate(&served.certificate));
    let text = steps.iter().map(|step| step.show(look)).collect();
    let json = json!({
        "loginServer": served.login_server,
        "reachable": reachable(&served.reach, is_proved),
        "now": served.now.as_ref().map(|now| reachable(now, false)),
        "certificate": { "kind": served.certificate.word() },
        "problems": served.problems(),
    });
    Some(ServerCheck { text, json })
}

/// What the terminal can show.
pub(crate) fn look(context: &Context) -> Look {
    Look {
        color: context.terminal.has_color,
        unicode: context.terminal.has_unicode,
        columns: context.terminal.columns,
        is_terminal: context.terminal.is_pretty,
    }
}

/// Waits until the node runs.
///
/// # Errors
/// The problem that the node reports, or that the time ran out.
pub(crate) fn await_running(client: &Client) -> Result<Status, Problem> {
    let end = Instant::now() + RUNNING_LIMIT;
    loop {
        let status: Status = client.get("/localapi/v0/status?peers=false")?;
        if status.backend_state == "Running" {
            return Ok(status);
        }
        if Instant::now() > end {
            let state = format!("its state is {}", status.backend_state);
            let why = status.health.first().cloned().unwrap_or(state);
            return Err(Problem::other(
                "this machine did not join its network.",
                why,
                "samewire up once more",
            ));
        }
        std::thread::sleep(Duration::from_millis(30));
    }
}

fn reachable(reach: &Reach, is_proved: bool) -> Reachable {
    let (address, port) = reach.host_port();
    Reachable { how: reach.how(), address, port, proved: Proved { tcp: is_proved, udp: false } }
}

/// `15:12 UTC` of an RFC 3339 time.
pub(crate) fn clock_time(rfc3339: &str) -> String {
    let time = rfc3339.split('T').nth(1).and_then(|time| time.get(..5));
    time.map_or_else(|| rfc3339.to_owned(), |time| format!("{time} UTC"))
}

/// Whether the node's state file knows a server.
fn has_stored_network(paths: &Paths) -> bool {
    let text = sw_os::files::read_private(&paths.node().join("node.state")).ok().flatten();
    let prefs = text
        .and_then(|text| sw_node::state_file::StateFile::parse(&text).ok())
        .and_then(|state| state.prefs().ok().flatten());
    prefs.is_some_and(|prefs| !prefs.control_url.is_empty())
}

/// The first person: who called sudo, else who runs this.
fn caller_name() -> String {
    let sudo = std::env::var("SUDO_USER").ok().filter(|name| !name.is_empty());
    let name = sudo.or_else(|| sw_os::host::user_name(rustix::process::getuid().as_raw()));
    name.filter(|name| !name.is_empty()).unwrap_or_else(|| "owner".to_owned()).to_lowercase()
}
