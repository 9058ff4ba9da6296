//! WireGuard as a pure state machine.
//!
//! It speaks the protocol of the WireGuard paper (Donenfeld 2020) exactly, and knows nothing of sockets, clocks,
//! threads or TUN devices. Two halves:
//!
//! * [`WireGuard`] runs handshakes, timers and cookies of all peers. Only peers in use exist in it; the others are
//!   known by its [`Directory`].
//! * A [`Session`] is what a finished handshake leaves: keys and a send counter, shared as `Arc` with the threads
//!   that move data. They seal and open without entering the machine and leave notes in the peer's [`Activity`].
//!
//! ```text
//!  handshake datagrams ─► WireGuard ─► Output::Send ─► handshake datagrams
//!                             │  ▲
//!          Output::Sessions   │  │ on_session_wanted, on_confirmed, on_activity
//!                             ▼  │
//!  inner packets ─► Session::take_counters, BatchCipher::seal ─► data messages
//!  data messages ─► BatchCipher::open, ReplayWindow::accept ─► inner packets
//! ```
#![forbid(unsafe_code)]
#![warn(clippy::iter_over_hash_type)]

mod activity;
mod cipher;
mod cookie;
mod handshake;
mod machine;
mod message;
mod primitives;
mod replay;
mod session;

pub use activity::{Activity, Content};
pub use cipher::{BATCH_MAX, BatchCipher, Key, Layout, Library};
pub use cookie::MacCheck;
pub use machine::{Directory, Dropped, Output, PeerParams, Stats, Wake, WireGuard};
pub use message::{
    COOKIE_REPLY_LEN, DATA_HEADER_LEN, DATA_OVERHEAD, DataHeader, INITIATION_LEN, Message, RESPONSE_LEN,
};
pub use primitives::TAG_LEN;
pub use replay::{ReplayWindow, WINDOW};
pub use session::{Role, Session, Sessions};

use std::net::SocketAddr;
use std::time::Duration;
use sw_types::{NodeKey, RegionId, Vni};

/// The initiator renews a session of this age when it sends (paper §6.1, as all the constants here).
pub const REKEY_AFTER_TIME: Duration = Duration::from_secs(120);
/// Nothing is sent or accepted with a session of this age.
pub const REJECT_AFTER_TIME: Duration = Duration::from_secs(180);
/// Attempts at one handshake end after this.
pub const REKEY_ATTEMPT_TIME: Duration = Duration::from_secs(90);
/// Between two initiations to one peer.
pub const REKEY_TIMEOUT: Duration = Duration::from_secs(5);
/// The same when there is proof that the last one met a peer or a path that was not ready yet.
const REKEY_REACHABLE: Duration = Duration::from_millis(150);
/// The first retry when there is no session that data could use meanwhile; each further one waits twice as long, up to
/// [`REKEY_TIMEOUT`]. One lost datagram shall not cost a person five seconds.
const FIRST_RETRY: Duration = Duration::from_millis(500);
/// A receiver that has nothing to say says so after this.
pub const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(10);
/// Both sides renew after this many messages.
pub const REKEY_AFTER_MESSAGES: u64 = 1 << 60;
/// No counter from here on is sent or accepted.
pub const REJECT_AFTER_MESSAGES: u64 = u64::MAX - (1 << 13);

/// Most that is added at random to [`REKEY_TIMEOUT`].
const REKEY_JITTER_MAX: Duration = Duration::from_millis(333);
/// An initiator that only receives renews at this age.
const REKEY_ON_RECEIVE_AFTER: Duration = Duration::from_secs(180 - 10 - 5);
/// Least time between two initiations accepted from one peer.
const INITIATION_INTERVAL: Duration = Duration::from_millis(20);
/// More handshake messages waiting than this is load (threat-model.md §4) …
const BACKLOG_MAX: usize = 64;
/// … and stays load for this long.
const UNDER_LOAD_FOR: Duration = Duration::from_secs(1);

/// Where a datagram came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Source {
    /// Straight over UDP.
    Udp(SocketAddr),
    /// Over a peer relay, inside Geneve.
    PeerRelay { via: SocketAddr, vni: Vni },
    /// Over a relay, which says (but does not prove) who sent it.
    Derp { region: RegionId, from: NodeKey },
}
