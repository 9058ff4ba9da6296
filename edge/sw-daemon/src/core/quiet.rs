//! A node without traffic gives memory back.

use std::time::Duration;

use sw_types::Instant;

use super::Core;

/// The program's pages are given back this long after the node had something to do.
const AFTER_WORK: Duration = Duration::from_secs(2);
/// The same after the last packet of the network.
const AFTER_TRAFFIC: Duration = Duration::from_secs(10);

/// When there was traffic, and when pages are to be given back.
#[derive(Debug)]
pub(super) struct Quiet {
    /// Nothing while nothing was done since the last time.
    pub(super) due: Option<Instant>,
    pub(super) last_traffic: Instant,
}

impl Quiet {
    pub(super) fn new(now: Instant) -> Self {
        Self { due: None, last_traffic: now }
    }
}

impl Core {
    /// Something was done: gives back the program's pages when that is due, or sees to it that it will be.
    pub(super) fn rest(&mut self) {
        let now = self.now().mono;
        let quiet_at = self.quiet.last_traffic + AFTER_TRAFFIC;
        match self.quiet.due {
            None => self.quiet.due = Some(quiet_at.max(now + AFTER_WORK)),
            Some(due) if now < due => {}
            Some(_) if now < quiet_at => self.quiet.due = Some(quiet_at),
            Some(_) => {
                self.quiet.due = None;
                match sw_os::resident::release_program_pages() {
                    Ok(bytes) => tracing::trace!(bytes, "program pages given back"),
                    Err(error) => tracing::debug!(%error, "program pages stay"),
                }
            }
        }
    }
}
