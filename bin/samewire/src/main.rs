//! `samewire`: the one binary. Every verb lives in the crate that owns it; this file only routes to it.

use std::process::ExitCode;

use clap::{CommandFactory as _, FromArgMatches as _, Parser, Subcommand};
use samewire::first_run;
use sw_cli::local::{self, CalledAs};

mod command;
mod control;
mod examples;

/// Every machine you own, on the same wire.
#[derive(Debug, Parser)]
#[command(name = "samewire", version, about, disable_help_subcommand = true)]
struct Cli {
    #[command(flatten)]
    globals: local::Globals,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    #[command(flatten)]
    Local(local::Verb),
    /// Join a network by the string that another machine printed
    Join(first_run::join::JoinArgs),
    /// Let further machines and phones join
    Invite(first_run::invite::InviteArgs),
    /// Print a one-time link to the admin page
    Admin(first_run::invite::AdminArgs),
    /// Leave the network for good
    Leave(first_run::away::LeaveArgs),
    /// Remove samewire and everything it made from this machine
    Uninstall(first_run::away::UninstallArgs),
    /// Keep this machine's keys, and the network it serves, in one file
    Backup(first_run::keep::BackupArgs),
    /// Put a backup in force on this machine
    Restore(first_run::keep::RestoreArgs),
    /// Say how the network moves to another server
    Move(first_run::keep::MoveArgs),
    /// Run the version that the network's server runs
    Update(first_run::update::UpdateArgs),
    /// Run the node on this machine
    Daemon(sw_daemon::DaemonArgs),
    /// The control server of a network, and its administration
    Control(control::ControlArgs),
    /// Networks of machines behind NATs on this machine, to try things before doing them
    Lab(sw_lab::LabArgs),
    /// Check, test, explain and compare policy files
    Policy(sw_cli::policy::PolicyArgs),
    /// Run a plain WireGuard interface, to be configured with wg or wg-quick
    Wireguard {
        /// Name of the interface, for example wg0
        ifname: String,
    },
    /// Run a relay (DERP and STUN)
    Relay(sw_relay::RelayArgs),
    /// Write the pages of the manual into a folder
    #[command(hide = true)]
    Man(command::ManArgs),
}

fn parse(arguments: Vec<std::ffi::OsString>, called_as: CalledAs) -> Result<Cli, ExitCode> {
    let definition = command::with_groups(Cli::command());
    let words = local::normalize(arguments);
    let parsed = definition.clone().try_get_matches_from(&words);
    let error = match parsed.and_then(|matches| Cli::from_arg_matches(&matches)) {
        Ok(cli) => return Ok(cli),
        Err(error) => error,
    };
    local::begin(&local::Globals::default(), called_as == CalledAs::Tailscale);
    let Some(problem) = command::problem_of(&error, &words, &definition) else {
        // The help, or the version.
        let has_color = local::Context::new(&local::Globals::default(), false).terminal.has_color;
        let text = if has_color { error.render().ansi().to_string() } else { error.render().to_string() };
        if error.use_stderr() {
            local::warn(text.trim_end());
            return Err(ExitCode::from(2));
        }
        let shown = local::say(text.trim_end());
        return Err(if shown.is_ok() { ExitCode::SUCCESS } else { ExitCode::from(141) });
    };
    if called_as == CalledAs::Tailscale {
        let unknown = error.get(clap::error::ContextKind::InvalidSubcommand);
        let text = unknown.map(|word| format!("tailscale: unknown subcommand: {word}"));
        local::warn(text.unwrap_or_else(|| problem.what.replace("samewire", "tailscale")));
        return Err(ExitCode::FAILURE);
    }
    let is_json = words.iter().any(|word| word == "--json");
    let context = local::Context::new(&local::Globals::default(), false);
    Err(local::finish(Err(problem.into()), &context, is_json))
}

fn main() -> ExitCode {
    let mut arguments: Vec<_> = std::env::args_os().collect();
    let called_as = local::called_as(&arguments);
    if called_as == CalledAs::Tailscaled {
        arguments.insert(1, "daemon".into());
    }
    if called_as == CalledAs::Samewire && arguments.len() == 1 {
        arguments.push("help".into());
    }
    let cli = match parse(arguments, called_as) {
        Ok(cli) => cli,
        Err(code) => return code,
    };
    local::begin(&cli.globals, called_as == CalledAs::Tailscale);
    match cli.command {
        Command::Local(mut verb) => {
            if let local::Verb::Check(args) = &mut verb {
                args.server = first_run::up::server_check(&cli.globals);
            }
            if let (local::Verb::Up(args), CalledAs::Samewire) = (&verb, called_as)
                && let Some(code) = first_run::up::run(args, &cli.globals)
            {
                return code;
            }
            local::run(
                verb,
                &cli.globals,
                called_as == CalledAs::Tailscale,
                command::with_groups(Cli::command()),
            )
        }
        Command::Join(args) => first_run::join::run(&args, &cli.globals),
        Command::Invite(args) => first_run::invite::invite(&args, &cli.globals),
        Command::Admin(args) => first_run::invite::admin(&args, &cli.globals),
        Command::Leave(args) => first_run::away::leave(&args, &cli.globals),
        Command::Uninstall(args) => first_run::away::uninstall(&args, &cli.globals),
        Command::Backup(args) => first_run::keep::backup(&args, &cli.globals),
        Command::Restore(args) => first_run::keep::restore(&args, &cli.globals),
        Command::Move(args) => first_run::keep::show_move(&args, &cli.globals),
        Command::Update(args) => first_run::update::update(&args, &cli.globals),
        Command::Daemon(args) => samewire::machine::run(&args, cli.globals.socket, || {}),
        Command::Control(args) => control::run(args),
        Command::Lab(args) => sw_lab::run(args),
        Command::Policy(args) => sw_cli::policy::run(args),
        Command::Wireguard { ifname } => sw_dataplane::wireguard::run(&ifname),
        Command::Relay(args) => {
            start_log();
            sw_relay::run(args)
        }
        Command::Man(args) => command::man(&args, Cli::command()),
    }
}

/// The log of a server, on standard error; `SAMEWIRE_LOG` says how much.
pub(crate) fn start_log() {
    let filter =
        tracing_subscriber::EnvFilter::try_from_env("SAMEWIRE_LOG").unwrap_or_else(|_| "info".into());
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).init();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_help_names_every_verb_once() {
        command::tests::every_verb_has_its_place(&Cli::command());
        examples::tests::every_example_is_understood(&Cli::command());
        Cli::command().debug_assert();
    }

    #[test]
    fn a_wrong_verb_is_answered_with_the_nearest() {
        let definition = command::with_groups(Cli::command());
        for (words, what, fix) in [
            (&["stauts"][..], "there is no command \"stauts\".", "did you mean status?"),
            (&["metrics", "wriet"], "there is no command \"wriet\".", "did you mean write?"),
            (&["ping"], "`samewire ping` lacks <MACHINE>.", "see: samewire ping --help"),
            (
                &["up", "--hostnam", "x"],
                "`samewire up` has no flag \"--hostnam\".",
                "did you mean --hostname?",
            ),
            (&["ping", "a", "b"], "`samewire ping` takes no argument \"b\".", "see: samewire ping"),
            (
                &["funnel", "3000"],
                "there is no command \"funnel\".",
                "inside the network: samewire serve PORT",
            ),
        ] {
            let words: Vec<_> = std::iter::once("samewire").chain(words.iter().copied()).collect();
            let error = definition.clone().try_get_matches_from(&words).expect_err("a mistake");
            let words: Vec<_> = words.into_iter().map(Into::into).collect();
            let problem = command::problem_of(&error, &words, &definition).expect("a problem");
            assert_eq!(problem.what, what);
            assert!(problem.fix.starts_with(fix), "{}", problem.fix);
            assert_eq!(problem.exit_code(), 2);
        }
    }
}
