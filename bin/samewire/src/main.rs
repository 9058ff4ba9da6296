//! `samewire`: the one binary. Every verb lives in the crate that owns it; this file only routes to it.

use std::process::ExitCode;

use clap::{CommandFactory as _, Parser, Subcommand};
use sw_cli::local::{self, CalledAs};

mod control;

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
}

fn main() -> ExitCode {
    let mut arguments: Vec<_> = std::env::args_os().collect();
    let called_as = local::called_as(&arguments);
    if called_as == CalledAs::Tailscaled {
        arguments.insert(1, "daemon".into());
    }
    let cli = Cli::parse_from(local::normalize(arguments));
    match cli.command {
        Command::Local(verb) => {
            if let (local::Verb::Up(args), CalledAs::Samewire) = (&verb, called_as)
                && let Some(code) = samewire::first_run::up::run(args, &cli.globals)
            {
                return code;
            }
            local::run(verb, &cli.globals, called_as == CalledAs::Tailscale, Cli::command())
        }
        Command::Daemon(args) => samewire::machine::run(&args, cli.globals.socket, || {}),
        Command::Control(args) => control::run(args),
        Command::Lab(args) => sw_lab::run(args),
        Command::Policy(args) => sw_cli::policy::run(args),
        Command::Wireguard { ifname } => sw_dataplane::wireguard::run(&ifname),
        Command::Relay(args) => sw_relay::run(args),
    }
}
