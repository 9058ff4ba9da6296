#![forbid(unsafe_code)]
pub mod control;
pub mod netmap;
pub mod resolve;
