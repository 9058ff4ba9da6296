//! Command definitions, rendering, clients of the local and the admin API.
#![forbid(unsafe_code)]

pub mod admin;
pub mod local;
pub mod policy;
