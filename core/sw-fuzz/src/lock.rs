//! Tailnet-lock objects: `sw-lock`.

use sw_lock::{NodeKeySignature, Update, UpdateHash};

/// An object and its bytes are the same thing, or its hash would name another one.
pub(crate) fn objects(data: &[u8]) {
    if let Ok(update) = Update::decode(data) {
        assert_eq!(update.encode(), data);
        if update.signatures.is_empty() {
            assert_eq!(update.hash().0, update.signature_hash());
        }
    }
    if let Ok(signature) = NodeKeySignature::decode(data) {
        assert_eq!(signature.encode(), data);
        if let Some(node_key) = signature.node_key {
            assert!(signature.verify(&node_key, |_| false).is_err(), "nothing is trusted");
        }
    }
    if let Ok(text) = std::str::from_utf8(data)
        && let Ok(hash) = text.parse::<UpdateHash>()
    {
        assert_eq!(hash.to_string(), text);
    }
}
