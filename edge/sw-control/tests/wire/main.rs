//! The control protocol over real connections: what clients are told, byte by byte, when they come, stay and go.
#![expect(clippy::unwrap_used, reason = "tests, in their helpers too")]

mod client;
mod lines;
mod ssh;
mod stage;
