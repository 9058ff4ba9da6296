//! A node without traffic gives memory back.

use std::time::Duration;

use sw_types::Instant;

use super::Core;

/// The program's pages are given back this long after the node had something to do.
const AFTER_WORK: Duration = Duration::from_secs(2);
/// The same after the last packet of the network.
const AFTER_TRAFFIC: Duration = Duration::from_secs(10);

/// Giving memory back takes at most one part in this many of the time: what is free in a large heap is many pieces.
const SHARE: u32 = 1000;

/// When there was traffic, and when pages are to be given back.
#[derive(Debug)]
pub(super) struct Quiet {
    /// Nothing while nothing was done since the last time.
    pub(super) due: Option<Instant>,
    pub(super) last_traffic: Instant,
    /// What giving back cost last time asks for this much rest.
    not_before: Instant,
}

impl Quiet {
    pub(super) fn new(now: Instant) -> Self {
        Self { due: None, last_traffic: now, not_before: now }
    }
}

impl Core {
    /// Something was done: gives back free memory and the program's pages when that is due, or sees to it that it will be.
    pub(super) fn rest(&mut self) {
        let now = self.now().mono;
        let quiet_at = (self.quiet.last_traffic + AFTER_TRAFFIC).max(self.quiet.not_before);
        match self.quiet.due {
            None => self.quiet.due = Some(quiet_at.max(now + AFTER_WORK)),
            Some(due) if now < due => {}
            Some(_) if now < quiet_at => self.quiet.due = Some(quiet_at),
            Some(_) => {
                self.quiet.due = None;
                sw_os::heap::give_back();
                match sw_os::resident::release_program_pages() {
                    Ok(bytes) => tracing::trace!(bytes, "program pages given back"),
                    Err(error) => tracing::debug!(%error, "program pages stay"),
                }
                let done = self.now().mono;
                self.quiet.not_before = done + (done - now) * SHARE;
            }
        }
    }
}
