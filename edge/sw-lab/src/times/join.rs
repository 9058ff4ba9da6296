//! From the start of `up --auth-key` on a machine that has never been in the network.

use std::process::Stdio;
use std::time::{Duration, Instant};

use super::{Pair, Row, site_of};
use crate::cli::progress;
use crate::measure::{measure_direct, millis};
use crate::namespace::argv;
use crate::{LabError, World};

/// Longest wait for each step.
const LIMIT: Duration = Duration::from_secs(12);

/// Joins the near machine of each pair by turns, each time as a new machine; it stays in the network after the last.
pub(super) fn measure(
    world: &mut World,
    pairs: &[Pair],
    key: &str,
    rounds: u32,
) -> Result<Vec<Row>, LabError> {
    let mut rows: Vec<Row> = ["address on the TUN", "first answer", "direct path"]
        .into_iter()
        .flat_map(|what| pairs.iter().map(move |pair| Row::new(what, pair.software, LIMIT)))
        .collect();
    for round in 0..rounds {
        for (at, pair) in pairs.iter().enumerate() {
            let [address, answer, direct] = join(world, pair, key)?;
            for (step, ms) in [address, answer, direct].into_iter().enumerate() {
                rows[step * pairs.len() + at].add(ms);
            }
            progress(&format!(
                "{} of {rounds}: {}: address {address:?}, answer {answer:?}, direct {direct:?}",
                round + 1,
                pair.software.word()
            ));
        }
    }
    Ok(rows)
}

fn join(world: &mut World, pair: &Pair, key: &str) -> Result<[Option<u64>; 3], LabError> {
    let (url, interrupt) = (world.server()?.url(), world.interrupt().clone());
    let machine = world.machine(pair.near)?;
    machine.stop();
    forget(&machine.dir().join("state"))?;
    // Its own router alone: the other one's forgetting would cut that machine off from server and relay, too.
    world.reset_nats(&[site_of(pair.near)])?;
    let machine = world.machine(pair.near)?;
    machine.start(&interrupt)?;
    let show = argv("ip")?.get_program().to_string_lossy().into_owned();
    let mut up = machine.command_of_its_program()?;
    up.args(["up", "--login-server", &url, "--auth-key", key, "--hostname", pair.near]);
    up.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let start = Instant::now();
    let failed = |e: std::io::Error| LabError::new("lab-join", "\"up\" did not work.").why(e.to_string());
    let mut up = up.spawn().map_err(failed)?;
    let tun = pair.software.tun();
    let address = interrupt.wait_for(LIMIT, || {
        let output = machine.exec(&[&show, "-4", "addr", "show", "dev", tun], LIMIT, &interrupt)?;
        Ok(String::from_utf8_lossy(&output.stdout).contains("inet 100.").then(|| start.elapsed()))
    })?;
    let direct = match address {
        Some(_) => Some((start.elapsed(), measure_direct(world, pair.near, pair.far, LIMIT)?)),
        None => None,
    };
    // It ends by itself once the machine is connected.
    let _gone = up.kill();
    let _collected = up.wait();
    let after = |at: Duration, ms: Option<u64>| ms.map(|ms| millis(at) + ms);
    Ok(match direct {
        Some((at, tried)) => {
            [address.map(millis), after(at, tried.first_reply_ms), after(at, tried.direct_ms)]
        }
        None => [None; 3],
    })
}

fn forget(state: &std::path::Path) -> Result<(), LabError> {
    match std::fs::remove_dir_all(state) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
            Err(LabError::new("lab-files", "the state of a machine cannot be removed.").why(e.to_string()))
        }
        Ok(()) | Err(_) => Ok(()),
    }
}
