//! `samewire update`: the program of the network's server, or of a file, takes this one's place; one that does not
//! connect gives the place back.

use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use clap::Args;
use serde_json::{Value, json};
use sw_cli::local::{Client, Context, Globals, Outcome, finish, say};
use sw_daemon::Problem;
use sw_types::local::Status;
use sw_types::problem::Slug;

use super::background::{self, Paths};
use crate::network::NetworkPlan;

/// How long a new program may take to be where the old one was.
const CONNECT_LIMIT: Duration = Duration::from_secs(60);
const LOOK_AGAIN: Duration = Duration::from_millis(100);
/// Behind the name of the program that was replaced.
const BEFORE: &str = "before";
const OWN: &str = env!("CARGO_PKG_VERSION");
const UNCHANGED: &str = "nothing was changed";

/// Flags of `update`.
#[derive(Args, Clone, Debug)]
pub struct UpdateArgs {
    /// Take this program instead of the server's
    #[arg(long, value_name = "PROGRAM", conflicts_with = "undo")]
    file: Option<PathBuf>,
    /// Go back to the program before
    #[arg(long)]
    undo: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

struct Run {
    context: Context,
    paths: Paths,
    json: bool,
}

/// Runs `update`.
pub fn update(args: &UpdateArgs, globals: &Globals) -> ExitCode {
    let context = Context::new(globals, false);
    let run = Run { context, paths: Paths::detect(globals.socket.as_deref()), json: args.json };
    let outcome = run.update(args);
    finish(outcome, &run.context, args.json)
}

impl Run {
    fn update(&self, args: &UpdateArgs) -> Outcome {
        if !self.paths.is_root {
            let user = sw_os::host::user_name(rustix::process::getuid().as_raw()).unwrap_or_default();
            let values = [("user", &*user), ("operator", ""), ("words", "update")];
            let problem = Slug::NoPermission.problem(&values);
            let what = "changing the program of this machine needs root.".to_owned();
            return Err(Problem { what, fix: "sudo samewire update".to_owned(), ..problem }.into());
        }
        let program = self.paths.program.clone().ok_or_else(|| {
            Problem::other("the program does not know its own place.", UNCHANGED, "sudo samewire update")
        })?;
        let before = program.with_extension(BEFORE);
        if args.undo {
            if !before.is_file() {
                let why = format!("there is no {}", before.display());
                let fix = "samewire update --undo works once, after an update";
                return Err(Problem::other("there is no program to go back to.", why, fix).into());
            }
            return self.replace(&before, &program);
        }
        let new = match &args.file {
            Some(file) => file.canonicalize().map_err(|error| {
                let fix = "name a file that holds samewire";
                Problem::other("the new program cannot be used.", format!("{}: {error}", file.display()), fix)
            })?,
            None => match self.fetch()? {
                Some(fetched) => fetched,
                None => return self.tell(OWN, OWN, &format!("samewire {OWN} is what the server runs too.")),
            },
        };
        self.replace(&new, &program)
    }

    /// The server's program, fetched; none where it is no newer.
    fn fetch(&self) -> Result<Option<PathBuf>, Problem> {
        if NetworkPlan::read(&self.paths.control())?.is_some() {
            return Err(Problem::other(
                "this machine is the server that the others get their program from.",
                "nobody is asked which version is the newest",
                "fetch it yourself, then: sudo samewire update --file PROGRAM",
            ));
        }
        let status: Status = self.context.client.get("/localapi/v0/status?peers=false")?;
        let is_newer = status.notices.iter().any(|n| n.known_slug() == Some(Slug::UpdateAvailable));
        if !is_newer {
            return Ok(None);
        }
        let fetched: Value =
            self.context.client.exchange("POST", "/localapi/samewire/v1/update/fetch", &json!({}))?;
        Ok(fetched["path"].as_str().map(PathBuf::from))
    }

    /// Puts `new` in the place of `program` and starts it; if it does not come up, all is as before.
    fn replace(&self, new: &Path, program: &Path) -> Outcome {
        let version = version_of(new)?;
        let was_connected = is_connected(&self.context.client);
        let before = program.with_extension(BEFORE);
        let kept = program.with_extension("kept");
        let failed = |error: io::Error| {
            Problem::other(
                "the program was not replaced.",
                format!("{}: {error}", program.display()),
                "make room or choose another place for it; the old one runs on",
            )
        };
        put(program, &kept).map_err(failed)?;
        put(new, program).map_err(failed)?;
        let came_up = self.restart(was_connected);
        if let Err(problem) = came_up {
            put(&kept, program).map_err(failed)?;
            let _ours = fs::remove_file(&kept);
            self.restart(false)?;
            let what = format!("samewire {version} did not connect, so {OWN} is back.");
            return Err(Problem::other(
                what,
                problem.what.trim_end_matches('.'),
                "see its log; this one runs on",
            )
            .into());
        }
        fs::rename(&kept, &before).map_err(failed)?;
        if new.starts_with(&self.paths.state) {
            let _fetched = fs::remove_file(new);
        }
        let said =
            format!("samewire {version} runs; before it was {OWN}. To go back: sudo samewire update --undo");
        self.tell(&version, OWN, &said)
    }

    fn tell(&self, version: &str, before: &str, words: &str) -> Outcome {
        if self.json {
            say(json!({ "version": version, "before": before }))
        } else {
            self.context.done(words)
        }
    }

    /// Starts the program in our place anew; waits until it is connected, if it is to be.
    fn restart(&self, must_connect: bool) -> Result<(), Problem> {
        background::stop(&self.paths)?;
        background::start(&self.paths, self.json || self.context.quiet)?;
        let end = Instant::now() + CONNECT_LIMIT;
        while must_connect && !is_connected(&self.context.client) {
            if Instant::now() > end {
                let limit = format!("it was not connected after {} s.", CONNECT_LIMIT.as_secs());
                return Err(Problem::other(limit, "", ""));
            }
            std::thread::sleep(LOOK_AGAIN);
        }
        Ok(())
    }
}

/// Whether the daemon is in its network and hears of its server.
fn is_connected(client: &Client) -> bool {
    let status = client.get::<Status>("/localapi/v0/status?peers=false");
    status.is_ok_and(|status| {
        status.backend_state == "Running" && status.self_node.is_some_and(|own| own.online)
    })
}

/// Asks a program for its version: one that does not run here is told before anything is changed.
fn version_of(program: &Path) -> Result<String, Problem> {
    let refuse = |why: String| {
        let what = "the new program does not run on this machine.";
        Problem::other(what, format!("{}: {why}", program.display()), "take one for this kind of machine")
    };
    let output = Command::new(program).arg("version").stdin(Stdio::null()).output();
    let output = output.map_err(|error| refuse(error.to_string()))?;
    let said = String::from_utf8_lossy(&output.stdout);
    let version = said.trim();
    let is_version = !version.is_empty() && version.chars().all(|c| c.is_ascii_digit() || c == '.');
    if output.status.success() && is_version {
        return Ok(version.to_owned());
    }
    Err(refuse("it does not say which version of samewire it is".to_owned()))
}

/// Puts a copy of a program at a place, whole or not at all.
fn put(from: &Path, to: &Path) -> io::Result<()> {
    let beside = to.with_extension("new");
    let written = fs::copy(from, &beside)
        .and_then(|_| fs::set_permissions(&beside, fs::Permissions::from_mode(0o755)))
        .and_then(|()| fs::File::open(&beside)?.sync_all())
        .and_then(|()| fs::rename(&beside, to));
    if written.is_err() {
        let _ours = fs::remove_file(&beside);
    }
    written
}
