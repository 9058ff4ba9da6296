//! Tailnet-lock objects: updates of the set of trusted keys, and signatures of node keys (keys.md §4).
//!
//! Bytes to objects and back, hashes, and whether a signature holds. Which update follows which, what is stored
//! and whom to ask is decided elsewhere.
//!
//! ```text
//!   cbor         the strict, canonical subset that both are written in
//!   update       Update (AUM), State, TrustedKey; UpdateHash
//!   signature    NodeKeySignature: direct, rotation, credential
//! ```
//!
//! ```
//! use sw_lock::{Update, UpdateKind};
//!
//! let update = Update { kind: UpdateKind::RemoveKey, key_id: Some(vec![1, 2]), ..Update::default() };
//! assert_eq!(Update::decode(&update.encode())?, update);
//! assert!(update.hash().to_string().starts_with("PTLKSENL2QXJM"));
//! # Ok::<(), sw_lock::LockError>(())
//! ```
#![forbid(unsafe_code)]
#![warn(clippy::iter_over_hash_type)]

mod cbor;
mod signature;
mod update;

pub use signature::{NODE_KEYS_MAX, NodeKeySignature, SignatureKind, Verified};
pub use update::{State, TrustedKey, Update, UpdateHash, UpdateKind, UpdateSignature};

/// Why an object is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LockError {
    #[error("the object is cut off")]
    Short,
    #[error("bytes follow the object")]
    Trailing,
    #[error("not canonical CBOR: a longer form, an unsorted or repeated key, an indefinite length or a tag")]
    NotCanonical,
    #[error("nested deeper than {} levels", cbor::DEPTH_MAX)]
    TooDeep,
    #[error("a list or map of {got} entries")]
    TooLong { got: u64 },
    #[error("a field has another type or length than it must have")]
    Shape,
    #[error("a field that the object must have is missing, or one that it must not have is there")]
    Fields,
    #[error("the signature is for another node key")]
    OtherNodeKey,
    #[error("signed by a key that is not trusted")]
    NotTrusted,
    #[error("the signature does not hold")]
    BadSignature,
    #[error("a credential is no signature of a node key")]
    CredentialAlone,
    #[error("the chain holds more than {} node keys", signature::NODE_KEYS_MAX)]
    ChainTooLong,
}
