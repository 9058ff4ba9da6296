//! `samewire policy`: check, test, explain, compare and format policies, in files or on a server.

mod answer;
mod files;
mod source;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Subcommand};

use source::Place;

/// Arguments of `samewire policy`.
#[derive(Debug, Args)]
#[command(
    about = "Check, test, explain, compare and roll back policies",
    after_help = "A world is a JSON file with the people and machines: {\"users\": [...], \"nodes\": [...]}"
)]
pub struct PolicyArgs {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Say whether a policy is valid and whether its own tests hold
    Check {
        /// The policy file; the policy in force on the server when left out
        file: Option<PathBuf>,
        #[command(flatten)]
        place: Place,
        /// Print one JSON object
        #[arg(long)]
        json: bool,
    },
    /// Run the policy's own tests
    Test {
        /// The policy file; the policy in force on the server when left out
        file: Option<PathBuf>,
        #[command(flatten)]
        place: Place,
    },
    /// Say whether one machine may reach another, by which rule, and through what it matches
    #[command(override_usage = "samewire policy explain [OPTIONS] [FILE] <SRC> <DST[:PORT]>")]
    Explain {
        /// The policy file (the policy in force on the server when left out); who: a machine, an address, or a word of
        /// the policy such as tag:web; to what, with or without a port
        #[arg(num_args = 2..=3, required = true, value_names = ["FILE_OR_SRC", "SRC_OR_DST", "DST"])]
        words: Vec<String>,
        /// The protocol by name or number; TCP, UDP and ICMP when left out
        #[arg(long)]
        proto: Option<String>,
        #[command(flatten)]
        place: Place,
        /// Print one JSON object
        #[arg(long)]
        json: bool,
    },
    /// Say who gains and who loses what when one policy replaces another
    #[command(override_usage = "samewire policy diff [OPTIONS] [OLD] <NEW>")]
    Diff {
        /// The policy to be replaced (the policy in force on the server when left out), and the policy to come
        #[arg(num_args = 1..=2, required = true, value_names = ["OLD_OR_NEW", "NEW"])]
        files: Vec<PathBuf>,
        #[command(flatten)]
        place: Place,
        /// Print one JSON object
        #[arg(long)]
        json: bool,
    },
    /// Print the policy in force on the server
    Get {
        #[command(flatten)]
        place: Place,
    },
    /// Put a file in force on the server
    Set {
        /// The policy file; - is standard input
        file: PathBuf,
        #[command(flatten)]
        place: Place,
    },
    /// List the versions that the server keeps: when, by whom
    History {
        #[command(flatten)]
        place: Place,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Put an old version in force again
    Rollback {
        /// The version, as `history` lists it
        version: u64,
        #[command(flatten)]
        place: Place,
        /// Print JSON
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
        #[arg(long, required_unless_present = "jsonl")]
        stdin_json: bool,
        /// Read one JSON document a line and answer each with one line, also beside --stdin-json
        #[arg(long)]
        jsonl: bool,
    },
}

/// Runs a verb of `samewire policy`.
#[must_use]
pub fn run(args: PolicyArgs) -> ExitCode {
    use crate::admin::Policy;
    let done = match args.verb {
        Verb::Check { file, place, json } => files::check(file.as_deref(), &place, json),
        Verb::Test { file, place } => files::test(file.as_deref(), &place),
        Verb::Explain { words, proto, place, json } => files::explain(&words, proto.as_deref(), &place, json),
        Verb::Diff { files, place, json } => files::diff(&files, &place, json),
        Verb::Get { place } => place.do_on_server(false, &Policy::Get),
        Verb::Set { file, place } => place.do_on_server(false, &Policy::Set { file }),
        Verb::History { place, json } => place.do_on_server(json, &Policy::History),
        Verb::Rollback { version, place, json } => place.do_on_server(json, &Policy::Rollback { version }),
        Verb::Fmt { file, check, stdout } => files::fmt(&file, check, stdout),
        Verb::Compile { jsonl: true, .. } => return answer::lines(),
        Verb::Compile { .. } => return answer::document(),
    };
    match done {
        Ok(code) => code,
        Err(failure) => failure.report(),
    }
}
