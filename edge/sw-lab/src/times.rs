//! `samewire lab times`: how soon a machine is of use, how soon it is again after a crash or a cut, and what it costs
//! at rest; official nodes take turns with ours where they are found.

mod idle;
mod join;
mod recovery;

use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, ValueEnum};
use serde::Serialize;

use crate::cli::{plain_table, progress, say};
use crate::measure::millis;
use crate::nat::Nat;
use crate::topology::{MachineSpec, RelayProcess, ServerSpec, SiteSpec, Topology};
use crate::{Interrupt, LabError, Programs, Software, World};

/// Name of the lab.
const LAB: &str = "times";

/// Words of `samewire lab times`.
#[derive(Debug, Args)]
pub(crate) struct TimesArgs {
    /// Tries of everything; the middle is told, and the worst
    #[arg(long, default_value_t = 5, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=100))]
    rounds: u32,
    /// Only some of it
    #[arg(long, value_enum, value_delimiter = ',')]
    only: Vec<Part>,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Part {
    /// From `up` to an address, an answer, a direct path
    Join,
    /// After a cut of the direct path, and after a crash with nobody to ask
    Recovery,
    /// Memory and wake-ups beside ten peers
    Idle,
}

/// A pair of machines of one software, each behind a NAT of its own.
#[derive(Clone, Copy, Debug)]
struct Pair {
    software: Software,
    near: &'static str,
    far: &'static str,
}

const PAIRS: [Pair; 2] = [
    Pair { software: Software::Samewire, near: "alder", far: "birch" },
    Pair { software: Software::Official, near: "cedar", far: "damson" },
];

/// All tries of one thing.
#[derive(Debug, Serialize)]
struct Row {
    what: &'static str,
    software: Software,
    /// Milliseconds of the tries that came to an end, sorted.
    ms: Vec<u64>,
    /// Tries that did not come to an end in time.
    over: usize,
    /// What counts as too long for such a try.
    limit_ms: u64,
}

impl Row {
    fn new(what: &'static str, software: Software, limit: Duration) -> Self {
        Self { what, software, ms: Vec::new(), over: 0, limit_ms: millis(limit) }
    }

    fn add(&mut self, ms: Option<u64>) {
        match ms {
            Some(ms) => {
                let at = self.ms.partition_point(|known| *known < ms);
                self.ms.insert(at, ms);
            }
            None => self.over += 1,
        }
    }

    fn cells(&self) -> [String; 5] {
        let cell = |ms: Option<&u64>| ms.map_or("-".to_owned(), |ms| format!("{ms} ms"));
        let over = if self.over == 0 {
            String::new()
        } else {
            format!("{} not within {} s", self.over, self.limit_ms / 1000)
        };
        [
            self.what.to_owned(),
            self.software.word().to_owned(),
            cell(self.ms.get(self.ms.len() / 2)),
            cell(self.ms.last()),
            over,
        ]
    }
}

/// Measures and prints; the labs are gone when this returns.
///
/// # Errors
/// A lab could not be built, or a machine does not work in it at all.
pub(crate) fn run(args: &TimesArgs) -> Result<ExitCode, LabError> {
    let wants = |part| args.only.is_empty() || args.only.contains(&part);
    let (programs, interrupt) = (Programs::of_this_process()?, Interrupt::on_signals()?);
    let mut rows = Vec::new();
    if wants(Part::Join) || wants(Part::Recovery) {
        let pairs = pairs(&programs);
        let mut world = World::build(topology(&pairs), programs.clone(), interrupt.clone())?;
        let key = world.start_server()?;
        for pair in &pairs {
            world.join(pair.far, &key)?;
        }
        // Recovery needs machines that have joined, too; it ends with the server dead.
        let rounds = if wants(Part::Join) { args.rounds } else { 1 };
        let joined = join::measure(&mut world, &pairs, &key, rounds)?;
        if wants(Part::Join) {
            rows.extend(joined);
        }
        if wants(Part::Recovery) {
            rows.extend(recovery::measure(&mut world, &pairs, args.rounds)?);
        }
    }
    let rest = if wants(Part::Idle) { Some(idle::measure(programs, interrupt)?) } else { None };
    if args.json {
        say(&serde_json::json!({ "schema": 1, "times": rows, "idle": rest }).to_string());
        return Ok(ExitCode::SUCCESS);
    }
    if !rows.is_empty() {
        let cells: Vec<_> = rows.iter().map(Row::cells).collect();
        say(&plain_table(["", "software", "middle", "worst", ""], &cells));
    }
    if let Some(rest) = rest {
        say(&rest.sentence());
    }
    Ok(ExitCode::SUCCESS)
}

fn pairs(programs: &Programs) -> Vec<Pair> {
    let found = programs.official_node();
    if let Err(missing) = &found {
        progress(&format!("official nodes are skipped: {}", missing.what));
    }
    PAIRS.into_iter().filter(|pair| pair.software == Software::Samewire || found.is_ok()).collect()
}

fn topology(pairs: &[Pair]) -> Topology {
    let server = ServerSpec { relay: RelayProcess::Separate, ..ServerSpec::new("hub", Software::Samewire) };
    let mut topology = Topology { name: LAB.into(), server: Some(server), ..Topology::default() };
    for pair in pairs {
        for name in [pair.near, pair.far] {
            let site = site_of(name);
            topology.machine.push(MachineSpec::new(name, &site, pair.software));
            topology.site.push(SiteSpec::new(&site, Nat::Easy));
        }
    }
    topology
}

/// The site in which a machine of a pair is.
fn site_of(machine: &str) -> String {
    format!("{machine}-home")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_tells_the_middle_the_worst_and_what_never_ended() {
        let mut row = Row::new("first answer", Software::Samewire, Duration::from_secs(5));
        assert_eq!(row.cells()[2..], ["-", "-", ""]);
        for ms in [Some(30), None, Some(10), Some(20)] {
            row.add(ms);
        }
        assert_eq!(row.cells(), ["first answer", "samewire", "20 ms", "30 ms", "1 not within 5 s"]);
    }

    #[test]
    fn the_lab_of_both_pairs_can_be_built() {
        assert_eq!(topology(&PAIRS).validate(), Ok(()));
    }
}
