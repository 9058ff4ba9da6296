//! Counters of the data path. Each connection adds up its own and hands them over once per turn of its task.

use std::sync::atomic::{AtomicU64, Ordering};

use sw_relay_core::{Dropped, Kind};

macro_rules! counters {
    ($($(#[$doc:meta])* $name:ident),* $(,)?) => {
        /// Sums since the start; what each means stands with its name on the metrics page.
        #[derive(Debug, Default)]
        pub(crate) struct Counters {
            $($(#[$doc])* pub(crate) $name: AtomicU64,)*
        }

        /// What one connection counted since it last handed over.
        #[derive(Clone, Debug, Default)]
        pub(crate) struct Tally {
            $($(#[$doc])* pub(crate) $name: u64,)*
        }

        impl Counters {
            /// Adds and clears a tally.
            pub(crate) fn add(&self, tally: &mut Tally) {
                $(if tally.$name != 0 {
                    self.$name.fetch_add(tally.$name, Ordering::Relaxed);
                })*
                *tally = Tally::default();
            }

            /// All counters with their names.
            pub(crate) fn all(&self) -> impl Iterator<Item = (&'static str, u64)> {
                [$((stringify!($name), self.$name.load(Ordering::Relaxed)),)*].into_iter()
            }
        }
    };
}

counters! {
    /// Connections that asked for DERP.
    accepts,
    /// Of these, over WebSocket.
    websocket_accepts,
    /// Logins that failed: cut off, not sealed for us, too long.
    login_failures,
    /// Logins that the admission check refused.
    admission_refused,
    /// Frame bytes of packets received.
    bytes_received,
    /// Frame bytes handed to clients.
    bytes_sent,
    packets_received,
    packets_received_disco,
    packets_sent,
    packets_forwarded_in,
    packets_forwarded_out,
    /// Frames of a type that is not known.
    unknown_frames,
    /// Connections closed because a frame cannot be.
    bad_frames,
    home_moves_in,
    home_moves_out,
    got_ping,
    sent_pong,
    peer_gone_disconnected_frames,
    peer_gone_not_here_frames,
    /// Connections closed because they took nothing for too long.
    sclient_write_timeouts,
    /// Connections that broke.
    connection_errors,
    /// Times a client was made to wait for its rate.
    rate_limit_waited,
    total_dup_client_conns,
    dropped_unknown_dest_disco,
    dropped_unknown_dest_other,
    dropped_unknown_dest_on_fwd_disco,
    dropped_unknown_dest_on_fwd_other,
    dropped_queue_head_disco,
    dropped_queue_head_other,
    dropped_queue_tail_disco,
    dropped_queue_tail_other,
    dropped_gone_disconnected_disco,
    dropped_gone_disconnected_other,
    bytes_dropped_unknown_dest_disco,
    bytes_dropped_unknown_dest_other,
    bytes_dropped_unknown_dest_on_fwd_disco,
    bytes_dropped_unknown_dest_on_fwd_other,
    bytes_dropped_queue_head_disco,
    bytes_dropped_queue_head_other,
    bytes_dropped_queue_tail_disco,
    bytes_dropped_queue_tail_other,
    bytes_dropped_gone_disconnected_disco,
    bytes_dropped_gone_disconnected_other,
    /// Control frames dropped because a client is too far behind.
    dropped_control_frames,
}

impl Counters {
    /// Counts one.
    pub(crate) fn one(counter: &AtomicU64) {
        counter.fetch_add(1, Ordering::Relaxed);
    }
}

impl Tally {
    /// Counts what a full queue cost.
    pub(crate) fn queue_drops(&mut self, kind: Kind, dropped: Dropped) {
        let (head, tail, head_bytes, tail_bytes) = match kind {
            Kind::Disco => (
                &mut self.dropped_queue_head_disco,
                &mut self.dropped_queue_tail_disco,
                &mut self.bytes_dropped_queue_head_disco,
                &mut self.bytes_dropped_queue_tail_disco,
            ),
            Kind::Data => (
                &mut self.dropped_queue_head_other,
                &mut self.dropped_queue_tail_other,
                &mut self.bytes_dropped_queue_head_other,
                &mut self.bytes_dropped_queue_tail_other,
            ),
        };
        *head += u64::from(dropped.head_packets);
        *tail += u64::from(dropped.tail_packets);
        *head_bytes += dropped.head_bytes as u64;
        *tail_bytes += dropped.tail_bytes as u64;
    }
}
