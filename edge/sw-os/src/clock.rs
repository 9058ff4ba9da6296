//! The clocks that cores are told.

use rustix::time::{ClockId, Timespec, clock_gettime};
use sw_types::{Instant, Now, UnixTime};

/// The present moment: on the clock that counts suspend, and on the wall.
pub fn now() -> Now {
    let mono = nanos(clock_gettime(ClockId::Boottime));
    let wall = nanos(clock_gettime(ClockId::Realtime));
    Now {
        mono: Instant::from_nanos(u64::try_from(mono).unwrap_or(0)),
        wall: UnixTime::from_nanos(i128::from(wall)),
    }
}

/// How long the machine has slept since it was started: what one clock counts and the other does not.
pub fn suspended_nanos() -> i64 {
    nanos(clock_gettime(ClockId::Boottime)) - nanos(clock_gettime(ClockId::Monotonic))
}

fn nanos(time: Timespec) -> i64 {
    time.tv_sec * 1_000_000_000 + time.tv_nsec
}
