//! The Internet on one machine: `samewire lab`.
//!
//! A lab is a set of network namespaces joined by virtual cables: one of them plays the Internet, others are
//! routers with the NAT of real homes, offices and phone networks, others are machines in which the real program
//! runs with a real TUN device. Nothing outside the namespaces is touched, and everything carries the prefix `swl-`.
//!
//! ```text
//!  TOML ── topology ──► plan (pure: addresses, ip and nft scripts) ──► build (namespaces, cables, NATs)
//!                                                                        │
//!              demo, matrix, up, exec, ps, roam ◄── world (servers and machines that run in it)
//! ```
//!
//! What it is not: a simulator. Time is real, the kernel's own NAT tells the truth, and a run is not repeatable to
//! the byte; the crate `sim` is for that.
//!
//! Linux only, as root, with the programs `ip` and `nft`.
#![forbid(unsafe_code)]

mod build;
mod cable;
mod cli;
mod conntrack;
mod demo;
mod error;
mod interrupt;
mod leftovers;
mod localapi;
mod matrix;
mod measure;
mod namespace;
mod nat;
mod plan;
mod portmap;
mod programs;
mod server;
mod software;
mod stand_in;
mod times;
mod topology;
mod world;

pub use cli::{LabArgs, run};
pub use error::LabError;
pub use interrupt::Interrupt;
pub use leftovers::{Leftovers, find_leftovers, remove_all, remove_lab};
pub use localapi::LocalApi;
pub use measure::{DirectTry, measure_direct};
pub use namespace::{argv, run_program};
pub use nat::Nat;
pub use programs::Programs;
pub use server::Server;
pub use software::Software;
pub use topology::{
    LinkQuality, MachineSpec, PortMapping, RelayProcess, ServerSpec, SiteSpec, Topology, Udp,
};
pub use world::{Machine, Roam, World};
