//! The samewire library: its parts wired together, and [`Node`], a machine of the network inside a program.

mod node;

pub mod first_run;
pub mod machine;
pub mod network;
pub mod serving;

pub use node::{JoinOptions, Node};
