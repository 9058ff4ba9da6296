//! A deterministic simulator: many nodes behind NATs, relays and a control
//! server in one thread and in virtual time.
//!
//! The cores are the real ones, crypto included: nodes are `sw-node` with
//! `sw-path`, the server is `sw-tailnet` under the policy compiler, relays are
//! `sw-relay-core`. Links and middleboxes are models; relay and control
//! connections are ordered streams of typed messages (their bytes have tests
//! of their own). Worlds of a thousand machines may replace node core and
//! server by a stand-in ([`Cores::Paths`]).
//!
//! ```text
//!   Scenario ──▶ World ──▶ Trace (equal seeds, equal hashes)
//!   (places,      queue of events (time, sequence)
//!    talks,       hosts ─ boxes ─ links ─ relays ─ control
//!    faults)      └─▶ Violation, with the shortest scenario that shows it
//! ```
//!
//! ```
//! use std::time::Duration;
//! use sw_sim::{BoxSpec, Scenario, World};
//!
//! let mut scenario = Scenario::new(1);
//! let (home, office) = (scenario.add_box(BoxSpec::EASY), scenario.add_box(BoxSpec::EASY));
//! let (a, b) = (scenario.add_host(home), scenario.add_host(office));
//! let mut world = World::new(&scenario);
//! world.run_for(Duration::from_secs(2));
//! world.add_talk(a, b, Duration::from_secs(5), Duration::from_millis(100));
//! world.run_for(Duration::from_secs(5));
//! assert!(world.is_direct(a, b));
//! ```
#![forbid(unsafe_code)]

mod control;
mod defect;
mod host;
mod invariant;
mod link;
mod nat;
mod net;
mod oracle;
mod query;
mod queue;
mod reader;
mod relay;
mod run;
mod scenario;
mod server;
mod talk;
mod trace;
mod world;

pub use defect::Defect;
pub use invariant::Violation;
pub use link::LinkSpec;
pub use nat::{BoxSpec, Filtering, Mapping, Ports};
pub use oracle::Possible;
pub use run::{Failure, check, check_with, run_scenario, shrink};
pub use scenario::{BoxAt, CONVERGENCE, Cores, Fault, HostSpec, Scenario, TalkSpec};
pub use trace::Trace;
pub use world::{Figures, World};
