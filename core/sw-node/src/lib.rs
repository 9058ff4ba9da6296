//! The node core: what a machine in a network decides, as a machine without IO, clock or threads.
//!
//! * [`node::Node`] has the login and run states and says what the edge shall do;
//! * [`control::ControlSession`] keeps registration, map stream and updates going;
//! * [`netmap::Netmap`] folds map responses;
//! * [`desired`] works out addresses, routes, DNS, peers and filter from network and preferences;
//! * [`resolve::Resolver`] answers MagicDNS queries.
//!
//! Paths to peers are chosen by `sw-path`, packets are sealed by the data plane: the edge (`sw-daemon`) connects
//! the three.
#![forbid(unsafe_code)]
#![warn(clippy::iter_over_hash_type)]

pub mod control;
pub mod desired;
pub mod grants;
pub mod netmap;
pub mod node;
pub mod resolve;
pub mod state_file;
pub mod status;

pub use control::{ControlOutput, RequestFailure, RequestId};
pub use netmap::Netmap;
pub use node::{Event, Node, NodeConfig, Output};
