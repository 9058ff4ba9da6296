//! How soon pings are answered again: after the direct path is cut, and after a crash with nobody to ask.

use std::io::{BufRead as _, BufReader};
use std::process::{Child, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use super::{Pair, Row};
use crate::cli::progress;
use crate::measure::{measure_direct, millis};
use crate::namespace::argv;
use crate::{LabError, World};

/// Longest wait for pings to be answered again.
const LIMIT: Duration = Duration::from_secs(15);
/// Time between two pings, seconds, and thereby what a figure is good to.
const PING_INTERVAL: &str = "0.02";
/// Pings flow for this long before a path is cut.
const BEFORE_CUT: Duration = Duration::from_secs(2);
/// After a crash the network is left alone for this long.
const AFTER_CRASH: Duration = Duration::from_millis(500);

/// Drops all that the pairs say to each other without a relay. Addresses of sites lie in this range.
const CUT: &str = "table ip times_cut {
  chain cut {
    type filter hook forward priority filter;
    meta l4proto udp ip saddr 203.0.113.0/24 ip daddr 203.0.113.0/24 drop
  }
}";
const MEND: &str = "delete table ip times_cut";

/// Cuts, then kills; the server and its relay are dead at the end.
pub(super) fn measure(world: &mut World, pairs: &[Pair], rounds: u32) -> Result<Vec<Row>, LabError> {
    let mut rows = Vec::new();
    let mut by_turns =
        |world: &mut World, what, run: fn(&mut World, &Pair) -> Result<Option<Duration>, LabError>| {
            let mut of_all: Vec<Row> =
                pairs.iter().map(|pair| Row::new(what, pair.software, LIMIT)).collect();
            for round in 1..=rounds {
                for (pair, row) in pairs.iter().zip(&mut of_all) {
                    let took = run(world, pair)?;
                    progress(&format!("{round} of {rounds}: {what}: {}: {took:?}", pair.software.word()));
                    row.add(took.map(millis));
                }
            }
            rows.extend(of_all);
            Ok::<(), LabError>(())
        };
    by_turns(world, "silence after a cut of the direct path", cut)?;
    world.server()?.kill_control();
    by_turns(world, "answers after kill -9, server dead", crash)?;
    world.server()?.kill_relay();
    by_turns(world, "answers after kill -9, server and relay dead", crash)?;
    Ok(rows)
}

/// The longest silence around the cut; nothing when no answer came after it.
fn cut(world: &mut World, pair: &Pair) -> Result<Option<Duration>, LabError> {
    measure_direct(world, pair.near, pair.far, LIMIT)?;
    let interrupt = world.interrupt().clone();
    let mut pings = Pings::start(world, pair)?;
    pause(world, BEFORE_CUT)?;
    world.nft("internet", CUT)?;
    let at = Instant::now();
    let mut heard = Vec::new();
    // The last answer by the old path may still be on its way.
    let again = interrupt.wait_for(LIMIT, || {
        heard.extend(pings.answers.try_iter());
        Ok(heard.last().is_some_and(|last| *last > at + BEFORE_CUT).then_some(()))
    });
    pings.stop();
    world.nft("internet", MEND)?;
    Ok(again?.and_then(|()| heard.windows(2).map(|pair| pair[1] - pair[0]).max()))
}

/// From the new start of a killed daemon to the first answer.
fn crash(world: &mut World, pair: &Pair) -> Result<Option<Duration>, LabError> {
    let interrupt = world.interrupt().clone();
    world.machine(pair.near)?.kill();
    pause(world, AFTER_CRASH)?;
    let target = address(world, pair.far)?;
    let start = Instant::now();
    let machine = world.machine(pair.near)?;
    machine.start(&interrupt)?;
    let ping = argv("ping")?.get_program().to_string_lossy().into_owned();
    let answered = interrupt.wait_for(LIMIT, || {
        let output = machine.exec(&[&ping, "-n", "-c", "1", "-W", "0.1", &target], LIMIT, &interrupt)?;
        Ok(output.status.success().then(|| start.elapsed()))
    })?;
    if answered.is_some() {
        // As before the crash: what it knows is on disk, and the next crash finds a direct path.
        measure_direct(world, pair.near, pair.far, LIMIT)?;
        pause(world, BEFORE_CUT)?;
    }
    Ok(answered)
}

fn address(world: &mut World, machine: &str) -> Result<String, LabError> {
    world
        .machine(machine)?
        .local_api()
        .own_address()
        .ok_or_else(|| LabError::new("lab-not-joined", format!("\"{machine}\" has no address.")))
}

fn pause(world: &World, time: Duration) -> Result<(), LabError> {
    world.interrupt().wait_for(time, || Ok(None::<()>)).map(drop)
}

/// A ping that goes on, and when its answers came.
struct Pings {
    child: Child,
    answers: Receiver<Instant>,
}

impl Pings {
    fn start(world: &mut World, pair: &Pair) -> Result<Self, LabError> {
        let target = address(world, pair.far)?;
        let ping = argv("ping")?.get_program().to_string_lossy().into_owned();
        let failed = |e: std::io::Error| {
            LabError::new("lab-program-failed", "\"ping\" did not work.").why(e.to_string())
        };
        let mut command = world.machine(pair.near)?.command(&[&ping, "-n", "-i", PING_INTERVAL, &target])?;
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .map_err(failed)?;
        let (sender, answers) = channel();
        if let Some(out) = child.stdout.take() {
            std::thread::spawn(move || {
                let lines = BufReader::new(out).lines().map_while(Result::ok);
                for _line in lines.filter(|line| line.contains("bytes from")) {
                    // Read on after the last question, so that the program never waits for its pipe.
                    let _nobody_asks = sender.send(Instant::now());
                }
            });
        }
        Ok(Self { child, answers })
    }

    fn stop(&mut self) {
        // It runs until it is killed.
        let _gone = self.child.kill();
        let _collected = self.child.wait();
    }
}

impl Drop for Pings {
    fn drop(&mut self) {
        self.stop();
    }
}
