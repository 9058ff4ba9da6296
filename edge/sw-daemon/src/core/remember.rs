//! When the network is written to disk for a start without the server, and that the newest write wins.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use sw_tailcfg::MapResponse;
use sw_types::Instant;

/// Changes that come together are written together.
const GATHER: Duration = Duration::from_millis(100);
/// Rest after a write, for each peer in it: a large network that changes all the time costs some per cent of a core, and
/// a small one is on disk at once.
const REST_PER_PEER: Duration = Duration::from_millis(1);

/// The writer of one cache file.
#[derive(Debug, Default)]
pub(super) struct Remember {
    due: Option<Instant>,
    not_before: Instant,
    begun: u64,
    /// Number of the newest write on disk.
    done: Arc<Mutex<u64>>,
}

impl Remember {
    /// The network changed. Later changes never postpone what is due.
    pub(super) fn on_change(&mut self, now: Instant) {
        self.due.get_or_insert((now + GATHER).max(self.not_before));
    }

    /// When the next write is due.
    pub(super) fn due(&self) -> Option<Instant> {
        self.due
    }

    /// Whether a write is due; it counts as begun.
    pub(super) fn take_due(&mut self, now: Instant) -> bool {
        self.due.take_if(|due| *due <= now).is_some()
    }

    /// Whether something is not yet on disk; it counts as begun.
    pub(super) fn take_any(&mut self) -> bool {
        self.due.take().is_some()
    }

    /// Writes the network off this task.
    pub(super) fn write(&mut self, path: PathBuf, message: MapResponse, now: Instant) {
        let (number, done) = (self.begin(message.peers.len(), now), Arc::clone(&self.done));
        tokio::task::spawn_blocking(move || {
            let mut done = done.lock().unwrap_or_else(PoisonError::into_inner);
            if *done > number {
                return;
            }
            match crate::store::write_cache(&path, &message) {
                Ok(()) => *done = number,
                Err(error) => tracing::warn!(%error, "the network is not remembered"),
            }
        });
    }

    /// There is no network any more: no write that is under way brings it back after the file is removed.
    pub(super) fn forget(&mut self) {
        self.begun += 1;
        *self.done.lock().unwrap_or_else(PoisonError::into_inner) = self.begun;
    }

    fn begin(&mut self, peers: usize, now: Instant) -> u64 {
        self.not_before = now + REST_PER_PEER * u32::try_from(peers).unwrap_or(u32::MAX);
        self.begun += 1;
        self.begun
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(millis: u64) -> Instant {
        Instant::ZERO + Duration::from_millis(millis)
    }

    #[test]
    fn changes_without_end_do_not_postpone_the_write() {
        let mut remember = Remember::default();
        let mut writes = 0;
        for step in 0..100 {
            remember.on_change(at(step * 10));
            writes += u32::from(remember.take_due(at(step * 10)));
        }
        assert!((8..=10).contains(&writes), "{writes}");
    }

    #[test]
    fn a_large_network_is_written_seldom() {
        let mut remember = Remember::default();
        remember.begin(3000, at(1000));
        remember.on_change(at(1001));
        assert_eq!(remember.due(), Some(at(4000)));
        assert!(!remember.take_due(at(3999)) && remember.take_any() && !remember.take_any());
    }
}
