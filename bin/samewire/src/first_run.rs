//! The first machine of a network, joining one, and inviting to one.
//!
//! `reach` decides how the server can be reached, from facts alone; `screen` is what people and programs read;
//! `script` is what `curl … | sh` runs; `qr` draws codes in a terminal.

pub mod away;
pub mod background;
mod interrupt;
pub mod invite;
pub mod join;
pub mod keep;
mod nearby;
pub mod qr;
pub mod reach;
pub mod screen;
pub mod script;
pub mod up;
pub mod update;
