//! The network edge over loopback.
#![expect(clippy::unwrap_used, reason = "a test may panic, in its helpers too")]

mod bootstrap;
mod front;
