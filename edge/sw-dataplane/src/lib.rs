//! Packet threads: TUN to wire and back.
//!
//! A [`Device`] owns the TUN queue (or a pair of packet queues), the UDP sockets and the threads between them, and
//! the WireGuard state machine. Its owner says which peers there are and how each is reached; it takes what is not
//! WireGuard, and what goes through relays, out of a queue of [`Event`]s.
//!
//! ```text
//!            sw-data-out                               sw-data-in4, sw-data-in6
//!  TUN ─► split, route, filter ─► Burst: seal ─► UDP ─► demux ─► open ─► filter, join ─► TUN
//!                  │ no session                           │ handshake
//!                  ▼                                      ▼
//!               Inbox ──────────► sw-wg-state: sw_wg::WireGuard ─► sessions, by pointer swap
//! ```
//!
//! The packet threads block in the kernel, take no lock that the owner holds, and allocate nothing per packet of an
//! established session. What they share with the others are immutable snapshots and atomics.
#![deny(unsafe_code)]

mod burst;
mod capture;
mod cipher;
mod clock;
mod control;
mod demux;
mod device;
mod event;
mod extra;
mod filter;
mod forward;
pub mod fuzz;
mod inbound;
mod inbox;
mod io;
mod outbound;
mod own;
mod packet;
mod routes;
mod shared;
mod slot;
mod stats;
mod uapi;
mod udp;
pub mod wireguard;

pub use capture::{CaptureDirection, Captured, PCAP_HEADER};
pub use cipher::multi_buffer;
pub use device::{Device, DeviceConfig, DeviceStats, PeerConfig, PeerStats, Roaming, Way};
pub use event::{DatagramKind, Event};
pub use extra::SocketNumber;
pub use filter::{PacketFilter, PassAll, Verdict};
pub use io::{ChannelEnd, PacketChannel, PacketIo};
pub use own::OwnTraffic;
pub use stats::Counter;
pub use udp::{SocketOptions, UdpOffload};
