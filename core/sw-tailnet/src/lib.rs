//! The tailnet core: state as a fold of changes, per-node views and deltas.
//!
//! One value, [`Tailnet`], owns everything a control server knows of one network. It decides what
//! registrations and commands do, folds the decisions into [`State`], keeps what machines report, asks
//! the policy ([`Rules`]) who sees whom, and tells each open map stream the difference between what it
//! was sent and what is.
//!
//! ```text
//!   register, map request, command ──► Tailnet ──► take_uncommitted ──► store ──► committed
//!                                         │
//!                                         └──► poll_output ──► messages for streams, late answers
//! ```
//!
//! It is not a server: no sockets, no clock, no storage, no compression.
//!
//! ```
//! use std::sync::Arc;
//! use sw_tailnet::{AllowAll, Command, Config, NewUser, Pool, Settings, State, Tailnet};
//! use sw_types::{Instant, Now, UnixTime};
//!
//! let now = Now { mono: Instant::ZERO, wall: UnixTime::EPOCH };
//! let config = Config { url: "http://192.0.2.1".to_owned(), engine: Arc::new(AllowAll), seed: [7; 32] };
//! let state = State::new(Settings::new("SW".to_owned(), Pool::default()));
//! let mut tailnet = Tailnet::new(config, state, Vec::new(), now);
//! let alice = NewUser { name: "alice".to_owned(), ..NewUser::default() };
//! tailnet.execute("root", Command::CreateUser(alice), now).unwrap();
//! assert_eq!(tailnet.take_uncommitted().len(), 1);
//! tailnet.committed();
//! assert!(tailnet.state().find_user("alice").is_some());
//! ```
#![forbid(unsafe_code)]
#![warn(clippy::iter_over_hash_type)]

mod addresses;
mod admin;
mod bits;
mod checks;
mod encode;
mod live;
mod logins;
mod look;
mod maps;
mod names;
mod policy;
mod record;
mod register;
mod relays;
mod reports;
mod requests;
mod routes;
mod rules;
mod state;
mod streams;
mod tailnet;
mod wire;

pub use addresses::{Pool, v6_of};
pub use admin::{Command, Done, NewApiKey, NewAuthKey, NewUser, PASSKEYS_MAX, Refusal, UserChange};
pub use checks::{Check, CheckAnswer, CheckDecision, SshSession};
pub use encode::{MapMessage, Part};
pub use live::{Facts, Presence};
pub use logins::{Login, LoginStatus};
pub use names::{free_label, is_tag};
pub use policy::{PolicyEngine, policy_world};
pub use record::{
    ApiKey, Audit, AuthKey, Change, Dns, Entry, ExtraRecord, Ids, JoinedBy, Nameserver, Node, Owner, Passkey,
    PolicyVersion, ProviderIdentity, Role, SecretHash, Session, SessionKind, Settings, TAGGED_DEVICES, User,
};
pub use register::Registered;
pub use relays::RelayChange;
pub use reports::{Accepted, Cut};
pub use requests::{Ended, MapRefused, MapReply};
pub use routes::is_exit;
pub use rules::{AllowAll, Class, Compiled, Engine, NodeFacts, PolicyError, Rules, SshCheck, World};
pub use state::{Inconsistent, State};
pub use streams::{EndReason, StreamId};
pub use tailnet::{Config, Output, Stats, Tailnet, Ticket, Wake};
