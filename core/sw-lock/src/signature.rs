//! Signatures of node keys (keys.md §4.3).

use ed25519_dalek::{Signature, VerifyingKey};
use sw_noise::primitives::hash;
use sw_types::{LockKey, NodeKey};

use crate::LockError;
use crate::cbor::{DEPTH_MAX, Fields, Value, decode};

/// Most node keys in one chain of rotations.
pub const NODE_KEYS_MAX: usize = DEPTH_MAX as usize - 1;

/// What stands before a node key inside lock objects (keys.md §1.1).
const NODE_KEY_PREFIX: [u8; 2] = *b"np";

/// How a node key is signed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum SignatureKind {
    /// By a trusted key.
    Direct,
    /// By the wrapping key of the signature inside.
    Rotation,
    /// A trusted key lets a wrapping key sign; counts only inside a rotation.
    Credential,
}

/// A signature of a node key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeKeySignature {
    pub kind: SignatureKind,
    /// The key that is signed; not in a credential.
    pub node_key: Option<NodeKey>,
    /// The trusted key that signed; not in a rotation.
    pub key_id: Option<LockKey>,
    /// `None` while unsigned.
    pub signature: Option<[u8; 64]>,
    /// The signature that this one rotates.
    pub nested: Option<Box<NodeKeySignature>>,
    /// The key that may sign a rotation of this signature.
    pub wrapping: Option<LockKey>,
}

/// A signature that holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verified {
    /// The trusted key at its root.
    pub root: LockKey,
    /// Older node keys of the chain, which must not be used any more.
    pub obsolete: Vec<NodeKey>,
}

impl NodeKeySignature {
    const SIGNATURE: u64 = 4;

    fn fields(&self) -> Fields {
        let mut fields = Fields::default();
        let kind = match self.kind {
            SignatureKind::Direct => 1,
            SignatureKind::Rotation => 2,
            SignatureKind::Credential => 3,
        };
        fields.set(1, Value::Uint(kind));
        fields.set_some(
            2,
            self.node_key.map(|key| Value::Bytes([&NODE_KEY_PREFIX[..], key.as_bytes()].concat())),
        );
        fields.set_some(3, self.key_id.map(|key| Value::Bytes(key.as_bytes().to_vec())));
        fields.set_some(Self::SIGNATURE, self.signature.map(|bytes| Value::Bytes(bytes.to_vec())));
        fields.set_some(5, self.nested.as_ref().map(|nested| Value::Fields(nested.fields())));
        fields.set_some(6, self.wrapping.map(|key| Value::Bytes(key.as_bytes().to_vec())));
        fields
    }

    /// The bytes.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        Value::Fields(self.fields()).encode(&mut out);
        out
    }

    /// What is signed: the object without its own signature.
    pub fn signature_hash(&self) -> [u8; 32] {
        let mut fields = self.fields();
        fields.take(Self::SIGNATURE);
        let mut out = Vec::new();
        Value::Fields(fields).encode(&mut out);
        hash(&[&out])
    }

    /// Reads the bytes.
    ///
    /// # Errors
    /// [`LockError`]; nothing is said yet on whether the signature holds.
    pub fn decode(bytes: &[u8]) -> Result<Self, LockError> {
        Self::from_fields(decode(bytes)?)
    }

    fn from_fields(mut fields: Fields) -> Result<Self, LockError> {
        let kind = match fields.take_uint(1)?.ok_or(LockError::Fields)? {
            1 => SignatureKind::Direct,
            2 => SignatureKind::Rotation,
            3 => SignatureKind::Credential,
            _ => return Err(LockError::Shape),
        };
        let key = |bytes: Option<Vec<u8>>| match bytes {
            None => Ok(None),
            Some(bytes) => {
                bytes.try_into().map(|key| Some(LockKey::from_bytes(key))).map_err(|_| LockError::Shape)
            }
        };
        let nested = match fields.take(5) {
            None => None,
            Some(Value::Fields(nested)) => Some(Box::new(Self::from_fields(nested)?)),
            Some(_) => return Err(LockError::Shape),
        };
        let signature = Self {
            kind,
            node_key: fields.take_bytes(2)?.map(|bytes| node_key(&bytes)).transpose()?,
            key_id: key(fields.take_bytes(3)?)?,
            signature: fields
                .take_bytes(Self::SIGNATURE)?
                .map(|bytes| bytes.try_into().map_err(|_| LockError::Shape))
                .transpose()?,
            nested,
            wrapping: key(fields.take_bytes(6)?)?,
        };
        fields.finish()?;
        Ok(signature)
    }

    /// Checks the whole chain for `node_key`; `is_trusted` tells the keys of the lock's state.
    ///
    /// Ed25519 is checked strictly (threat-model.md §5).
    ///
    /// # Errors
    /// [`LockError`]; the node is then not to be reached.
    pub fn verify(
        &self,
        node_key: &NodeKey,
        is_trusted: impl Fn(&LockKey) -> bool,
    ) -> Result<Verified, LockError> {
        if self.kind == SignatureKind::Credential {
            return Err(LockError::CredentialAlone);
        }
        if self.node_key != Some(*node_key) {
            return Err(LockError::OtherNodeKey);
        }
        let mut obsolete = Vec::new();
        let mut link = self;
        while link.kind == SignatureKind::Rotation {
            let nested = link.nested.as_deref().ok_or(LockError::Fields)?;
            let wrapping = nested.wrapping_key().ok_or(LockError::Fields)?;
            link.check_signed_by(&wrapping)?;
            obsolete.extend(nested.node_key);
            if obsolete.len() >= NODE_KEYS_MAX {
                return Err(LockError::ChainTooLong);
            }
            link = nested;
        }
        let root = link.key_id.ok_or(LockError::Fields)?;
        if link.nested.is_some() || (link.kind == SignatureKind::Direct) != link.node_key.is_some() {
            return Err(LockError::Fields);
        }
        if !is_trusted(&root) {
            return Err(LockError::NotTrusted);
        }
        link.check_signed_by(&root)?;
        Ok(Verified { root, obsolete })
    }

    /// The key that may sign a rotation of this: its own, or for a rotation without one that of what it nests.
    fn wrapping_key(&self) -> Option<LockKey> {
        let mut link = self;
        loop {
            if link.wrapping.is_some() || link.kind != SignatureKind::Rotation {
                return link.wrapping;
            }
            link = link.nested.as_deref()?;
        }
    }

    fn check_signed_by(&self, key: &LockKey) -> Result<(), LockError> {
        let signature = Signature::from_bytes(&self.signature.ok_or(LockError::Fields)?);
        VerifyingKey::from_bytes(key.as_bytes())
            .and_then(|key| key.verify_strict(&self.signature_hash(), &signature))
            .map_err(|_| LockError::BadSignature)
    }
}

fn node_key(bytes: &[u8]) -> Result<NodeKey, LockError> {
    let key = bytes.strip_prefix(&NODE_KEY_PREFIX).ok_or(LockError::Shape)?;
    key.try_into().map(NodeKey::from_bytes).map_err(|_| LockError::Shape)
}
