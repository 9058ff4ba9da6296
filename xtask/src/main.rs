//! The project's own commands. `cargo xtask --help` lists them.
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a build tool talks on its terminal")]

mod bench;
mod check;
mod dist;
mod layers;
mod lengths;
mod peers;
mod purity;
mod run;
mod test;
mod unused;

use clap::{Parser, Subcommand};
use std::process::ExitCode;

#[derive(Debug, Parser)]
#[command(name = "cargo xtask", about = "Commands of the samewire project")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Format, lints, layers, purity of the cores, file lengths, dependencies; no tests
    Check,
    /// Every test; installs what it needs when root, prints what it skips and why
    Test {
        /// Only the packages that need no root, no TUN and no other program
        #[arg(long)]
        quick: bool,
    },
    /// Run one benchmark: control, node, times, relay, policy, dataplane, fuzz
    Bench {
        name: String,
        /// Handed to the benchmark
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<String>,
    },
    /// Simulated churn for a bounded real time
    Soak {
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<String>,
    },
    /// Install the official programs that the registries carry, and print how to name them to tests
    Peers {
        /// Also build the official Rust client (355 packages, some minutes)
        #[arg(long)]
        rust: bool,
    },
    /// A release to hand out: binary, completions, man pages, checksums under target/dist
    Dist,
}

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> anyhow::Result<()> {
    std::env::set_current_dir(run::workspace_root())?;
    match Cli::parse().command {
        Command::Check => check::check(),
        Command::Test { quick } => test::test(quick),
        Command::Bench { name, args } => bench::bench(&name, &args),
        Command::Soak { args } => bench::soak(&args),
        Command::Peers { rust } => peers::peers(rust),
        Command::Dist => dist::dist(),
    }
}
