//! Userspace TCP/IP (smoltcp) for `--tun=userspace-networking`, for services on the node's own address and for the
//! library face: packets in and out on one side, `AsyncRead`/`AsyncWrite` streams on the other.
//!
//! ```text
//!   data plane ── inject(packet) ──▶ ┌──────────┐ ◀── connect / listen / bind_udp ── SOCKS5, HTTP proxy, library
//!              ◀── PacketSource ──── │ Netstack │ ──── forward: unclaimed ports ───▶ services on this host's loopback
//!                                    └──────────┘
//! ```
//! One task polls the stack; streams lock it for the length of one copy and never across an await.
//! It is not: a router, a firewall (the packet filter stands before `inject`), or a resolver.
#![forbid(unsafe_code)]

mod device;
mod forward;
mod http;
mod proxy;
mod socks;
mod stack;
mod tcp;
mod udp;

pub use forward::forward_to_loopback;
pub use proxy::{BoxedStream, DatagramFuture, Datagrams, Dial, DialError, Stream, Target, serve_proxy};
pub use stack::{Netstack, NetstackConfig, NetstackError, PacketSource};
pub use tcp::{TcpListener, TcpStream};
pub use udp::UdpSocket;
