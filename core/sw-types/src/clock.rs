//! Time as an argument: a monotonic clock that counts suspend, and wall time.

use std::fmt;
use std::ops::{Add, AddAssign, Sub};
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// A moment of the monotonic clock that goes on during suspend (`CLOCK_BOOTTIME`): nanoseconds since some
/// fixed moment before the process began. Arithmetic saturates, so a wild duration never panics.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Instant(u64);

impl Instant {
    /// The clock's beginning.
    pub const ZERO: Self = Self(0);
    /// A moment that is never reached.
    pub const MAX: Self = Self(u64::MAX);

    /// Takes nanoseconds since the clock's beginning.
    pub const fn from_nanos(nanos: u64) -> Self {
        Self(nanos)
    }

    /// Nanoseconds since the clock's beginning.
    pub const fn as_nanos(self) -> u64 {
        self.0
    }

    /// The time from `earlier` to `self`, zero when `earlier` is later.
    pub const fn saturating_since(self, earlier: Self) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }

    /// The time from `earlier` to `self`, `None` when `earlier` is later.
    pub const fn checked_since(self, earlier: Self) -> Option<Duration> {
        match self.0.checked_sub(earlier.0) {
            Some(nanos) => Some(Duration::from_nanos(nanos)),
            None => None,
        }
    }
}

/// Nanoseconds of `duration`, at most `u64::MAX` (584 years).
fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

impl Add<Duration> for Instant {
    type Output = Self;
    fn add(self, duration: Duration) -> Self {
        Self(self.0.saturating_add(nanos(duration)))
    }
}

impl AddAssign<Duration> for Instant {
    fn add_assign(&mut self, duration: Duration) {
        *self = *self + duration;
    }
}

impl Sub<Duration> for Instant {
    type Output = Self;
    fn sub(self, duration: Duration) -> Self {
        Self(self.0.saturating_sub(nanos(duration)))
    }
}

/// The time between two moments, zero when the right one is later.
impl Sub for Instant {
    type Output = Duration;
    fn sub(self, earlier: Self) -> Duration {
        self.saturating_since(earlier)
    }
}

/// A text is not an RFC 3339 time of the years 0 to 9999.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not an RFC 3339 time")]
pub struct TimeError;

/// Wall time in nanoseconds, years 0 to 9999 (what Go can write). Text and JSON form: RFC 3339 in UTC with as
/// many fractional digits as needed.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct UnixTime(OffsetDateTime);

impl UnixTime {
    /// 1970-01-01T00:00:00Z.
    pub const EPOCH: Self = Self(OffsetDateTime::UNIX_EPOCH);
    /// Go's zero time `0001-01-01T00:00:00Z`, which on the wire means "not set" (control.md, conventions).
    pub const GO_ZERO: Self = Self(time::macros::datetime!(0001-01-01 0:00 UTC));

    const MIN: Self = Self(time::macros::datetime!(0000-01-01 0:00 UTC));
    const MAX: Self = Self(time::macros::datetime!(9999-12-31 23:59:59.999999999 UTC));

    /// Takes nanoseconds since 1970; what lies outside the years 0 to 9999 is clamped.
    pub fn from_nanos(nanos: i128) -> Self {
        let nanos = nanos.clamp(Self::MIN.as_nanos(), Self::MAX.as_nanos());
        Self(OffsetDateTime::from_unix_timestamp_nanos(nanos).expect("clamped to the years 0 to 9999"))
    }

    /// Takes milliseconds since 1970, clamped alike.
    pub fn from_millis(millis: i64) -> Self {
        Self::from_nanos(i128::from(millis) * 1_000_000)
    }

    /// Takes seconds since 1970, clamped alike.
    pub fn from_secs(secs: i64) -> Self {
        Self::from_nanos(i128::from(secs) * 1_000_000_000)
    }

    /// Nanoseconds since 1970, negative before.
    pub const fn as_nanos(self) -> i128 {
        self.0.unix_timestamp_nanos()
    }

    /// Whole milliseconds since 1970, rounded down.
    pub const fn as_millis(self) -> i64 {
        self.as_nanos().div_euclid(1_000_000) as i64
    }

    /// Whole seconds since 1970, rounded down.
    pub const fn as_secs(self) -> i64 {
        self.0.unix_timestamp()
    }

    /// Returns true for Go's zero time, "not set".
    pub fn is_go_zero(self) -> bool {
        self == Self::GO_ZERO
    }

    /// The time from `earlier` to `self`, zero when `earlier` is later (a clock may be set back).
    pub fn saturating_since(self, earlier: Self) -> Duration {
        let nanos = (self.as_nanos() - earlier.as_nanos()).max(0);
        Duration::from_secs((nanos / 1_000_000_000) as u64)
            + Duration::from_nanos((nanos % 1_000_000_000) as u64)
    }
}

impl Add<Duration> for UnixTime {
    type Output = Self;
    fn add(self, duration: Duration) -> Self {
        Self::from_nanos(self.as_nanos().saturating_add_unsigned(duration.as_nanos()))
    }
}

impl Sub<Duration> for UnixTime {
    type Output = Self;
    fn sub(self, duration: Duration) -> Self {
        Self::from_nanos(self.as_nanos().saturating_sub_unsigned(duration.as_nanos()))
    }
}

impl Default for UnixTime {
    fn default() -> Self {
        Self::GO_ZERO
    }
}

impl fmt::Display for UnixTime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.format(&Rfc3339).map_err(|_| fmt::Error)?)
    }
}

impl fmt::Debug for UnixTime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for UnixTime {
    type Err = TimeError;

    fn from_str(text: &str) -> Result<Self, TimeError> {
        let parsed = OffsetDateTime::parse(text, &Rfc3339).map_err(|_| TimeError)?;
        // An offset can lead out of the years that the text form can hold.
        let nanos = parsed.unix_timestamp_nanos();
        if (Self::MIN.as_nanos()..=Self::MAX.as_nanos()).contains(&nanos) {
            Ok(Self::from_nanos(nanos))
        } else {
            Err(TimeError)
        }
    }
}

impl Serialize for UnixTime {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for UnixTime {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// The moment of a call, on both clocks: retries use `mono`, expiry dates use `wall`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Now {
    pub mono: Instant,
    pub wall: UnixTime,
}

impl Now {
    /// Both clocks `duration` later, as they run while nobody sets them (for simulators and tests).
    #[must_use]
    pub fn after(self, duration: Duration) -> Self {
        Self { mono: self.mono + duration, wall: self.wall + duration }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn instants_never_wrap() {
        let second = Duration::from_secs(1);
        assert_eq!(Instant::ZERO - second, Instant::ZERO);
        assert_eq!(Instant::MAX + second, Instant::MAX);
        assert_eq!(Instant::ZERO + Duration::MAX, Instant::MAX);
        assert_eq!(Instant::ZERO - Instant::MAX, Duration::ZERO);
        assert_eq!((Instant::ZERO + second).checked_since(Instant::ZERO), Some(second));
        assert_eq!(Instant::ZERO.checked_since(Instant::MAX), None);
    }

    #[test]
    fn go_times_are_read_and_written() {
        for text in ["0001-01-01T00:00:00Z", "1970-01-01T00:02:03Z", "2026-08-22T12:00:00.123456789Z"] {
            assert_eq!(text.parse::<UnixTime>().map(|t| t.to_string()).as_deref(), Ok(text));
        }
        assert!("0001-01-01T00:00:00Z".parse::<UnixTime>().is_ok_and(UnixTime::is_go_zero));
        assert_eq!("1970-01-01T00:02:03Z".parse(), Ok(UnixTime::from_secs(123)));
        assert_eq!("2026-11-22T16:12:00+01:00".parse(), "2026-11-22T15:12:00Z".parse::<UnixTime>());
        for bad in
            ["", "2026-11-22", "2026-13-22T15:12:00Z", "0000-01-01T00:00:00+23:00", "10000-01-01T00:00:00Z"]
        {
            assert_eq!(bad.parse::<UnixTime>(), Err(TimeError), "{bad}");
        }
    }

    #[test]
    fn wall_time_is_clamped_to_what_go_can_write() {
        assert_eq!(UnixTime::from_nanos(i128::MAX).to_string(), "9999-12-31T23:59:59.999999999Z");
        assert_eq!(UnixTime::from_nanos(i128::MIN).to_string(), "0000-01-01T00:00:00Z");
        assert_eq!(UnixTime::EPOCH + Duration::MAX, UnixTime::MAX);
        assert_eq!(UnixTime::EPOCH - Duration::MAX, UnixTime::MIN);
        assert_eq!(UnixTime::EPOCH.saturating_since(UnixTime::MAX), Duration::ZERO);
        assert_eq!(UnixTime::from_millis(-1).as_secs(), -1);
        assert_eq!(UnixTime::from_millis(-1).as_millis(), -1);
    }

    #[test]
    fn every_time_survives_its_text() {
        arbtest::arbtest(|u| {
            let time = UnixTime::from_nanos(u.arbitrary()?);
            assert_eq!(time.to_string().parse(), Ok(time));
            Ok(())
        });
    }
}
