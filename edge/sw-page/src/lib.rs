//! Serves the admin page, the login pages of devices and the join line.
//!
//! ```text
//!   request ── guard (host, origin, session, csrf) ──┬─ GET  ── view (from the tailnet) ── sw_web ──▶ HTML
//!                                                    ├─ POST ── act ── Control::execute ──▶ 303 + toast with undo
//!                                                    └─ /events ── fragments that changed
//! ```
//! Everything that a form does is a command of `sw-tailnet`, as with the API and the command line.
#![forbid(unsafe_code)]

mod access;
mod acts;
mod check;
mod device;
mod events;
mod guard;
mod http;
mod join;
mod log_undo;
mod oidc;
mod passkey;
mod site;
mod undo;
mod views;
mod words;

pub use join::{BinaryOffer, ScriptFacts};
pub use oidc::OidcConfig;
pub use site::{Site, SiteConfig};
