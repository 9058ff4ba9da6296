//! Command definitions, rendering, clients of the local and the admin API.

pub mod local;
pub mod policy;
