//! The policy file: parse with positions, validate, compile, explain.

mod alias;
mod check;
mod decode;
mod error;
pub mod hujson;
mod model;
mod people;
mod posture;
mod range;
mod world;

pub use alias::{Ports, Role};
pub use check::Context;
pub use error::{Kind, Lines, Position, Problem, Rejection, Span};
pub use model::{CheckPeriod, Policy};
pub use posture::Attributes;
pub use range::{IpRange, RangeSet};
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
