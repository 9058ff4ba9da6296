//! How long two machines take from the first packet to a direct path.

use std::io::{BufRead, BufReader};
use std::process::Stdio;
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use serde::Serialize;

use crate::namespace::argv;
use crate::{LabError, World};

/// Time between two pings, seconds.
const PING_INTERVAL: &str = "0.05";

/// What one try showed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct DirectTry {
    /// From the first packet to the first answer, milliseconds.
    pub first_reply_ms: Option<u64>,
    /// From the first packet to the direct path, milliseconds; nothing when it stayed relayed.
    pub direct_ms: Option<u64>,
    /// Address and port of the direct path.
    pub via: Option<String>,
}

/// Sends pings from one machine to the other, by address, until the path is direct or `limit` is over.
///
/// # Errors
/// A machine is not in the lab, `ping` is absent, or the interrupt.
pub fn measure_direct(
    world: &mut World,
    from: &str,
    to: &str,
    limit: Duration,
) -> Result<DirectTry, LabError> {
    let interrupt = world.interrupt().clone();
    let target = world.machine(to)?.local_api().own_address().ok_or_else(|| {
        LabError::new("lab-not-joined", format!("\"{to}\" has no address."))
            .why("its daemon is not connected")
    })?;
    let machine = world.machine(from)?;
    let api = machine.local_api();
    let ping = argv("ping")?.get_program().to_string_lossy().into_owned();
    let mut command = machine.command(&[&ping, "-n", "-i", PING_INTERVAL, &target])?;
    let failed =
        |e: std::io::Error| LabError::new("lab-program-failed", "\"ping\" did not work.").why(e.to_string());
    let start = Instant::now();
    let mut child =
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().map_err(failed)?;
    let first_reply = child.stdout.take().map(|out| first_reply_time(BufReader::new(out)));
    let found = interrupt.wait_for(limit, || Ok(api.direct_address(to).map(|via| (via, start.elapsed()))));
    let (direct, via) = match &found {
        Ok(Some((via, after))) => (Some(*after), Some(via.clone())),
        Ok(None) | Err(_) => (None, None),
    };
    // A direct path may be known before the ping program has printed its first line.
    let patience = Duration::from_millis(500);
    let first_reply = first_reply.and_then(|times| times.recv_timeout(patience).ok()).map(|at| at - start);
    // It runs until it is killed.
    let _gone = child.kill();
    let _collected = child.wait();
    found?;
    Ok(DirectTry { first_reply_ms: first_reply.map(millis), direct_ms: direct.map(millis), via })
}

/// Returns a duration in whole milliseconds.
pub(crate) fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// Tells when the first answer is printed.
fn first_reply_time(out: impl BufRead + Send + 'static) -> Receiver<Instant> {
    let (sender, receiver) = channel();
    std::thread::spawn(move || {
        for line in out.lines().map_while(Result::ok) {
            if line.contains("bytes from") {
                // Nobody may be waiting any more; reading goes on so that the program is not stopped by a full pipe.
                let _late = sender.send(Instant::now());
            }
        }
    });
    receiver
}
