//! The one place of this crate that asks for the time.

use std::time::{Duration, SystemTime};

use rustix::time::{ClockId, clock_gettime};
use sw_types::{Instant, Now, UnixTime};

/// Both clocks.
pub fn now() -> Now {
    Now { mono: mono(), wall: wall() }
}

fn mono() -> Instant {
    let time = clock_gettime(ClockId::Boottime);
    let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
    let nanos = u64::try_from(time.tv_nsec).unwrap_or(0);
    Instant::from_nanos(seconds * 1_000_000_000 + nanos)
}

fn wall() -> UnixTime {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    UnixTime::from_nanos(i128::try_from(since.as_nanos()).unwrap_or(i128::MAX))
}

/// Sleeps until a moment of the monotonic clock; for ever without one.
pub(crate) async fn sleep_until(at: Option<Instant>) {
    match at {
        // WHY a limit: tokio's clock stands still in suspend, so a long sleep would be too long.
        Some(at) => tokio::time::sleep(at.saturating_since(mono()).min(Duration::from_secs(60))).await,
        None => std::future::pending().await,
    }
}

/// Random bytes of the operating system.
///
/// # Panics
/// When the system has none: nothing may go on then (threat-model.md §5).
pub fn random<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).expect("the operating system gives random bytes");
    bytes
}
