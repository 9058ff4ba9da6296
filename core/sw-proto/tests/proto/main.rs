//! Vectors, round trips and limits of the data path's formats.
#![expect(clippy::unwrap_used, reason = "a test may panic, in its helpers too")]

mod limits;
mod round_trip;
mod vectors;
