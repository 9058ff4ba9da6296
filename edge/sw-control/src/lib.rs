//! The control server: ts2021, map streams, admin API, login pages.
//!
//! ```text
//!   sw-net front ──► public router ──► /key, /ts2021, /register, /api, …
//!                         │
//!                     Noise, HTTP/2 ──► register, map streams ──┐
//!   control.sock ──► admin API ────────────────────────────────┤
//!                                                               ▼
//!                                             Control (jobs) ──► the one owner of the tailnet ──► store
//! ```
//!
//! [`Server`] is everything but listeners and signals; [`Control`] is the typed way in that API,
//! command line and page share.
#![forbid(unsafe_code)]

mod api;
mod c2n;
pub mod clock;
mod control;
mod findings;
mod inner;
mod join;
mod machine;
mod map_stream;
mod metrics;
mod program;
mod public;
mod serve;
mod server;
mod socket;
mod store_thread;
mod task;
mod throttle;
mod ts2021;
mod upkeep;

pub use control::{Control, StartError};
pub use findings::{Finding, findings};
pub use join::{Invitation, InviteSecrets, JoinFacts};
pub use public::PublicRouter;
pub use serve::{Bound, Certified, Roles, ServeArgs, ServeError, restore, serve};
pub use server::{Server, ServerConfig, ServerError};
pub use task::Failure;
