//! One check per parser of bytes from outside.
//!
//! A check takes any bytes and panics when the parser breaks a promise: it panics itself, or what it accepted does
//! not survive being written and read again. Three drivers share the table [`TARGETS`]:
//!
//! ```text
//!   fuzz/ (nightly, libFuzzer)      grows the corpus in fuzz/corpus/TARGET/
//!   tests/corpus.rs (stable)        replays the corpus, and some thousand changed inputs
//!   src/bin/sw-fuzz.rs              cargo xtask bench fuzz --inputs N: many inputs, figures
//! ```
//!
//! [`Mutator`] makes the changed inputs; it is seeded, so a finding can be repeated.
//!
//! ```
//! sw_fuzz::check("map_request", br#"{"Version":145}"#);
//! ```
#![forbid(unsafe_code)]
#![warn(clippy::iter_over_hash_type)]

mod filter;
mod json;
mod lock;
mod mutate;
mod node;
mod noise;
mod policy;
mod proto;
mod text;
mod wireguard;

pub use mutate::{INPUT_LEN_MAX, Mutator};

/// Takes any bytes; panics when the parser breaks a promise.
pub type Check = fn(&[u8]);

/// Every parser of bytes from outside, by the name of its corpus folder.
pub const TARGETS: &[(&str, Check)] = &[
    ("addresses_and_names", text::addresses_and_names),
    ("derp_client_frame", proto::derp_client_frame),
    ("derp_login", proto::derp_login),
    ("derp_server_frame", proto::derp_server_frame),
    ("disco_datagram", proto::disco_datagram),
    ("disco_message", proto::disco_message),
    ("dns_query", node::dns_query),
    ("early_payload", noise::early_payload),
    ("filter_packet", filter::packet),
    ("filter_rules", filter::rules),
    ("geneve", proto::geneve),
    ("hujson", policy::hujson_text),
    ("ip_packet", proto::ip_packet),
    ("ip_range", policy::ip_range),
    ("join_string", text::join_string),
    ("key_text", text::key_text),
    ("local_api", json::local_api),
    ("lock_objects", lock::objects),
    ("map_frame", noise::map_frame),
    ("map_request", json::map_request),
    ("map_response", json::map_response),
    ("netmap", node::netmap),
    ("noise_handshake", noise::handshake),
    ("noise_records", noise::records),
    ("policy", policy::policy_text),
    ("port_mapping", proto::port_mapping),
    ("register_request", json::register_request),
    ("rpc_json", json::rpc),
    ("secret_text", text::secret_text),
    ("state_file", node::state_file),
    ("stun", proto::stun),
    ("time_text", text::time),
    ("tsmp", proto::tsmp),
    ("wireguard", wireguard::datagram),
];

/// Runs the check named `target`.
///
/// # Panics
/// When there is none of that name, or when a promise is broken.
pub fn check(target: &str, data: &[u8]) {
    let (_, check) = TARGETS.iter().find(|(name, _)| *name == target).expect("a name of the table");
    check(data);
}
