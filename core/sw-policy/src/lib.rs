//! The policy file: parse with positions, validate, compile, explain.
//!
//! Pure: a text and a [`World`] come in, packet filters and the like come out. It stores nothing, sends
//! nothing, and asks no clock. The rules it follows stand in policy.md; what a section cites is there.
//!
//! ```text
//!   text ─ hujson ─► values ─ decode ─► sections ─ check ─► Policy ─ plan ─► pieces of rules
//!                                                                              │ + World
//!     filter, ssh, attributes, peers, routes  ◄── per machine ── Compiled ◄────┘
//! ```
//!
//! ```
//! use std::sync::Arc;
//! use sw_policy::{Compiled, Context, Policy, World};
//!
//! let world = World::default();
//! let text = r#"{"grants": [{"src": ["*"], "dst": ["tag:web"], "ip": ["443"]}], "tagOwners": {"tag:web": []}}"#;
//! let policy = Policy::parse(text, Context { world: &world, domains: None }).unwrap();
//! let compiled = Compiled::new(&Arc::new(policy), &world);
//! assert!(compiled.filter(sw_types::NodeId(1)).is_empty());
//!
//! let wrong = Policy::parse(r#"{"acls": [{"action": "deny"}]}"#, Context { world: &world, domains: None });
//! assert_eq!(wrong.unwrap_err().message(), "line 1, column 22: action=\"deny\" is not supported");
//! ```
#![forbid(unsafe_code)]
#![warn(clippy::iter_over_hash_type)]

mod alias;
mod bits;
mod check;
mod compiled;
pub mod conform;
mod decode;
pub mod diff;
mod error;
pub mod explain;
pub mod hujson;
mod model;
mod people;
mod plan;
pub mod policy_tests;
mod posture;
mod range;
mod rule;
mod world;

pub use alias::{Ports, Role};
pub use check::Context;
pub use compiled::{Access, Class, Compiled};
pub use error::{Kind, Lines, Position, Problem, Rejection, Span};
pub use model::{CheckPeriod, Policy};
pub use plan::CapMap;
pub use posture::Attributes;
pub use range::{IpRange, RangeSet};
pub use rule::{Action, CapGrant, DstPorts, Recording, Rule, Sources, SshPolicy, SshRule, SshVerdict};
pub use world::{Node, User, World};

impl Policy {
    /// Parses and checks a policy text (policy.md §2 to §6); an empty text is the default policy.
    ///
    /// # Errors
    /// All mistakes of the first stage that has any: syntax, decoding, or meaning.
    pub fn parse(text: &str, context: Context<'_>) -> Result<Self, Rejection> {
        let policy = decode::decode(text).map_err(|problems| Rejection::new(text, problems))?;
        let problems = check::check(&policy, context);
        if problems.is_empty() { Ok(policy) } else { Err(Rejection::new(text, problems)) }
    }
}

/// Parses an IP protocol by name or number (policy.md §5.5.1).
///
/// # Errors
/// The words of the specification for what is wrong.
pub fn parse_protocol(text: &str) -> Result<u8, String> {
    alias::parse_protocol(text).map_err(|malformed| malformed.message)
}
