//! A node without traffic gives memory back.

use std::time::Duration;

use sw_types::Instant;

use super::Core;

/// Time between two releases.
const RELEASE_EVERY: Duration = Duration::from_secs(10);
/// No packet for so long is no traffic.
const SILENCE: Duration = Duration::from_secs(10);

/// When there was traffic, and when pages were given back.
#[derive(Debug)]
pub(super) struct Quiet {
    release_at: Instant,
    pub(super) last_traffic: Instant,
}

impl Quiet {
    pub(super) fn new(now: Instant) -> Self {
        Self { release_at: now + RELEASE_EVERY, last_traffic: now }
    }
}

impl Core {
    /// Gives back the program's pages when no packets flow: at the end of some wake-up, never by one of its own.
    pub(super) fn rest(&mut self) {
        let now = self.now().mono;
        if now < self.quiet.release_at || now < self.quiet.last_traffic + SILENCE {
            return;
        }
        self.quiet.release_at = now + RELEASE_EVERY;
        match sw_os::resident::release_program_pages() {
            Ok(bytes) => tracing::trace!(bytes, "program pages given back"),
            Err(error) => tracing::debug!(%error, "program pages stay"),
        }
    }
}
