//! The clocks: the one that counts suspend, and the wall clock.

use rustix::time::{ClockId, Timespec, clock_gettime};
use sw_types::{Instant, Now, UnixTime};

/// The present moment on both clocks.
pub(crate) fn now() -> Now {
    Now { mono: mono(), wall: UnixTime::from_nanos(nanos(clock_gettime(ClockId::Realtime)).into()) }
}

/// The present moment on the clock that counts suspend.
#[inline]
pub(crate) fn mono() -> Instant {
    Instant::from_nanos(nanos(clock_gettime(ClockId::Boottime)) as u64)
}

fn nanos(time: Timespec) -> i64 {
    time.tv_sec * 1_000_000_000 + time.tv_nsec
}
