//! TAI64N timestamps of initiations (WireGuard paper §5.1).

use super::Dropped;
use sw_types::{Instant, UnixTime};

/// TAI64 of the Unix epoch, with the ten leap seconds of 1972 that the label format includes.
const EPOCH: u64 = 0x4000_0000_0000_000a;
/// Nanoseconds are told in steps of 2²⁴ (16.8 ms), so that they say little about this machine's clock.
const STEP_NANOS: u64 = 1 << 24;

/// The newest timestamps exchanged with one peer.
#[derive(Debug, Default)]
pub(crate) struct Stamps {
    sent_nanos: u64,
    received: Option<[u8; 12]>,
    /// When an initiation was last accepted.
    pub(crate) last_accepted: Option<Instant>,
}

impl Stamps {
    /// The next timestamp to send: the wall clock, but always later than the last one, even when the clock went
    /// back.
    pub(crate) fn next(&mut self, wall: UnixTime) -> [u8; 12] {
        let wall_nanos = u64::try_from(wall.as_nanos()).unwrap_or(0);
        let nanos = (wall_nanos & !(STEP_NANOS - 1)).max(self.sent_nanos + STEP_NANOS);
        self.sent_nanos = nanos;
        let mut stamp = [0; 12];
        stamp[..8].copy_from_slice(&(EPOCH + nanos / 1_000_000_000).to_be_bytes());
        stamp[8..].copy_from_slice(&((nanos % 1_000_000_000) as u32).to_be_bytes());
        stamp
    }

    /// Accepts a timestamp newer than every one before.
    pub(crate) fn receive(&mut self, stamp: [u8; 12]) -> Result<(), Dropped> {
        if self.received.is_some_and(|last| stamp <= last) {
            return Err(Dropped::Replayed);
        }
        self.received = Some(stamp);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stamps_rise_even_when_the_clock_goes_back() {
        let mut stamps = Stamps::default();
        let first = stamps.next(UnixTime::from_secs(1_700_000_000));
        let label = u64::from_be_bytes(*first.first_chunk().unwrap());
        assert!((EPOCH + 1_699_999_999..=EPOCH + 1_700_000_000).contains(&label));
        let second = stamps.next(UnixTime::from_secs(1_600_000_000));
        let third = stamps.next(UnixTime::from_secs(-5));
        assert!(first < second && second < third);
    }

    #[test]
    fn a_timestamp_is_accepted_once() {
        let mut stamps = Stamps::default();
        assert!(stamps.receive([2; 12]).is_ok());
        assert_eq!(stamps.receive([2; 12]), Err(Dropped::Replayed));
        assert_eq!(stamps.receive([1; 12]), Err(Dropped::Replayed));
        assert!(stamps.receive([3; 12]).is_ok());
    }
}
