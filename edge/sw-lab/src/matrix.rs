//! `samewire lab matrix`: for every pair of networks, whether machines in them get a direct path, and how fast.

mod kinds;

use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use serde::Serialize;

use crate::cli::{plain_table, progress, say};
use crate::demo::{parse_relay, parse_software};
use crate::measure::{DirectTry, measure_direct};
use crate::topology::RelayProcess;
use crate::{Interrupt, LabError, Programs, Software, World};
use kinds::Kind;

/// Name of the matrix's lab.
const LAB: &str = "matrix";

/// Longest wait for a machine to be connected again at the start of a try.
const READY_LIMIT: Duration = Duration::from_secs(30);

/// Words of `samewire lab matrix`.
#[derive(Debug, Args)]
pub(crate) struct MatrixArgs {
    /// Tries of every pair, by turns from either side
    #[arg(long, default_value_t = 1, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=10_000))]
    tries: u32,
    /// Networks to pair with each other, or `all`
    #[arg(long, value_name = "KIND,…", value_delimiter = ',')]
    kinds: Vec<String>,
    /// A single pair, in place of all pairs of --kinds
    #[arg(long = "pair", value_name = "KIND:KIND", value_parser = parse_pair)]
    pairs: Vec<(Kind, Kind)>,
    /// Whose software runs on which side and on the server; the official ones alone are also run when found
    #[arg(long = "run", value_name = "SIDE:SIDE@SERVER", value_parser = parse_run)]
    runs: Vec<Run>,
    /// Where the relay of our server runs
    #[arg(long, value_parser = parse_relay, default_value = "built-in", value_name = "built-in|separate")]
    relay: RelayProcess,
    /// Longest wait for a direct path, seconds
    #[arg(long, default_value_t = 12, value_name = "SECONDS")]
    limit: u64,
    /// Rest between the connection of both machines and the first packet, milliseconds
    #[arg(long, default_value_t = 1000, value_name = "MS")]
    settle_ms: u64,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// Whose software meets whose, on whose server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
struct Run {
    sides: [Software; 2],
    server: Software,
}

impl Run {
    fn title(self) -> String {
        let [a, b] = self.sides;
        format!("{}×{}", a.word(), b.word())
    }
}

fn parse_pair(text: &str) -> Result<(Kind, Kind), String> {
    let (a, b) = text.split_once(':').ok_or("must be KIND:KIND")?;
    Ok((Kind::parse(a)?, Kind::parse(b)?))
}

fn parse_run(text: &str) -> Result<Run, String> {
    let (sides, server) = text.split_once('@').ok_or("must be SIDE:SIDE@SERVER")?;
    let (a, b) = sides.split_once(':').ok_or("must be SIDE:SIDE@SERVER")?;
    Ok(Run { sides: [parse_software(a)?, parse_software(b)?], server: parse_software(server)? })
}

/// What the tries of one pair showed.
#[derive(Debug, Serialize)]
struct PairResult {
    a: &'static str,
    b: &'static str,
    /// Whether the official client is known to get a direct path here.
    official_direct: bool,
    direct: usize,
    tries: Vec<DirectTry>,
    /// Tries that could not be made, with the reason.
    broken: Vec<String>,
}

impl PairResult {
    /// Returns the middle of the times to direct, milliseconds.
    fn median_ms(&self) -> Option<u64> {
        let mut times: Vec<u64> = self.tries.iter().filter_map(|t| t.direct_ms).collect();
        times.sort_unstable();
        times.get(times.len() / 2).copied()
    }

    fn cell(&self) -> String {
        let of = self.tries.len() + self.broken.len();
        match self.median_ms() {
            Some(median) => format!("direct {}/{of}, {median} ms", self.direct),
            None if self.tries.is_empty() => format!("broken {}/{of}", self.broken.len()),
            None => format!("relay {}/{of}", self.tries.len()),
        }
    }
}

#[derive(Debug, Serialize)]
struct RunResult {
    run: Run,
    pairs: Vec<PairResult>,
}

/// Runs the matrix; its labs are gone when this returns.
///
/// # Errors
/// A lab could not be built, or no software was found to run.
pub(crate) fn run(args: &MatrixArgs) -> Result<ExitCode, LabError> {
    let programs = Programs::of_this_process()?;
    let pairs = pairs_of(args)?;
    let interrupt = Interrupt::on_signals()?;
    let mut results = Vec::new();
    for run in runs_of(args, &programs) {
        let pairs = run_pairs(run, &pairs, args, &programs, &interrupt)?;
        results.push(RunResult { run, pairs });
    }
    if args.json {
        say(&serde_json::json!({ "schema": 1, "runs": results }).to_string());
    } else {
        say(&table(&results));
    }
    Ok(ExitCode::SUCCESS)
}

fn runs_of(args: &MatrixArgs, programs: &Programs) -> Vec<Run> {
    if !args.runs.is_empty() {
        return args.runs.clone();
    }
    let both = |software| Run { sides: [software; 2], server: software };
    let mut runs = vec![both(Software::Samewire)];
    match programs.official_node().and(programs.official_server()) {
        Ok(_) => runs.push(both(Software::Official)),
        Err(e) => progress(&format!("official×official is skipped: {}", e.what)),
    }
    runs
}

fn pairs_of(args: &MatrixArgs) -> Result<Vec<(Kind, Kind)>, LabError> {
    if !args.pairs.is_empty() {
        return Ok(args.pairs.clone());
    }
    let kinds = match args.kinds.as_slice() {
        [] => Kind::PLAIN.to_vec(),
        [all] if all == "all" => Kind::ALL.to_vec(),
        named => named.iter().map(|word| Kind::parse(word)).collect::<Result<_, _>>().map_err(|why| {
            LabError::new("lab-kind", "there is no such kind of network.").why(why).exit_code(2)
        })?,
    };
    let mut pairs = Vec::new();
    for (i, a) in kinds.iter().enumerate() {
        for b in kinds.iter().skip(i) {
            pairs.push((*a, *b));
        }
    }
    Ok(pairs)
}

fn run_pairs(
    run: Run,
    pairs: &[(Kind, Kind)],
    args: &MatrixArgs,
    programs: &Programs,
    interrupt: &Interrupt,
) -> Result<Vec<PairResult>, LabError> {
    let mut kinds: Vec<Kind> = pairs.iter().flat_map(|(a, b)| [*a, *b]).collect();
    kinds.sort_unstable();
    kinds.dedup();
    let topology = kinds::topology(LAB, &kinds, run.sides, (run.server, args.relay));
    let mut world = World::build(topology, programs.clone(), interrupt.clone())?;
    let key = world.start_server()?;
    for kind in &kinds {
        for side in ['a', 'b'] {
            let name = kind.machine(side);
            world.join(&name, &key)?;
            world.machine(&name)?.stop();
        }
    }
    progress(&format!("{}: {} machines have joined", run.title(), kinds.len() * 2));
    let mut results = Vec::new();
    for (a, b) in pairs {
        let result = run_pair(&mut world, *a, *b, args)?;
        progress(&format!("{}: {} : {}: {}", run.title(), result.a, result.b, result.cell()));
        results.push(result);
    }
    Ok(results)
}

fn run_pair(world: &mut World, a: Kind, b: Kind, args: &MatrixArgs) -> Result<PairResult, LabError> {
    let mut result = PairResult {
        a: a.word(),
        b: b.word(),
        official_direct: a.is_direct_officially(b),
        direct: 0,
        tries: Vec::new(),
        broken: Vec::new(),
    };
    let names = [a.machine('a'), b.machine('b')];
    let rooms: Vec<String> = a.rooms('a').into_iter().chain(b.rooms('b')).collect();
    for number in 0..args.tries {
        let [first, second] = if number % 2 == 0 { [0, 1] } else { [1, 0] };
        let (from, to) = (&names[first], &names[second]);
        world.reset_nats(&rooms)?;
        let settle = Duration::from_millis(args.settle_ms);
        let outcome = start_pair(world, from, to, settle)
            .and_then(|()| measure_direct(world, from, to, Duration::from_secs(args.limit)));
        for name in &names {
            world.machine(name)?.stop();
        }
        world.interrupt().check()?;
        match outcome {
            Ok(direct) => {
                result.direct += usize::from(direct.direct_ms.is_some());
                result.tries.push(direct);
            }
            Err(error) => result.broken.push(format!("{} {}", error.what, error.why)),
        }
    }
    Ok(result)
}

/// Starts both daemons afresh and waits until each is connected and sees the other, and `settle` longer, since a
/// server may still take an old connection for the new one.
fn start_pair(world: &mut World, from: &str, to: &str, settle: Duration) -> Result<(), LabError> {
    let interrupt = world.interrupt().clone();
    for name in [from, to] {
        world.machine(name)?.start(&interrupt)?;
    }
    for (name, other) in [(to, from), (from, to)] {
        let api = world.machine(name)?.local_api();
        let ready = interrupt.wait_for(READY_LIMIT, || {
            Ok((api.is_running() && api.peer(other).is_some_and(|p| p["Online"] == true)).then_some(()))
        })?;
        ready.ok_or_else(|| {
            LabError::new("lab-not-ready", format!("\"{name}\" did not connect."))
                .why(format!("it does not see {other} online"))
        })?;
    }
    interrupt.wait_for(settle, || Ok(None::<()>))?;
    Ok(())
}

/// One line for each pair, one column for each run.
fn table(results: &[RunResult]) -> String {
    let Some(first) = results.first() else { return String::new() };
    let titles: Vec<String> = results.iter().map(|r| r.run.title()).collect();
    let title = |i: usize| titles.get(i).map_or("", String::as_str);
    let rows: Vec<[String; 5]> = first
        .pairs
        .iter()
        .enumerate()
        .map(|(row, pair)| {
            let cell = |i: usize| {
                results.get(i).and_then(|r| r.pairs.get(row)).map_or(String::new(), PairResult::cell)
            };
            let yardstick = if pair.official_direct { "direct" } else { "relay" };
            [format!("{} : {}", pair.a, pair.b), yardstick.to_owned(), cell(0), cell(1), cell(2)]
        })
        .collect();
    plain_table(["pair", "official client", title(0), title(1), title(2)], &rows)
}
