//! The packet filter of a node: rules compiled to a fast matcher, flows, decisions.
//!
//! ```text
//!   FilterRule[] ─ compile ─► Filter (immutable, shared by data threads) ─┐
//!                                   packet ─► inbound / outbound ─► Verdict
//!                                                          Flows (atomics) ─┘
//! ```
//!
//! Pure: no clock, no locks. [`Flows`] is a table of atomics, so that data threads share it; it outlives the
//! filters, which are replaced whole when the rules change. What the steps of a decision are stands in
//! node-services.md §13; [`Gate`] puts a node's filters together.
#![forbid(unsafe_code)]
#![warn(clippy::iter_over_hash_type)]

mod answered;
mod atoms;
mod decide;
mod flows;
mod gate;
mod matcher;
#[cfg(test)]
mod oracle;

pub use answered::{PeerTag, Service};
pub use atoms::{Holders, InvalidRules, NoHolders};
pub use decide::{Filter, FilterConfig, LanFlows, Reason, RuleSet, Verdict};
pub use flows::{FLOWS_MAX, Flows};
pub use gate::Gate;
