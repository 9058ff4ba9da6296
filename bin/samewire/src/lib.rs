//! The samewire library: its parts wired together.

pub mod first_run;
pub mod serving;
