//! A tap on inner packets for debugging; costs one atomic load per superpacket while it is off.

use crate::slot::lock;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use sw_types::UnixTime;
use tokio::sync::mpsc;

/// Packets that may wait for the reader of a capture; more are left out of it.
const QUEUE_LEN: usize = 1024;

/// One captured inner packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Captured {
    pub at: UnixTime,
    pub direction: CaptureDirection,
    /// The IP packet: one segment on its way in, the superpacket on its way out.
    pub bytes: Vec<u8>,
}

/// The beginning of a pcap file of IP packets, times in nanoseconds (as written by a little-endian machine).
pub const PCAP_HEADER: [u8; 24] = {
    let mut header = [0; 24];
    let magic = 0xa1b2_3c4d_u32.to_le_bytes();
    let mut i = 0;
    while i < 4 {
        header[i] = magic[i];
        i += 1;
    }
    // Version 2.4; no packet is cut; link type 101: the packet begins with its IP header.
    (header[4], header[6]) = (2, 4);
    header[18] = 4;
    header[20] = 101;
    header
};

impl Captured {
    /// The packet as a record of a pcap file.
    pub fn pcap_record(&self) -> Vec<u8> {
        let since_epoch = self.at.as_nanos();
        let len = u32::try_from(self.bytes.len()).unwrap_or(u32::MAX);
        let seconds = u32::try_from(since_epoch / 1_000_000_000).unwrap_or(u32::MAX);
        let nanoseconds = u32::try_from(since_epoch % 1_000_000_000).unwrap_or_default();
        let mut record = Vec::with_capacity(16 + self.bytes.len());
        for word in [seconds, nanoseconds, len, len] {
            record.extend(word.to_le_bytes());
        }
        record.extend_from_slice(&self.bytes);
        record
    }
}

/// Which way a captured packet went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CaptureDirection {
    ToPeer,
    FromPeer,
}

#[derive(Debug, Default)]
pub(crate) struct Capture {
    is_on: AtomicBool,
    sink: Mutex<Option<mpsc::Sender<Captured>>>,
}

impl Capture {
    /// Begins a capture; a former one ends. It ends by itself when the receiver is dropped.
    pub(crate) fn start(&self) -> mpsc::Receiver<Captured> {
        let (sender, receiver) = mpsc::channel(QUEUE_LEN);
        *lock(&self.sink) = Some(sender);
        self.is_on.store(true, Ordering::Relaxed);
        receiver
    }

    #[inline]
    pub(crate) fn take(&self, direction: CaptureDirection, packet: &[u8]) {
        if self.is_on.load(Ordering::Relaxed) {
            self.take_slow(direction, packet);
        }
    }

    #[cold]
    fn take_slow(&self, direction: CaptureDirection, packet: &[u8]) {
        let mut sink = lock(&self.sink);
        let Some(sender) = sink.as_ref() else { return };
        if sender.is_closed() {
            *sink = None;
            self.is_on.store(false, Ordering::Relaxed);
            return;
        }
        let at = crate::clock::now().wall;
        // A slow reader misses packets rather than slowing the network.
        let _is_kept = sender.try_send(Captured { at, direction, bytes: packet.to_vec() });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_capture_is_a_pcap_file() {
        let capture = Capture::default();
        let packet = [0x45, 0, 0, 20];
        capture.take(CaptureDirection::ToPeer, &packet);
        let mut receiver = capture.start();
        capture.take(CaptureDirection::FromPeer, &packet);
        let captured = receiver.try_recv().unwrap();
        assert!(receiver.try_recv().is_err(), "what passed before the start is not in it");

        let at = UnixTime::from_nanos(1_700_000_000_000_000_321);
        let record = Captured { at, ..captured }.pcap_record();
        assert_eq!(
            hex::encode([&PCAP_HEADER[..], &record].concat()),
            "4d3cb2a1020004000000000000000000000004006500000000f1536541010000040000000400000045000014"
        );

        drop(receiver);
        capture.take(CaptureDirection::ToPeer, &packet);
        assert!(!capture.is_on.load(Ordering::Relaxed), "it ends with its reader");
    }
}
