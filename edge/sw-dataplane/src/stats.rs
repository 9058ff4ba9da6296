//! Counters of the data plane: why packets were dropped, and what the kernel could not do.

use std::sync::atomic::{AtomicU64, Ordering};

macro_rules! counters {
    ($($(#[doc = $doc:literal])* $name:ident = $label:literal,)*) => {
        /// What is counted. Most are reasons for dropping a packet.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        pub enum Counter { $($(#[doc = $doc])* $name,)* }

        impl Counter {
            /// Every counter, in the order of their declaration.
            pub const ALL: &[Self] = &[$(Self::$name,)*];

            /// The metric label.
            pub fn label(self) -> &'static str {
                match self { $(Self::$name => $label,)* }
            }
        }
    };
}

counters! {
    /// From one leg of a tunnel of our peer relay to the other; not dropped.
    Forwarded = "forwarded",
    /// Outbound: not an IP packet, or its virtio header does not fit it.
    OutMalformed = "out_malformed",
    /// Outbound: no peer owns the destination.
    OutNoRoute = "out_no_route",
    /// Outbound: the source is none of ours.
    OutForeignSource = "out_foreign_source",
    /// Outbound: the filter refused it.
    OutFiltered = "out_filtered",
    /// Outbound: the oldest packet of a full staging queue.
    OutStagingFull = "out_staging_full",
    /// Outbound: staged packets of a handshake that was never answered.
    OutHandshakeFailed = "out_handshake_failed",
    /// Outbound: the queue to the relay client was full.
    OutRelayFull = "out_relay_full",
    /// Inbound: too short, or of no known kind.
    InMalformed = "in_malformed",
    /// Inbound: a session index that does not exist.
    InUnknownSession = "in_unknown_session",
    /// Inbound: the session's time is over.
    InExpiredSession = "in_expired_session",
    /// Inbound: the tag is wrong.
    InForged = "in_forged",
    /// Inbound: the counter was seen before or is too old.
    InReplayed = "in_replayed",
    /// Inbound: the decrypted bytes are no IP packet.
    InNotIp = "in_not_ip",
    /// Inbound: the source belongs to another peer.
    InForeignSource = "in_foreign_source",
    /// Inbound: the filter refused it.
    InFiltered = "in_filtered",
    /// Inbound: a handshake message whose mac1 is wrong.
    InWrongMac = "in_wrong_mac",
    /// Inbound: a handshake message the state machine refused.
    InHandshakeRefused = "in_handshake_refused",
    /// Inbound: more handshake messages waited than fit.
    InHandshakeQueueFull = "in_handshake_queue_full",
    /// An event found its queue full.
    EventQueueFull = "event_queue_full",
    /// A packet could not be written to the TUN.
    TunWriteFailed = "tun_write_failed",
    /// The kernel's send queue was full.
    SendQueueFull = "send_queue_full",
    /// A datagram could not be sent.
    SendFailed = "send_failed",
    /// There is no socket of the address family.
    NoSocket = "no_socket",
    /// The kernel refused a GSO send; datagrams go one by one from then on.
    GsoRefused = "gso_refused",
}

/// One cell per [`Counter`].
#[derive(Debug)]
pub(crate) struct Counters {
    cells: [AtomicU64; Counter::ALL.len()],
}

impl Counters {
    pub(crate) fn new() -> Self {
        Self { cells: std::array::from_fn(|_| AtomicU64::new(0)) }
    }

    #[inline]
    pub(crate) fn add(&self, counter: Counter, count: u64) {
        self.cells[counter as usize].fetch_add(count, Ordering::Relaxed);
    }

    pub(crate) fn get(&self, counter: Counter) -> u64 {
        self.cells[counter as usize].load(Ordering::Relaxed)
    }
}
