//! Keys, ids, times, names and prefixes that every part of samewire speaks in.
//!
//! This crate is the vocabulary: it parses text and bytes into types that cannot be wrong, and writes
//! them back. It holds no state, opens nothing, asks no clock and draws no randomness; both come in as
//! arguments.
//!
//! ```text
//!   keys       NodeKey, MachineKey, DiscoKey, ControlKey, DerpKey, ChallengeKey, LockKey + private halves
//!   secrets    Secret<T>, SharedSecret, auth keys and API keys, invites, join strings
//!   ids        NodeId, StableNodeId, UserId, RegionId, CapVer, Vni
//!   time       Instant, UnixTime, Now        randomness   Rng (seeded)
//!   local      the LocalAPI's JSON: Prefs, Status, Notify …
//!   network    Path, RelayMap, address ranges, ports, DNS labels and names
//! ```
//!
//! ```
//! use sw_types::{NodeKey, NodePrivate};
//!
//! let private = NodePrivate::generate([7; 32]);
//! let text = private.public().to_string();
//! assert!(text.starts_with("nodekey:"));
//! assert_eq!(text.parse::<NodeKey>(), Ok(private.public()));
//! ```
#![forbid(unsafe_code)]
#![warn(clippy::iter_over_hash_type)]

mod addr;
mod base62;
mod clock;
mod ids;
mod join;
mod key;
pub mod local;
mod name;
mod path;
pub mod problem;
mod relay_map;
mod rng;
mod secret;
mod token;

pub use addr::{
    AddrPortError, DEFAULT_NODE_PORT, DERP_PORT, HTTP_PORT, HTTPS_PORT, PROXY_PORT, SERVER_PORT_FALLBACK,
    SERVICE_IPV4, SERVICE_IPV6, STUN_PORT, cgnat_range, chromeos_range, ephemeral_v6_range, four_to_six,
    four_to_six_range, is_tailnet_ip, is_usable_node_ipv4, parse_addr_port, reserved_v4_ranges, six_to_four,
    tailnet_v6_range, via_range,
};
pub use clock::{Instant, Now, TimeError, UnixTime};
pub use ids::{CapVer, NodeId, RegionId, StableNodeId, UserId, Vni};
pub use join::{JoinAddress, JoinError, JoinString, ServerKeyHash};
pub use key::{
    ChallengeKey, ChallengePrivate, ControlKey, ControlPrivate, DerpKey, DerpPrivate, DiscoKey, DiscoPrivate,
    EphemeralKey, EphemeralPrivate, HardwareKey, KeyError, LockKey, LockPrivate, LowOrderPoint, MachineKey,
    MachinePrivate, MeshKey, NodeKey, NodePrivate, PublicKey, SharedSecret,
};
pub use name::{DnsLabel, DnsName, NameError, sanitize_hostname};
pub use path::Path;
pub use relay_map::{CertCheck, RelayAddr, RelayMap, RelayNode, RelayRegion};
pub use rng::Rng;
pub use secret::{Secret, serialize_exposed};
pub use token::{InviteToken, SecretText, TokenError, TokenHash, TokenId, TokenKind};
