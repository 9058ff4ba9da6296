//! The relay over loopback: our client against it, official programs against it, bad clients against it.
#![expect(clippy::unwrap_used, reason = "a test may panic, in its helpers too")]

mod abuse;
mod delivery;
mod official;
mod setup;
