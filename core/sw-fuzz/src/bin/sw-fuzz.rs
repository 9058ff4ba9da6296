//! `cargo xtask bench fuzz [--inputs N] [--target NAME] [--seed N]`: feeds N inputs to the checks and prints figures.
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a program that reports to a terminal")]

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use sw_fuzz::{Check, Mutator, TARGETS};

/// Checks that do much for every input (curve arithmetic, many decoders) get this part of the others' share.
const SLOW: &[(&str, u64)] = &[
    ("noise_handshake", 50),
    ("noise_records", 200),
    ("derp_login", 10),
    ("disco_datagram", 10),
    ("filter_rules", 50),
    ("netmap", 10),
    ("policy", 10),
    ("rpc_json", 10),
    ("wireguard", 50),
];

struct Args {
    inputs: u64,
    target: Option<String>,
    seed: u64,
}

fn main() -> ExitCode {
    let args = match parse(std::env::args().skip(1)) {
        Ok(args) => args,
        Err(problem) => {
            eprintln!("error: {problem}\n  fix: sw-fuzz [--inputs N] [--target NAME] [--seed N]");
            return ExitCode::from(2);
        }
    };
    let targets: Vec<(&str, Check)> = TARGETS
        .iter()
        .copied()
        .filter(|(name, _)| args.target.as_deref().is_none_or(|wanted| wanted == *name))
        .collect();
    if targets.is_empty() {
        eprintln!("error: there is no target {:?}", args.target.unwrap_or_default());
        return ExitCode::from(2);
    }
    let whole_shares: f64 = targets.iter().map(|(name, _)| 1.0 / slowness(name) as f64).sum();
    let began = now();
    let mut total = 0;
    println!("{:<24}{:>12}{:>14}", "target", "inputs", "inputs/s");
    for (name, check) in targets {
        let inputs = (args.inputs as f64 / whole_shares / slowness(name) as f64).ceil() as u64;
        match run(name, check, inputs, args.seed) {
            Ok(took) => {
                println!("{name:<24}{inputs:>12}{:>14.0}", inputs as f64 / took.as_secs_f64().max(1e-9));
            }

            Err(input) => {
                eprintln!(
                    "error: {name} broke a promise\n  input: {input}\n  fix: put these bytes into fuzz/corpus/{name}/"
                );
                return ExitCode::FAILURE;
            }
        }
        total += inputs;
    }
    let took = now() - began;
    println!("{:<24}{total:>12}{:>14.0}", "all", total as f64 / took.as_secs_f64().max(1e-9));
    ExitCode::SUCCESS
}

fn slowness(name: &str) -> u64 {
    SLOW.iter().find(|(slow, _)| *slow == name).map_or(1, |(_, part)| *part)
}

#[expect(clippy::disallowed_methods, reason = "this program measures; the checks see no clock")]
fn now() -> Instant {
    Instant::now()
}

/// Feeds the corpus and then `inputs` made ones to `check`; the bad input in hex when it panics.
fn run(name: &str, check: Check, inputs: u64, seed: u64) -> Result<Duration, String> {
    let corpus = corpus(name);
    let mut seed_bytes = [0; 32];
    seed_bytes[..8].copy_from_slice(&seed.to_le_bytes());
    let mut mutator = Mutator::new(&corpus, seed_bytes);
    let began = now();
    for input in &corpus {
        feed(check, input)?;
    }
    for _ in 0..inputs {
        feed(check, mutator.next_input())?;
    }
    Ok(now() - began)
}

fn feed(check: Check, input: &[u8]) -> Result<(), String> {
    catch_unwind(AssertUnwindSafe(|| check(input)))
        .map_err(|_| input.iter().map(|byte| format!("{byte:02x}")).collect())
}

#[expect(clippy::disallowed_methods, reason = "this program reads the corpus; the checks see no files")]
fn corpus(name: &str) -> Vec<Vec<u8>> {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus").join(name);
    let Ok(entries) = std::fs::read_dir(folder) else { return Vec::new() };
    let mut paths: Vec<PathBuf> = entries.filter_map(|entry| Some(entry.ok()?.path())).collect();
    paths.sort();
    paths.into_iter().filter_map(|path| std::fs::read(path).ok()).collect()
}

fn parse(mut args: impl Iterator<Item = String>) -> Result<Args, String> {
    let mut parsed = Args { inputs: 1_000_000, target: None, seed: 0 };
    while let Some(flag) = args.next() {
        let value = args.next().ok_or_else(|| format!("{flag} needs a value"))?;
        let number = || value.replace('_', "").parse().map_err(|_| format!("{value} is not a number"));
        match flag.as_str() {
            "--inputs" => parsed.inputs = number()?,
            "--seed" => parsed.seed = number()?,
            "--target" => parsed.target = Some(value),
            _ => return Err(format!("{flag} is not known")),
        }
    }
    Ok(parsed)
}
