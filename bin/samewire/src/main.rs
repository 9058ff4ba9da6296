//! `samewire`: the one binary. Every verb lives in the crate that owns it; this file only routes to it.

use std::process::ExitCode;

use clap::{Parser, Subcommand};

mod control;

/// Every machine you own, on the same wire.
#[derive(Debug, Parser)]
#[command(name = "samewire", version, about, disable_help_subcommand = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Print the version
    Version {
        /// Print one JSON object
        #[arg(long)]
        json: bool,
    },
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

#[expect(clippy::print_stdout, reason = "the answer of the command")]
fn main() -> anyhow::Result<ExitCode> {
    match Cli::parse().command {
        Command::Version { json: false } => println!("{}", env!("CARGO_PKG_VERSION")),
        Command::Version { json: true } => {
            println!("{{\"version\":\"{}\"}}", env!("CARGO_PKG_VERSION"));
        }
        Command::Control(args) => return Ok(control::run(args)),
        Command::Lab(args) => return Ok(sw_lab::run(args)),
        Command::Policy(args) => return Ok(sw_cli::policy::run(args)),
        Command::Wireguard { ifname } => return Ok(sw_dataplane::wireguard::run(&ifname)),
        Command::Relay(args) => return Ok(sw_relay::run(args)),
    }
    Ok(ExitCode::SUCCESS)
}
