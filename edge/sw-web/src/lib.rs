//! The admin page as pure functions: a view (plain data, already filtered for who looks) goes in, HTML comes out.
//!
//! No IO, no clock, no state: `sw-page` fills the views from the admin API and serves what these functions return.
//! Every page reads without JavaScript; `assets/app.js` only swaps fragments by element id, copies and listens to keys.
//! Nothing is inline (the content security policy forbids it) and all text is escaped by `maud`.
//!
//! ```
//! use sw_web::{Page, Shell, machines};
//! let shell = Shell::for_tests(Page::Machines);
//! let html = machines::page(&shell, &machines::MachinesView::default());
//! assert!(html.contains("No machine yet."));
//! ```
#![forbid(unsafe_code)]

pub mod access;
pub mod add;
pub mod assets;
pub mod dns;
pub mod health;
pub mod keys;
pub mod log;
pub mod machine;
pub mod machines;
pub mod network;
pub mod people;
pub mod qr;
pub mod relays;
pub mod settings;
pub mod sign;

mod layout;
mod parts;
mod shell;

pub use layout::{Group, PlacedMachine, Placement, place};
pub use parts::{Connection, Kind};
pub use shell::{Page, Shell, Theme, Toast, Viewer, more};
