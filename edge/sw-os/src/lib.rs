//! What the operating system does for the node, on Linux: addresses, routes and rules, name resolution,
//! the state of the network, private files, facts about the machine, the service manager.
//!
//! ```text
//!   desired state ──> Reconciler (thread) ──> Router   netlink: addresses, table 52, rules
//!                         │                └> Dns      systemd-resolved, resolvconf, resolv.conf
//!                      journal                             (all undone by stop and after a crash)
//!   monitor::watch ──> LinkEvent: what the node's paths depend on has changed
//! ```
//!
//! Nothing here decides anything about the network: that is the node core's part.

pub mod clock;
pub mod dns;
pub mod files;
mod firewall;
pub mod heap;
pub mod host;
pub mod link;
pub mod monitor;
mod netlink;
pub mod reconciler;
pub mod resident;
pub mod router;
pub mod service;
pub mod tun;

pub use dns::DnsConfig;
pub use firewall::{FirewallConfig, FirewallError, Forwarded, forwards_packets};
pub use link::Interfaces;
pub use reconciler::{Applied, Desired, Reconciler};
pub use router::RouterConfig;
