//! The vectors of keys.md §5.2 and §5.3.
#![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use std::collections::BTreeMap;

use ed25519_dalek::{Signer as _, SigningKey};
use serde_json::Value;
use sw_lock::{
    LockError, NODE_KEYS_MAX, NodeKeySignature, SignatureKind, State, TrustedKey, Update, UpdateHash,
    UpdateKind, UpdateSignature, Verified,
};
use sw_types::{LockKey, NodeKey};

struct Vectors(Value);

impl Vectors {
    fn load() -> Self {
        Self(serde_json::from_str(include_str!("data/lock.json")).unwrap())
    }

    fn bytes(&self, name: &str) -> Vec<u8> {
        let text =
            self.0[name].as_str().or(self.0["updates"][name].as_str()).unwrap_or_else(|| panic!("{name}"));
        hex::decode(text.replace(' ', "")).unwrap()
    }

    fn key(&self, name: &str) -> [u8; 32] {
        self.bytes(name).try_into().unwrap()
    }
}

#[test]
fn updates_agree_with_the_vectors() {
    let v = Vectors::load();
    let remove = Update { kind: UpdateKind::RemoveKey, key_id: Some(vec![1, 2]), ..Update::default() };
    let updates = BTreeMap::from([
        (
            "add_empty_key",
            Update { kind: UpdateKind::AddKey, key: Some(TrustedKey::default()), ..Update::default() },
        ),
        ("remove_key", remove.clone()),
        (
            "update_key",
            Update {
                kind: UpdateKind::UpdateKey,
                key_id: Some(vec![1, 2]),
                votes: Some(2),
                meta: Some(BTreeMap::from([("a".to_owned(), "b".to_owned())])),
                ..Update::default()
            },
        ),
        (
            "add_unsigned",
            Update {
                kind: UpdateKind::AddKey,
                signatures: vec![UpdateSignature { key_id: Some(vec![1]), signature: None }],
                ..Update::default()
            },
        ),
        (
            "checkpoint",
            Update {
                kind: UpdateKind::Checkpoint,
                previous: Some(vec![1, 2]),
                state: Some(State {
                    last_update: Some(vec![0; 32]),
                    keys: Some(vec![TrustedKey {
                        kind: 1,
                        public: Some(vec![5, 6]),
                        ..TrustedKey::default()
                    }]),
                    ..State::default()
                }),
                ..Update::default()
            },
        ),
    ]);
    assert_eq!(updates.len(), v.0["updates"].as_object().unwrap().len());
    for (name, update) in updates {
        assert_eq!(hex::encode(update.encode()), hex::encode(v.bytes(name)), "{name}");
        assert_eq!(Update::decode(&v.bytes(name)), Ok(update), "{name}");
    }
    assert_eq!(remove.hash().0, v.key("remove_key_hash"));
    assert_eq!(remove.hash().to_string(), v.0["remove_key_text"]);
    assert_eq!(v.0["remove_key_text"].as_str().unwrap().parse(), Ok(remove.hash()));
    assert_eq!(UpdateHash::default().to_string(), v.0["zero_hash_text"]);
}

#[test]
fn hashes_survive_their_text() {
    arbtest::arbtest(|u| {
        let hash = UpdateHash(u.arbitrary()?);
        assert_eq!(hash.to_string().parse(), Ok(hash));
        let text: &str = u.arbitrary()?;
        if let Ok(hash) = text.parse::<UpdateHash>() {
            assert_eq!(hash.to_string(), text);
        }
        Ok(())
    });
    assert_eq!(format!("{}B", "A".repeat(51)).parse::<UpdateHash>(), Err(LockError::Shape));
    assert_eq!("A".repeat(51).parse::<UpdateHash>(), Err(LockError::Shape));
}

#[test]
fn node_key_signatures_agree_with_the_vectors() {
    let v = Vectors::load();
    let (trusted, rotation) =
        (SigningKey::from_bytes(&v.key("trusted_seed")), SigningKey::from_bytes(&v.key("rotation_seed")));
    assert_eq!(trusted.verifying_key().to_bytes(), v.key("trusted_public"));
    assert_eq!(rotation.verifying_key().to_bytes(), v.key("rotation_public"));

    let root = LockKey::from_bytes(v.key("trusted_public"));
    let node_key = NodeKey::from_bytes(v.key("node_key"));
    let mut direct = NodeKeySignature {
        kind: SignatureKind::Direct,
        node_key: Some(node_key),
        key_id: Some(root),
        signature: None,
        nested: None,
        wrapping: Some(LockKey::from_bytes(v.key("rotation_public"))),
    };
    assert_eq!(hex::encode(direct.encode()), hex::encode(v.bytes("direct_unsigned")));
    assert_eq!(direct.signature_hash(), v.key("direct_hash"));
    let signature = trusted.sign(&direct.signature_hash()).to_bytes();
    assert_eq!(signature.to_vec(), v.bytes("direct_signature"));
    direct.signature = Some(signature);
    assert_eq!(direct.encode(), v.bytes("direct"));
    assert_eq!(NodeKeySignature::decode(&v.bytes("direct")).as_ref(), Ok(&direct));
    let is_trusted = |key: &LockKey| *key == root;
    assert_eq!(direct.verify(&node_key, is_trusted), Ok(Verified { root, obsolete: vec![] }));

    let whole = [v.bytes("rotation_before_direct"), v.bytes("direct")].concat();
    assert_eq!(whole.len(), 285);
    let rotated = NodeKeySignature::decode(&whole).unwrap();
    assert_eq!(rotated.encode(), whole);
    assert_eq!(rotated.signature_hash(), v.key("rotation_hash"));
    assert_eq!(rotated.signature, Some(rotation.sign(&rotated.signature_hash()).to_bytes()));
    let new_key = NodeKey::from_bytes(v.key("new_node_key"));
    assert_eq!(rotated.verify(&new_key, is_trusted), Ok(Verified { root, obsolete: vec![node_key] }));
    assert_eq!(rotated.verify(&node_key, is_trusted), Err(LockError::OtherNodeKey));
    assert_eq!(rotated.verify(&new_key, |_| false), Err(LockError::NotTrusted));
}

#[test]
fn every_changed_bit_of_a_signature_is_refused() {
    let v = Vectors::load();
    let root = LockKey::from_bytes(v.key("trusted_public"));
    let new_key = NodeKey::from_bytes(v.key("new_node_key"));
    let whole = [v.bytes("rotation_before_direct"), v.bytes("direct")].concat();
    for place in 0..whole.len() {
        let mut changed = whole.clone();
        changed[place] ^= 1;
        let holds = NodeKeySignature::decode(&changed).and_then(|s| s.verify(&new_key, |key| *key == root));
        assert!(holds.is_err(), "byte {place}");
    }
}

/// A chain of `rotations` rotations over `first`, all signed by the key of seed 0x66.
fn chain(first: NodeKeySignature, rotations: usize) -> NodeKeySignature {
    let rotation = SigningKey::from_bytes(&[0x66; 32]);
    (0..rotations).fold(first, |nested, round| {
        let mut outer = NodeKeySignature {
            kind: SignatureKind::Rotation,
            node_key: Some(NodeKey::from_bytes([round as u8 + 1; 32])),
            key_id: None,
            signature: None,
            nested: Some(Box::new(nested)),
            wrapping: None,
        };
        outer.signature = Some(rotation.sign(&outer.signature_hash()).to_bytes());
        outer
    })
}

#[test]
fn chains_hold_at_most_15_node_keys_and_may_begin_with_a_credential() {
    let v = Vectors::load();
    let root = LockKey::from_bytes(v.key("trusted_public"));
    let direct = NodeKeySignature::decode(&v.bytes("direct")).unwrap();
    let holds = |chain: &NodeKeySignature| chain.verify(&chain.node_key.unwrap(), |key| *key == root);
    assert_eq!(holds(&chain(direct.clone(), NODE_KEYS_MAX - 1)).map(|ok| ok.obsolete.len()), Ok(14));
    assert_eq!(holds(&chain(direct.clone(), NODE_KEYS_MAX)), Err(LockError::ChainTooLong));

    let mut credential = NodeKeySignature { kind: SignatureKind::Credential, node_key: None, ..direct };
    credential.signature =
        Some(SigningKey::from_bytes(&v.key("trusted_seed")).sign(&credential.signature_hash()).to_bytes());
    assert_eq!(credential.verify(&NodeKey::ZERO, |_| true), Err(LockError::CredentialAlone));
    assert_eq!(holds(&chain(credential, 1)), Ok(Verified { root, obsolete: vec![] }));
}

#[test]
fn arbitrary_bytes_are_refused_or_written_back_unchanged() {
    arbtest::arbtest(|u| {
        let bytes: Vec<u8> = u.arbitrary()?;
        if let Ok(update) = Update::decode(&bytes) {
            assert_eq!(update.encode(), bytes);
        }
        if let Ok(signature) = NodeKeySignature::decode(&bytes) {
            assert_eq!(signature.encode(), bytes);
        }
        Ok(())
    });
}
