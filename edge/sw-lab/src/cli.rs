//! The verbs of `samewire lab`.

use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Subcommand};

use crate::cable::{self, CableArgument};
use crate::demo::{self, DemoArgs};
use crate::matrix::{self, MatrixArgs};
use crate::portmap::{self, PortMapperArgs};
use crate::times::{self, TimesArgs};
use crate::world::{Roam, World};
use crate::{Interrupt, LabError, Programs, Topology, leftovers};

/// Build networks of machines behind NATs on this machine, to try things before doing them
#[derive(Debug, Args)]
pub struct LabArgs {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// A server and two machines behind two NATs reach each other; everything is removed at the end
    Demo(DemoArgs),
    /// Build the lab of a file, start its server and join its machines
    #[command(after_help = UP_EXAMPLE)]
    Up {
        /// The file; an example stands below
        topology: PathBuf,
    },
    /// List the labs, their machines and addresses
    Ps {
        /// Print one JSON object
        #[arg(long)]
        json: bool,
    },
    /// Run a command on a machine of a lab
    Exec {
        /// The lab, when there are several
        #[arg(long)]
        lab: Option<String>,
        /// Name of the machine, of a site or of the server
        machine: String,
        /// The command
        #[arg(last = true, required = true)]
        command: Vec<String>,
    },
    /// Plug a machine in at another of its places
    Roam {
        /// The lab, when there are several
        #[arg(long)]
        lab: Option<String>,
        /// Name of the machine
        machine: String,
        /// One of its places, or `nowhere`
        place: String,
    },
    /// Which pairs of NATs get a direct path, and how fast
    Matrix(MatrixArgs),
    /// How soon machines are of use, also after a crash, and what they cost at rest
    Times(TimesArgs),
    /// Remove a lab
    Down {
        /// The lab, when there are several
        lab: Option<String>,
        /// Remove every lab and what is left of killed ones
        #[arg(long)]
        all: bool,
    },
    /// Carry the frames of cables with delay (the lab starts this itself)
    #[command(hide = true)]
    Cable {
        #[arg(long)]
        lab: String,
        #[arg(long = "cable", required = true)]
        cables: Vec<CableArgument>,
    },
    /// Answer port mapping requests on a router of a lab (the lab starts this itself)
    #[command(hide = true)]
    PortMapper(PortMapperArgs),
}

const UP_EXAMPLE: &str = r#"A file that works:

  name = "trial"

  [server]
  name = "hub"

  [[site]]
  name = "home"
  nat = "easy"              # easy, easy-af, full-cone, hard, one-to-one
  link = { delay-ms = 15 }

  [[machine]]
  name = "alder"
  at = ["home"]

  [[machine]]
  name = "birch"            # on the Internet itself

Then: samewire lab exec alder -- ping -c3 birch"#;

/// Runs a verb of `samewire lab` and returns the exit code of the program.
pub fn run(args: LabArgs) -> ExitCode {
    match run_verb(args.verb) {
        Ok(code) => code,
        Err(error) => {
            report(&error);
            ExitCode::from(error.exit_code)
        }
    }
}

fn run_verb(verb: Verb) -> Result<ExitCode, LabError> {
    match verb {
        Verb::Demo(args) => demo::run(&args),
        Verb::Up { topology } => up(&topology),
        Verb::Ps { json } => ps(json),
        Verb::Exec { lab, machine, command } => exec(lab, &machine, &command),
        Verb::Roam { lab, machine, place } => roam(lab, &machine, &place),
        Verb::Matrix(args) => matrix::run(&args),
        Verb::Times(args) => times::run(&args),
        Verb::Down { lab, all } => down(lab, all),
        Verb::Cable { lab, cables } => {
            cable::carry(&lab, &cables, || say("ready")).map(|()| ExitCode::SUCCESS)
        }
        Verb::PortMapper(args) => portmap::run(&args).map(|()| ExitCode::SUCCESS),
    }
}

fn up(path: &std::path::Path) -> Result<ExitCode, LabError> {
    let topology = Topology::read(path)?;
    let mut world = World::build(topology, Programs::of_this_process()?, Interrupt::on_signals()?)?;
    let topology = world.topology().clone();
    progress(&format!("{} sites and {} machines are wired", topology.site.len(), topology.machine.len()));
    if topology.server.is_some() {
        let key = world.start_server()?;
        progress("the server runs");
        for machine in topology.machine.iter().filter(|m| m.software != crate::Software::None) {
            world.join(&machine.name, &key)?;
            progress(&format!("{} has joined", machine.name));
        }
    }
    world.keep();
    say(&format!("The lab \"{}\" is up. To remove it: samewire lab down {}", topology.name, topology.name));
    Ok(ExitCode::SUCCESS)
}

fn ps(json: bool) -> Result<ExitCode, LabError> {
    let mut rows = Vec::new();
    for lab in leftovers::lab_names() {
        // A lab that was killed while it was being built has namespaces and no file.
        let Ok(mut world) = World::open(&lab, Programs::of_this_process()?, Interrupt::default()) else {
            rows.push([lab, "?".into(), "?".into(), "?".into(), "half built: samewire lab down".into()]);
            continue;
        };
        for spec in world.topology().clone().machine {
            let machine = world.machine(&spec.name)?;
            let address = machine.local_api().own_address().unwrap_or_else(|| "-".into());
            rows.push([lab.clone(), spec.name, spec.at.join(", "), address, spec.software.word().into()]);
        }
    }
    let heads = ["lab", "machine", "at", "address", "software"];
    if json {
        let objects: Vec<_> = rows
            .iter()
            .map(|row| heads.iter().zip(row).collect::<std::collections::BTreeMap<_, _>>())
            .collect();
        say(&serde_json::json!({ "schema": 1, "machines": objects }).to_string());
    } else if rows.is_empty() {
        say("There is no lab on this machine.");
    } else {
        say(&plain_table(heads, &rows));
    }
    Ok(ExitCode::SUCCESS)
}

/// Returns rows under heads, columns padded to their widest cell.
pub(crate) fn plain_table<const N: usize>(heads: [&str; N], rows: &[[String; N]]) -> String {
    let widths: [usize; N] = std::array::from_fn(|column| {
        rows.iter().map(|row| row[column].chars().count()).chain([heads[column].len()]).max().unwrap_or(0)
    });
    let line = |cells: [&str; N]| {
        let padded = cells.iter().zip(widths).map(|(cell, width)| format!("{cell:width$}"));
        padded.collect::<Vec<_>>().join("  ").trim_end().to_owned()
    };
    let body = rows.iter().map(|row| line(std::array::from_fn(|column| row[column].as_str())));
    std::iter::once(line(heads)).chain(body).collect::<Vec<_>>().join("\n")
}

fn exec(lab: Option<String>, machine: &str, command: &[String]) -> Result<ExitCode, LabError> {
    let name = the_lab(lab)?;
    let mut world = World::open(&name, Programs::of_this_process()?, Interrupt::default())?;
    let is_machine = world.topology().machine.iter().any(|m| m.name == machine);
    let words: Vec<&str> = command.iter().map(String::as_str).collect();
    let mut command = if is_machine {
        world.machine(machine)?.command(&words)?
    } else {
        let Some((program, arguments)) = words.split_first() else { return Ok(ExitCode::SUCCESS) };
        let mut command = world.command_in_room(machine, std::path::Path::new(program))?;
        command.args(arguments);
        command
    };
    let status = command
        .status()
        .map_err(|e| LabError::new("lab-exec", "the command could not be started.").why(e.to_string()))?;
    Ok(ExitCode::from(status.code().and_then(|c| u8::try_from(c).ok()).unwrap_or(1)))
}

fn roam(lab: Option<String>, machine: &str, place: &str) -> Result<ExitCode, LabError> {
    let name = the_lab(lab)?;
    let mut world = World::open(&name, Programs::of_this_process()?, Interrupt::default())?;
    let machine = world.machine(machine)?;
    let places = machine.places();
    let to = if place == "nowhere" {
        Roam::Unplugged
    } else {
        let number = places.iter().position(|(name, _)| name == place).ok_or_else(|| {
            let known: Vec<_> = places.iter().map(|(name, _)| name.as_str()).collect();
            LabError::new(
                "lab-place",
                format!("\"{}\" is no place of \"{}\".", place.escape_default(), machine.name()),
            )
            .why(format!("its places are {} and nowhere", known.join(", ")))
            .exit_code(2)
        })?;
        Roam::To(number)
    };
    machine.roam(to)?;
    say(&format!("{} is at {place}.", machine.name()));
    Ok(ExitCode::SUCCESS)
}

fn down(lab: Option<String>, all: bool) -> Result<ExitCode, LabError> {
    if all {
        let found = leftovers::find_leftovers(None);
        leftovers::remove_all()?;
        let text = if found.is_empty() {
            "There was no lab on this machine.".to_owned()
        } else {
            format!("Removed: {} namespaces, {} processes.", found.namespaces.len(), found.processes.len())
        };
        say(&text);
        return Ok(ExitCode::SUCCESS);
    }
    let name = the_lab(lab)?;
    if leftovers::find_leftovers(Some(&name)).is_empty() {
        return Err(LabError::new("lab-unknown", format!("no lab is called \"{}\".", name.escape_default()))
            .fix("samewire lab ps"));
    }
    leftovers::remove_lab(&name)?;
    say(&format!("The lab \"{name}\" is removed."));
    Ok(ExitCode::SUCCESS)
}

/// Returns the lab that is meant: the named one, or the only one.
fn the_lab(named: Option<String>) -> Result<String, LabError> {
    if let Some(name) = named {
        return Ok(name);
    }
    match leftovers::lab_names().as_slice() {
        [only] => Ok(only.clone()),
        [] => Err(LabError::new("lab-none", "there is no lab on this machine.").fix("samewire lab up FILE")),
        several => Err(LabError::new("lab-several", format!("{} labs run on this machine.", several.len()))
            .why(several.join(", "))
            .fix("name one of them")
            .exit_code(2)),
    }
}

/// Prints a line of the answer. A reader that has read enough is no mistake.
pub(crate) fn say(line: &str) {
    drop(writeln!(std::io::stdout(), "{line}"));
}

/// Prints a finished step.
#[expect(clippy::print_stderr, reason = "progress of the command (ux.md §1.3)")]
pub(crate) fn progress(step: &str) {
    eprintln!("✓ {step}");
}

/// Prints an error.
#[expect(clippy::print_stderr, reason = "errors of the command (ux.md §1.3)")]
fn report(error: &LabError) {
    eprintln!("{error}");
}
