//! What a node costs that has ten peers and nothing to do.

use std::time::{Duration, Instant};

use serde::Serialize;

use crate::cli::progress;
use crate::topology::{MachineSpec, ServerSpec, Topology};
use crate::{Interrupt, LabError, Programs, Software, World};

/// Name of the lab.
const LAB: &str = "idle";
const PEERS: usize = 10;
/// Sessions end, paths are no longer kept warm.
const QUIET: Duration = Duration::from_secs(75);
/// How long it is watched.
const WATCHED: Duration = Duration::from_secs(30);
/// Between two looks at its memory; what a look shows is the most so far, so few are missed.
const LOOK: Duration = Duration::from_millis(500);

#[derive(Debug, Serialize)]
pub(super) struct Rest {
    peers: usize,
    /// Resident memory with shared pages, MiB, at the end and the most while it was watched.
    resident_mib: f64,
    resident_mib_max: f64,
    /// How often a thread of the daemon was given the processor, per second.
    wakeups_per_s: f64,
}

impl Rest {
    pub(super) fn sentence(&self) -> String {
        format!(
            "At rest beside {} peers that it has pinged: {:.1} MiB resident (at most {:.1}), {:.2} wake-ups a second.",
            self.peers, self.resident_mib, self.resident_mib_max, self.wakeups_per_s
        )
    }
}

/// Pings each peer once from one node, lets it come to rest, and watches it.
pub(super) fn measure(programs: Programs, interrupt: Interrupt) -> Result<Rest, LabError> {
    let mut world = World::build(topology(), programs, interrupt.clone())?;
    let key = world.start_server()?;
    world.join("node", &key)?;
    for number in 1..=PEERS {
        let peer = format!("peer{number}");
        world.join(&peer, &key)?;
        crate::measure_direct(&mut world, "node", &peer, Duration::from_secs(12))?;
    }
    progress(&format!("a node has joined and pinged {PEERS} peers"));
    interrupt.wait_for(QUIET, || Ok(None::<()>))?;
    let pid = world.machine("node")?.daemon_pid().unwrap_or_default();
    let (start, before) = (Instant::now(), switches(pid));
    let (mut most, mut next) = (0.0_f64, start);
    interrupt.wait_for(WATCHED, || {
        if Instant::now() >= next {
            next += LOOK;
            most = most.max(resident_mib(pid));
        }
        Ok(None::<()>)
    })?;
    #[expect(clippy::cast_precision_loss, reason = "some hundred switches")]
    let wakeups = switches(pid).saturating_sub(before) as f64;
    Ok(Rest {
        peers: PEERS,
        resident_mib: resident_mib(pid),
        resident_mib_max: most,
        wakeups_per_s: wakeups / start.elapsed().as_secs_f64(),
    })
}

fn topology() -> Topology {
    let mut topology = Topology {
        name: LAB.into(),
        server: Some(ServerSpec::new("hub", Software::Samewire)),
        ..Topology::default()
    };
    let names = std::iter::once("node".to_owned()).chain((1..=PEERS).map(|number| format!("peer{number}")));
    topology.machine = names.map(|name| MachineSpec::new(&name, "internet", Software::Samewire)).collect();
    topology
}

/// `VmRSS` of proc(5).
fn resident_mib(pid: u32) -> f64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let kib = field(&status, "VmRSS:");
    #[expect(clippy::cast_precision_loss, reason = "some thousand KiB")]
    let mib = kib as f64 / 1024.0;
    mib
}

/// Context switches of all threads so far (proc(5)): each wake-up ends in one.
fn switches(pid: u32) -> u64 {
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    let of_each = tasks.map(|task| {
        let status = std::fs::read_to_string(task.path().join("status")).unwrap_or_default();
        field(&status, "voluntary_ctxt_switches:") + field(&status, "nonvoluntary_ctxt_switches:")
    });
    of_each.sum()
}

fn field(status: &str, name: &str) -> u64 {
    let line = status.lines().find_map(|line| line.strip_prefix(name));
    line.and_then(|rest| rest.split_whitespace().next()?.parse().ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_has_memory_and_was_woken() {
        let pid = std::process::id();
        assert!(resident_mib(pid) > 0.5 && switches(pid) > 0);
        assert_eq!(topology().validate(), Ok(()));
    }
}
