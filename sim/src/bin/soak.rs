//! Runs random scenarios for as long as wanted, or one large world.
//!
//! ```text
//! soak [--minutes N] [--seed FIRST] [--scenarios N]     random scenarios
//! soak --nodes N [--hours H] [--seed SEED] [--real]     one large tailnet
//! ```
//! With `--real` the large tailnet has node cores and a server, not a stand-in.
//! It ends at the first broken invariant with the seed and the shortest
//! scenario, exit code 1.

use std::io::Write as _;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use sw_sim::Cores;

/// How often a long run says how far it is.
const PROGRESS: Duration = Duration::from_secs(10);

/// What was asked for.
struct Options {
    minutes: Option<u64>,
    seed: u64,
    scenarios: Option<u64>,
    nodes: Option<usize>,
    hours: u64,
    cores: Cores,
}

fn main() -> ExitCode {
    let options = match parse(std::env::args().skip(1)) {
        Ok(options) => options,
        Err(text) => {
            say(&format!(
                "error: {text}\nuse: soak [--minutes N] [--seed N] [--scenarios N] | --nodes N [--hours N] [--real]"
            ));
            return ExitCode::from(2);
        }
    };
    match options.nodes {
        Some(nodes) => crowd(nodes, &options),
        None => scenarios(&options),
    }
}

fn parse(mut words: impl Iterator<Item = String>) -> Result<Options, String> {
    let mut options =
        Options { minutes: None, seed: 0, scenarios: None, nodes: None, hours: 1, cores: Cores::Paths };
    while let Some(word) = words.next() {
        if word == "--real" {
            options.cores = Cores::Real;
            continue;
        }
        let value = words.next().ok_or_else(|| format!("{word} wants a number"))?;
        let number: u64 = value.parse().map_err(|_| format!("{word} wants a number, not {value:?}"))?;
        match word.as_str() {
            "--minutes" => options.minutes = Some(number),
            "--seed" => options.seed = number,
            "--scenarios" => options.scenarios = Some(number),
            "--nodes" => options.nodes = Some(number as usize),
            "--hours" => options.hours = number,
            _ => return Err(format!("{word} is not known")),
        }
    }
    Ok(options)
}

fn scenarios(options: &Options) -> ExitCode {
    let begin = Instant::now();
    let limit = options.minutes.map(|m| Duration::from_secs(m * 60));
    let count = options.scenarios.unwrap_or(if limit.is_some() { u64::MAX } else { 10_000 });
    let mut done = 0;
    let mut told = begin;
    while done < count && limit.is_none_or(|limit| begin.elapsed() < limit) {
        let seed = options.seed.wrapping_add(done);
        if let Err(failure) = sw_sim::check(seed) {
            say(&failure.to_string());
            return ExitCode::FAILURE;
        }
        done += 1;
        if told.elapsed() >= PROGRESS {
            told = Instant::now();
            say(&format!(
                "{done} scenarios in order after {:.0} s, seeds {} to {seed}",
                begin.elapsed().as_secs_f64(),
                options.seed
            ));
        }
    }
    say(&format!(
        "{done} scenarios from seed {} in order, {:.1} s",
        options.seed,
        begin.elapsed().as_secs_f64()
    ));
    ExitCode::SUCCESS
}

fn crowd(nodes: usize, options: &Options) -> ExitCode {
    let begin = Instant::now();
    let hours = options.hours;
    let lasts = Duration::from_secs(hours * 3600);
    let mut scenario = sw_sim::Scenario::crowd(nodes, lasts, options.seed);
    scenario.cores = options.cores;
    let mut world = sw_sim::World::new(&scenario);
    let mut told = begin;
    while world.elapsed() < lasts && world.violations().is_empty() {
        world.run_for(Duration::from_secs(60));
        if told.elapsed() >= PROGRESS {
            told = Instant::now();
            let (real, minutes) = (begin.elapsed().as_secs_f64(), world.elapsed().as_secs() / 60);
            say(&format!("{minutes} min virtual after {real:.0} s, seed {}", options.seed));
        }
    }
    let figures = world.figures();
    say(&format!(
        "{nodes} nodes, {hours} h virtual in {:.1} s: {figures:?}, trace {:016x}",
        begin.elapsed().as_secs_f64(),
        world.trace().hash()
    ));
    match world.violations().first() {
        None => ExitCode::SUCCESS,
        Some(violation) => {
            say(&format!("broken: {violation}"));
            ExitCode::FAILURE
        }
    }
}

fn say(text: &str) {
    // A closed pipe is no reason to stop counting.
    drop(writeln!(std::io::stdout(), "{text}"));
}
