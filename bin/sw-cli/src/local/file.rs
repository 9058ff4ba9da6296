//! `file` (localapi-cli.md §B2).

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write as _};
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{Args, Subcommand, ValueEnum};
use serde::Deserialize;
use serde_json::Value;
use sw_types::local::{Problem, Status};
use sw_types::problem::quoted;

use super::client::escape;
use super::terminal::parse_duration;
use super::{Context, Outcome, find_machine, misuse, not_connected, say, warn};

/// How long one request waits for a file to arrive.
const WAIT_SECONDS: u32 = 60;
/// Names tried for a file whose name is taken.
const RENAMES_MAX: u32 = 99;

#[derive(Args, Clone, Debug)]
pub struct FileArgs {
    #[command(subcommand)]
    action: FileAction,
}

#[derive(Subcommand, Clone, Debug)]
enum FileAction {
    /// Send files to a machine
    Cp {
        /// Name for the other side, for one file (needed for standard input)
        #[arg(long, value_name = "NAME")]
        name: Option<String>,
        /// Say what is sent
        #[arg(long)]
        verbose: bool,
        /// List the machines that files can be sent to
        #[arg(long)]
        targets: bool,
        #[arg(long, hide = true, value_name = "DURATION", value_parser = parse_duration)]
        update_interval: Option<Duration>,
        /// Files (- is standard input), and last the machine with a colon
        words: Vec<String>,
    },
    /// Fetch the files that others sent
    Get {
        /// Wait for one if there is none
        #[arg(long)]
        wait: bool,
        /// Go on fetching them as they come
        #[arg(long = "loop")]
        goes_on: bool,
        /// Say what was fetched
        #[arg(long)]
        verbose: bool,
        /// What to do with a file whose name is taken
        #[arg(long, value_enum, default_value_t, value_name = "WHAT")]
        conflict: Conflict,
        /// The folder to put them in
        directory: PathBuf,
    },
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
enum Conflict {
    /// Leave it where it is
    #[default]
    Skip,
    /// Replace the other one
    Overwrite,
    /// Give it a number
    Rename,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Waiting {
    name: String,
}

pub(super) fn file(context: &Context, args: &FileArgs) -> Outcome {
    match &args.action {
        FileAction::Cp { targets: true, .. } => list_targets(context),
        FileAction::Cp { name, verbose, words, .. } => send(context, name.as_deref(), *verbose, words),
        FileAction::Get { wait, goes_on, verbose, conflict, directory } => {
            let how = Fetch { context, directory, conflict: *conflict, verbose: *verbose };
            how.run(*wait || *goes_on, *goes_on)
        }
    }
}

fn list_targets(context: &Context) -> Outcome {
    let targets: Vec<Value> = context.client.get("/localapi/v0/file-targets")?;
    targets.iter().try_for_each(|target| {
        let node = &target["Node"];
        let address = node["Addresses"][0].as_str().unwrap_or_default();
        let address = address.split('/').next().unwrap_or_default();
        let state = if node["Online"] == false { "\toffline" } else { "" };
        say(format!("{address}\t{}{state}", node["ComputedName"].as_str().unwrap_or_default()))
    })
}

fn send(context: &Context, name: Option<&str>, verbose: bool, words: &[String]) -> Outcome {
    let Some((target, files)) = words.split_last().filter(|(_, files)| !files.is_empty()) else {
        return Err(misuse("`file cp` wants files and a machine.", "samewire file cp FILE MACHINE:"));
    };
    let Some(target) = target.strip_suffix(':') else {
        let what = "the machine stands last, with a colon behind it.";
        return Err(misuse(what, format!("samewire file cp FILE {target}:")));
    };
    if name.is_some() && files.len() > 1 {
        return Err(misuse("--name is for one file.", "leave it out, or send the files one by one"));
    }
    if files.iter().any(|file| file == "-") && name.is_none() {
        return Err(misuse("standard input has no name.", "give it one: --name=NAME"));
    }
    let status = context.status()?;
    if let Some(problem) = not_connected(&status) {
        return Err(problem.into());
    }
    let id = target_id(context, &status, target.trim_start_matches('[').trim_end_matches(']'))?;
    for file in files {
        let (content, size): (Box<dyn Read>, Option<u64>) = if file == "-" {
            (Box::new(io::stdin().lock()), None)
        } else {
            let opened = open(Path::new(file))?;
            (Box::new(opened.0), Some(opened.1))
        };
        let base = Path::new(file).file_name().map(|name| name.to_string_lossy().into_owned());
        let name = name.map(str::to_owned).or(base).unwrap_or_default();
        if verbose {
            warn(format!("sending {} to {target}", quoted(&name)));
        }
        let path = format!("/localapi/v0/file-put/{}/{}", escape(&id), escape(&name));
        let response = context.client.upload(&path, content, size)?;
        if response.status() != 200 {
            let why = response.text()?.trim().to_owned();
            let what = format!("{target} did not take {}.", quoted(&name));
            return Err(Problem::other(what, why, format!("samewire explain {target}")).into());
        }
    }
    Ok(())
}

fn open(path: &Path) -> Result<(File, u64), Problem> {
    let told = |why: String| {
        let what = format!("{} cannot be read.", quoted(&path.display().to_string()));
        Problem::other(what, why, "check the name and the rights of the file")
    };
    let file = File::open(path).map_err(|error| told(error.to_string()))?;
    let facts = file.metadata().map_err(|error| told(error.to_string()))?;
    if facts.is_dir() {
        return Err(told("it is a folder; pack it first: tar".to_owned()));
    }
    Ok((file, facts.len()))
}

/// The stable id of a machine that takes files.
fn target_id(context: &Context, status: &Status, words: &str) -> Result<String, Problem> {
    let machine = find_machine(status, words)?;
    let refuse = |why: &str| {
        Problem::other(
            format!("files cannot be sent to {}.", machine.name),
            why,
            "samewire file cp --targets lists where",
        )
    };
    if machine.is_self {
        return Err(refuse("it is this machine"));
    }
    let targets: Vec<Value> = context.client.get("/localapi/v0/file-targets")?;
    let has = |target: &&Value| {
        let addresses = target["Node"]["Addresses"].as_array().into_iter().flatten();
        let mut ips = addresses.filter_map(|net| net.as_str()?.split('/').next()?.parse::<IpAddr>().ok());
        ips.any(|ip| machine.addresses.contains(&ip))
    };
    let id = targets.iter().find(has).and_then(|target| target["Node"]["StableID"].as_str());
    id.map(str::to_owned)
        .ok_or_else(|| refuse("it belongs to another person, or its software takes no files"))
}

struct Fetch<'f> {
    context: &'f Context,
    directory: &'f Path,
    conflict: Conflict,
    verbose: bool,
}

impl Fetch<'_> {
    fn run(&self, waits: bool, goes_on: bool) -> Outcome {
        let is_sink = self.directory == Path::new("/dev/null");
        // Before anything is taken out of the inbox.
        let status: Status = self.context.client.get("/localapi/v0/status?peers=false")?;
        if !is_sink && !self.directory.is_dir() {
            let what =
                format!("the folder {} cannot be written to.", quoted(&self.directory.display().to_string()));
            return Err(Problem::other(what, "it is not there", "make it, or name another").into());
        }
        let _only_that_a_daemon_answers = status;
        loop {
            let query = if waits { format!("?waitsec={WAIT_SECONDS}") } else { String::new() };
            let files: Option<Vec<Waiting>> =
                self.context.client.get(&format!("/localapi/v0/files/{query}"))?;
            let files = files.unwrap_or_default();
            let (all, mut moved) = (files.len(), 0);
            let mut kept = Vec::new();
            for file in &files {
                if is_sink || self.fetch(&file.name)? {
                    let path = format!("/localapi/v0/files/{}", escape(&file.name));
                    self.context.client.command("DELETE", &path, None)?;
                    moved += 1;
                } else {
                    kept.push(quoted(&file.name));
                }
            }
            if self.verbose && all > 0 {
                warn(format!("moved {moved}/{all} files"));
            }
            if !kept.is_empty() {
                let what = format!("{} of {all} files stay where they are.", kept.len());
                let why = format!("{} is there already", kept.join(", "));
                return Err(Problem::other(what, why, "samewire file get --conflict=rename DIR").into());
            }
            if !goes_on && (all > 0 || !waits) {
                return Ok(());
            }
        }
    }

    /// Copies one file; false when its name is taken and stays so.
    fn fetch(&self, name: &str) -> Result<bool, Problem> {
        // The daemon's names hold no path; a name that does is not used.
        if name.contains('/') || matches!(name, "." | "..") {
            return Err(Problem::other(
                format!("{} is no name of a file.", quoted(name)),
                "",
                "update samewire",
            ));
        }
        let failed = |error: io::Error| {
            let what = format!("{} could not be fetched.", quoted(name));
            Problem::other(what, error.to_string(), "it stays with the daemon; try another folder")
        };
        let Some((mut file, place)) = self.make(name).map_err(failed)? else { return Ok(false) };
        let path = format!("/localapi/v0/files/{}", escape(name));
        let response = self.context.client.send("GET", &path, None)?.ok()?;
        let size: Option<u64> = response.header("content-length").and_then(|length| length.parse().ok());
        response.copy_to(&mut file).and_then(|()| file.flush()).map_err(failed)?;
        let written = file.metadata().map_err(failed)?.len();
        if size.is_some_and(|size| size != written) {
            let _incomplete = std::fs::remove_file(&place);
            return Err(failed(io::ErrorKind::UnexpectedEof.into()));
        }
        if self.verbose {
            warn(format!("wrote {name} as {} ({written} bytes)", place.display()));
        }
        Ok(true)
    }

    fn make(&self, name: &str) -> io::Result<Option<(File, PathBuf)>> {
        let place = self.directory.join(name);
        if self.conflict == Conflict::Overwrite {
            return Ok(Some((File::create(&place)?, place)));
        }
        let (stem, extension) =
            name.rsplit_once('.').map_or((name, String::new()), |(stem, ext)| (stem, format!(".{ext}")));
        for number in 0..=RENAMES_MAX {
            let place = if number == 0 {
                place.clone()
            } else {
                self.directory.join(format!("{stem} ({number}){extension}"))
            };
            match OpenOptions::new().write(true).create_new(true).open(&place) {
                Ok(file) => return Ok(Some((file, place))),
                Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
                Err(_) if self.conflict == Conflict::Skip => return Ok(None),
                Err(_) => {}
            }
        }
        Err(io::ErrorKind::AlreadyExists.into())
    }
}
