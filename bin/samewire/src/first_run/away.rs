//! `samewire leave` and `samewire uninstall`: out of the network, and off the machine without a trace.

use std::fs;
use std::io::{self, BufRead as _, IsTerminal as _};
use std::path::Path;
use std::process::ExitCode;

use clap::Args;
use serde_json::{Value, json};
use sw_cli::local::{Context, Globals, finish, say, warn};
use sw_daemon::{DEFAULT_STATE, DaemonArgs, Problem};
use sw_types::local::{OFFICIAL_SOCKET_PATH, Status};
use sw_types::problem::Slug;

use super::background::{self, Paths};
use crate::network::NetworkPlan;

/// Where the join line puts the program.
const INSTALLED: &str = "/usr/local/bin/samewire";

/// Flags of `leave`.
#[derive(Args, Clone, Debug)]
pub struct LeaveArgs {
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Flags of `uninstall`.
#[derive(Args, Clone, Debug)]
pub struct UninstallArgs {
    /// Do not ask, although this machine serves a network
    #[arg(long)]
    yes: bool,
}

/// Runs `leave`.
pub fn leave(args: &LeaveArgs, globals: &Globals) -> ExitCode {
    let context = Context::new(globals, false);
    let paths = Paths::detect(globals.socket.as_deref());
    match leave_network(&context, &paths) {
        Ok((network, told)) => {
            if let Some(problem) = &told {
                let why = format!("{} {}", problem.what, problem.why);
                let fix = "an admin removes it on the page: Machines";
                let text = Problem::other("the server still lists this machine.", why, fix).render();
                warn(text.trim_end().replacen("error:", "warning:", 1));
            }
            let answer = if args.json {
                json!({ "network": network, "serverTold": told.is_none() }).to_string()
            } else {
                format!("This machine has left {network}.")
            };
            drop(say(answer));
            ExitCode::SUCCESS
        }
        Err(problem) => finish(Err(problem.into()), &context, args.json),
    }
}

/// Leaves; returns the network's name, and why the server could not be told.
fn leave_network(context: &Context, paths: &Paths) -> Result<(String, Option<Problem>), Problem> {
    let status = context.status()?;
    let network = status.current_tailnet.as_ref().map(|network| network.name.clone()).unwrap_or_default();
    if NetworkPlan::read(&paths.control())?.is_some() {
        return Err(Problem {
            slug: "second-network".to_owned(),
            what: format!("this machine serves {network}; without it the network would end for everybody."),
            why: format!("its keys and machines are in {}", paths.control().display()),
            fix: "to take it elsewhere: samewire move. To end it: samewire uninstall".to_owned(),
        });
    }
    if !status.have_node_key {
        return Err(Slug::NotSetUp.problem(&[("dir", &paths.node().display().to_string())]));
    }
    let answer: Value = context.client.exchange("POST", "/localapi/samewire/v1/leave", &json!({}))?;
    Ok((network, serde_json::from_value(answer["problem"].clone()).ok()))
}

/// Runs `uninstall`.
pub fn uninstall(args: &UninstallArgs, globals: &Globals) -> ExitCode {
    let context = Context::new(globals, false);
    let paths = Paths::detect(globals.socket.as_deref());
    match remove_everything(args, &context, &paths) {
        Ok(code) => code,
        Err(problem) => finish(Err(problem.into()), &context, false),
    }
}

fn remove_everything(args: &UninstallArgs, context: &Context, paths: &Paths) -> Result<ExitCode, Problem> {
    let of_root = Path::new(DEFAULT_STATE).parent().unwrap_or(Path::new("/"));
    if !paths.is_root && !paths.state.exists() && of_root.exists() {
        let user = sw_os::host::user_name(rustix::process::getuid().as_raw()).unwrap_or_default();
        let problem =
            Slug::NoPermission.problem(&[("user", &user), ("operator", ""), ("words", "uninstall")]);
        let what = "removing samewire from this machine needs root.";
        return Err(Problem { what: what.into(), fix: "sudo samewire uninstall".into(), ..problem });
    }
    let is_serving = NetworkPlan::read(&paths.control()).ok().flatten().is_some();
    let status = context.status().ok();
    if is_serving && !args.yes && !confirmed(status.as_ref())? {
        return Ok(ExitCode::from(2));
    }
    if status.is_some_and(|status| status.have_node_key) && !is_serving {
        // The server may be out of reach; that keeps nothing here.
        let _told = leave_network(context, paths);
    }
    background::stop(paths)?;
    background::remove_service()?;
    if paths.is_root {
        // Routes, rules and DNS settings of a daemon that was killed.
        sw_daemon::cleanup(&DaemonArgs::default().config(Some(paths.socket.clone())))?;
    }
    let mut left = Vec::new();
    let mut remove = |path: &Path| {
        let is_directory = path.symlink_metadata().is_ok_and(|file| file.is_dir());
        let removed = if is_directory { fs::remove_dir_all(path) } else { fs::remove_file(path) };
        match removed {
            Ok(()) => drop(context.done(format!("removed {}", path.display()))),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => left.push(format!("{}: {error}", path.display())),
        }
    };
    remove(&paths.state);
    remove(&paths.socket);
    if let Some(directory) = paths.socket.parent().filter(|directory| directory.ends_with("samewire")) {
        remove(directory);
    }
    let alias = Path::new(OFFICIAL_SOCKET_PATH);
    if fs::read_link(alias).is_ok_and(|target| target == paths.socket) {
        remove(alias);
        // Somebody else's files may be in it.
        let _not_empty = alias.parent().map(fs::remove_dir);
    }
    let is_installed = std::env::current_exe().is_ok_and(|exe| exe == Path::new(INSTALLED));
    if is_installed && paths.is_root {
        remove(Path::new(INSTALLED));
    }
    if left.is_empty() {
        // Root put the program there, and others may use it.
        let stays =
            if is_installed && !paths.is_root { "; the program itself is root's and stays" } else { "" };
        drop(context.done(format!("samewire is gone from this machine{stays}.")));
        return Ok(ExitCode::SUCCESS);
    }
    Err(Problem::other(
        "not everything could be removed.",
        left.join("; "),
        "sudo samewire uninstall, or remove it by hand",
    ))
}

/// Asks for the network's name (ux.md §1.1).
fn confirmed(status: Option<&Status>) -> Result<bool, Problem> {
    let network = status.and_then(|status| status.current_tailnet.as_ref());
    let name = network.map_or("home.internal", |network| &network.name);
    warn(format!(
        "This machine serves {name}. Its keys, people and policy are removed, and its machines lose each other.\nTo keep a copy: samewire backup FILE"
    ));
    if !io::stdin().is_terminal() {
        return Err(Problem::misuse("this needs a yes.", "samewire uninstall --yes"));
    }
    warn("Type the name of the network to go on: ");
    let mut typed = String::new();
    io::stdin()
        .lock()
        .read_line(&mut typed)
        .map_err(|error| Problem::other("the answer could not be read.", error.to_string(), ""))?;
    if typed.trim() == name {
        return Ok(true);
    }
    warn("Nothing was changed.");
    Ok(false)
}
