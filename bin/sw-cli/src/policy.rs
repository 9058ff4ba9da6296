//! `samewire policy`: check, test, explain, compare and format policy files, without a server.

mod answer;
mod files;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Subcommand};

/// Arguments of `samewire policy`.
#[derive(Debug, Args)]
#[command(
    about = "Check, test, explain and compare policy files",
    after_help = "Examples:\n  samewire policy check policy.hujson\n  samewire policy explain --world world.json \
                  policy.hujson laptop nas:445\n  samewire policy diff --world world.json old.hujson new.hujson\n\n\
                  A world is a JSON file with the people and machines: {\"users\": [...], \"nodes\": [...]}"
)]
pub struct PolicyArgs {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Say whether a policy is valid and whether its own tests hold
    Check {
        /// The policy file
        file: PathBuf,
        #[command(flatten)]
        world: WorldArg,
        /// Print one JSON object
        #[arg(long)]
        json: bool,
    },
    /// Run the policy's own tests
    Test {
        /// The policy file
        file: PathBuf,
        #[command(flatten)]
        world: WorldArg,
    },
    /// Say whether one machine may reach another, by which rule, and through what it matches
    Explain {
        /// The policy file
        file: PathBuf,
        /// Who: a machine, an address, or a word of the policy such as tag:web
        src: String,
        /// To what, with or without a port: DST or DST:PORT
        dst: String,
        /// The protocol by name or number; TCP, UDP and ICMP when left out
        #[arg(long)]
        proto: Option<String>,
        #[command(flatten)]
        world: WorldArg,
        /// Print one JSON object
        #[arg(long)]
        json: bool,
    },
    /// Say who gains and who loses what when one policy replaces another
    Diff {
        /// The policy in force
        old: PathBuf,
        /// The policy to come
        new: PathBuf,
        #[command(flatten)]
        world: WorldArg,
        /// Print one JSON object
        #[arg(long)]
        json: bool,
    },
    /// Lay a policy file out anew; comments stay
    Fmt {
        /// The policy file
        file: PathBuf,
        /// Change nothing; exit 1 if the file is not in the standard layout
        #[arg(long)]
        check: bool,
        /// Print the result and leave the file as it is
        #[arg(long, conflicts_with = "check")]
        stdout: bool,
    },
    /// Compile policies for other programs: JSON in, JSON out
    Compile {
        /// Read one JSON document from standard input and answer it
        #[arg(long, required_unless_present = "jsonl", conflicts_with = "jsonl")]
        stdin_json: bool,
        /// Read one JSON document a line and answer each with one line
        #[arg(long)]
        jsonl: bool,
    },
}

#[derive(Debug, Args)]
struct WorldArg {
    /// JSON file with the people and machines the policy applies to
    #[arg(long = "world", value_name = "FILE")]
    path: Option<PathBuf>,
}

/// Runs a verb of `samewire policy`.
#[must_use]
pub fn run(args: PolicyArgs) -> ExitCode {
    let done = match args.verb {
        Verb::Check { file, world, json } => files::check(&file, world.path.as_deref(), json),
        Verb::Test { file, world } => files::test(&file, world.path.as_deref()),
        Verb::Explain { file, src, dst, proto, world, json } => {
            let asked = files::Asked { src: &src, dst: &dst, proto: proto.as_deref(), json };
            files::explain(&file, world.path.as_deref(), &asked)
        }
        Verb::Diff { old, new, world, json } => files::diff(&old, &new, world.path.as_deref(), json),
        Verb::Fmt { file, check, stdout } => files::fmt(&file, check, stdout),
        Verb::Compile { jsonl: true, .. } => return answer::lines(),
        Verb::Compile { .. } => return answer::document(),
    };
    match done {
        Ok(code) => code,
        Err(failure) => failure.report(),
    }
}
