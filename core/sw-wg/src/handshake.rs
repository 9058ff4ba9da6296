//! Noise_IKpsk2 as WireGuard runs it: making and reading initiations and responses (paper §5.4.2, §5.4.3).

use crate::message::{INITIATION_LEN, RESPONSE_LEN, field};
use crate::primitives::{Secret, TAG_LEN, dh, hash, kdf, open_once, public_key, seal_once};

const CONSTRUCTION: &[u8] = b"Noise_IKpsk2_25519_ChaChaPoly_BLAKE2s";
const IDENTIFIER: &[u8] = b"WireGuard v1 zx2c4 Jason@zx2c4.com";

/// Our long-lived key pair.
pub(crate) struct Identity {
    pub(crate) private: Secret,
    pub(crate) public: [u8; 32],
}

impl Identity {
    pub(crate) fn new(private: [u8; 32]) -> Self {
        Self { public: public_key(&private), private: Secret::new(private) }
    }
}

impl std::fmt::Debug for Identity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Identity(***)")
    }
}

/// Noise's chaining key and hash.
pub(crate) struct Transcript {
    chain: Secret,
    hash: [u8; 32],
}

impl Transcript {
    fn new(responder: &[u8; 32]) -> Self {
        let chain = hash(&[CONSTRUCTION]);
        let named = hash(&[&chain, IDENTIFIER]);
        Self { chain: Secret::new(chain), hash: hash(&[&named, responder]) }
    }

    fn mix_hash(&mut self, data: &[u8]) {
        self.hash = hash(&[&self.hash, data]);
    }

    fn mix_key(&mut self, input: &[u8]) {
        let [chain] = kdf(&self.chain, input);
        self.chain = chain;
    }

    /// Mixes in a shared secret and returns the key for the next AEAD.
    fn mix_for_key(&mut self, input: &[u8]) -> Secret {
        let [chain, key] = kdf(&self.chain, input);
        self.chain = chain;
        key
    }

    fn seal<const N: usize>(&mut self, key: &Secret, plain: &[u8]) -> [u8; N] {
        let sealed = seal_once::<N>(key, &self.hash, plain);
        self.mix_hash(&sealed);
        sealed
    }

    fn open<const N: usize>(&mut self, key: &Secret, sealed: &[u8]) -> Option<[u8; N]> {
        let plain = open_once::<N>(key, &self.hash, sealed)?;
        self.mix_hash(sealed);
        Some(plain)
    }

    /// The psk step, shared by both sides of the response.
    fn mix_psk(&mut self, psk: &[u8; 32]) -> Secret {
        let [chain, tau, key] = kdf(&self.chain, psk);
        self.chain = chain;
        self.mix_hash(tau.as_slice());
        key
    }

    /// The two transport keys: what the initiator sends with, what it receives with.
    fn split(&self) -> (Secret, Secret) {
        let [first, second] = kdf(&self.chain, &[]);
        (first, second)
    }
}

impl std::fmt::Debug for Transcript {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Transcript(***)")
    }
}

/// Our initiation in flight.
#[derive(Debug)]
pub(crate) struct Initiated {
    pub(crate) index: u32,
    ephemeral: Secret,
    transcript: Transcript,
}

/// Keys of a finished handshake, from our point of view.
pub(crate) struct TransportKeys {
    pub(crate) remote_index: u32,
    pub(crate) send: Secret,
    pub(crate) receive: Secret,
}

/// Makes an initiation; both MACs are left zero for the caller to fill.
/// `None` when the peer's key is a low-order point.
pub(crate) fn initiate(
    us: &Identity,
    peer: &[u8; 32],
    static_static: &Secret,
    index: u32,
    ephemeral: [u8; 32],
    timestamp: [u8; 12],
) -> Option<([u8; INITIATION_LEN], Initiated)> {
    let ephemeral = Secret::new(ephemeral);
    let ephemeral_public = public_key(&ephemeral);
    let mut transcript = Transcript::new(peer);
    transcript.mix_key(&ephemeral_public);
    transcript.mix_hash(&ephemeral_public);
    let key = transcript.mix_for_key(dh(&ephemeral, peer)?.as_slice());
    let sealed_static: [u8; 32 + TAG_LEN] = transcript.seal(&key, &us.public);
    let key = transcript.mix_for_key(static_static.as_slice());
    let sealed_timestamp: [u8; 12 + TAG_LEN] = transcript.seal(&key, &timestamp);

    let mut message = [0; INITIATION_LEN];
    message[0] = 1;
    message[4..8].copy_from_slice(&index.to_le_bytes());
    message[8..40].copy_from_slice(&ephemeral_public);
    message[40..88].copy_from_slice(&sealed_static);
    message[88..116].copy_from_slice(&sealed_timestamp);
    Some((message, Initiated { index, ephemeral, transcript }))
}

/// An initiation whose sender is known but not yet proven.
pub(crate) struct Claimed {
    /// The sender's long-lived public key.
    pub(crate) peer: [u8; 32],
    remote_index: u32,
    ephemeral: [u8; 32],
    sealed_timestamp: [u8; 28],
    transcript: Transcript,
}

/// Reads who sent an initiation: one X25519.
pub(crate) fn read_claim(us: &Identity, message: &[u8; INITIATION_LEN]) -> Option<Claimed> {
    let ephemeral: [u8; 32] = field(message, 8);
    let mut transcript = Transcript::new(&us.public);
    transcript.mix_key(&ephemeral);
    transcript.mix_hash(&ephemeral);
    let key = transcript.mix_for_key(dh(&us.private, &ephemeral)?.as_slice());
    let peer = transcript.open(&key, &message[40..88])?;
    Some(Claimed {
        peer,
        remote_index: u32::from_le_bytes(field(message, 4)),
        ephemeral,
        sealed_timestamp: field(message, 88),
        transcript,
    })
}

/// A proven initiation.
pub(crate) struct Proven {
    pub(crate) timestamp: [u8; 12],
    peer: [u8; 32],
    remote_index: u32,
    ephemeral: [u8; 32],
    transcript: Transcript,
}

impl Claimed {
    /// Proves the sender: its timestamp is sealed with the key only it and we can make.
    pub(crate) fn prove(mut self, static_static: &Secret) -> Option<Proven> {
        let key = self.transcript.mix_for_key(static_static.as_slice());
        let timestamp = self.transcript.open(&key, &self.sealed_timestamp)?;
        Some(Proven {
            timestamp,
            peer: self.peer,
            remote_index: self.remote_index,
            ephemeral: self.ephemeral,
            transcript: self.transcript,
        })
    }
}

impl Proven {
    /// Makes the response (MACs left zero) and the transport keys.
    pub(crate) fn respond(
        mut self,
        psk: &[u8; 32],
        index: u32,
        ephemeral: [u8; 32],
    ) -> Option<([u8; RESPONSE_LEN], TransportKeys)> {
        let ephemeral = Secret::new(ephemeral);
        let ephemeral_public = public_key(&ephemeral);
        let transcript = &mut self.transcript;
        transcript.mix_hash(&ephemeral_public);
        transcript.mix_key(&ephemeral_public);
        transcript.mix_key(dh(&ephemeral, &self.ephemeral)?.as_slice());
        transcript.mix_key(dh(&ephemeral, &self.peer)?.as_slice());
        let key = transcript.mix_psk(psk);
        let sealed_nothing: [u8; TAG_LEN] = transcript.seal(&key, &[]);
        let (receive, send) = transcript.split();

        let mut message = [0; RESPONSE_LEN];
        message[0] = 2;
        message[4..8].copy_from_slice(&index.to_le_bytes());
        message[8..12].copy_from_slice(&self.remote_index.to_le_bytes());
        message[12..44].copy_from_slice(&ephemeral_public);
        message[44..60].copy_from_slice(&sealed_nothing);
        Some((message, TransportKeys { remote_index: self.remote_index, send, receive }))
    }
}

/// The index a response or a cookie reply answers to.
pub(crate) fn response_receiver(message: &[u8; RESPONSE_LEN]) -> u32 {
    u32::from_le_bytes(field(message, 8))
}

impl Initiated {
    /// Reads the response to this initiation.
    pub(crate) fn finish(
        &self,
        us: &Identity,
        psk: &[u8; 32],
        message: &[u8; RESPONSE_LEN],
    ) -> Option<TransportKeys> {
        let ephemeral: [u8; 32] = field(message, 12);
        let mut transcript = Transcript { chain: self.transcript.chain.clone(), hash: self.transcript.hash };
        transcript.mix_hash(&ephemeral);
        transcript.mix_key(&ephemeral);
        transcript.mix_key(dh(&self.ephemeral, &ephemeral)?.as_slice());
        transcript.mix_key(dh(&us.private, &ephemeral)?.as_slice());
        let key = transcript.mix_psk(psk);
        transcript.open::<0>(&key, &message[44..60])?;
        let (send, receive) = transcript.split();
        Some(TransportKeys { remote_index: u32::from_le_bytes(field(message, 4)), send, receive })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Pair {
        a: Identity,
        b: Identity,
        shared: Secret,
    }

    fn pair() -> Pair {
        let (a, b) = (Identity::new([1; 32]), Identity::new([2; 32]));
        let shared = dh(&a.private, &b.public).unwrap();
        Pair { a, b, shared }
    }

    #[test]
    fn both_sides_get_the_same_keys() {
        let Pair { a, b, shared } = pair();
        let (message, initiated) = initiate(&a, &b.public, &shared, 7, [3; 32], [4; 12]).unwrap();
        let claimed = read_claim(&b, &message).unwrap();
        assert_eq!(claimed.peer, a.public);
        let proven = claimed.prove(&shared).unwrap();
        assert_eq!(proven.timestamp, [4; 12]);
        let (response, theirs) = proven.respond(&[9; 32], 8, [5; 32]).unwrap();
        assert_eq!(response_receiver(&response), 7);
        let ours = initiated.finish(&a, &[9; 32], &response).unwrap();
        assert_eq!((ours.remote_index, theirs.remote_index), (8, 7));
        assert_eq!(*ours.send, *theirs.receive);
        assert_eq!(*ours.receive, *theirs.send);
        assert!(initiated.finish(&a, &[0; 32], &response).is_none(), "another psk");
    }

    #[test]
    fn no_single_changed_bit_passes() {
        let Pair { a, b, shared } = pair();
        let (message, initiated) = initiate(&a, &b.public, &shared, 7, [3; 32], [4; 12]).unwrap();
        let passes = |m: &[u8; INITIATION_LEN]| {
            read_claim(&b, m).is_some_and(|c| c.peer == a.public && c.prove(&shared).is_some())
        };
        assert!(passes(&message));
        for bit in 8 * 8..116 * 8 {
            let mut forged = message;
            forged[bit / 8] ^= 1 << (bit % 8);
            // X25519 ignores the top bit of a u-coordinate, but the hash covers it.
            assert!(!passes(&forged), "bit {bit}");
        }
        let proven = read_claim(&b, &message).unwrap().prove(&shared).unwrap();
        let (response, _) = proven.respond(&[0; 32], 8, [5; 32]).unwrap();
        for bit in 12 * 8..60 * 8 {
            let mut forged = response;
            forged[bit / 8] ^= 1 << (bit % 8);
            assert!(initiated.finish(&a, &[0; 32], &forged).is_none(), "bit {bit}");
        }
    }

    #[test]
    fn an_all_zero_shared_secret_is_refused_everywhere() {
        let Pair { a, b, shared } = pair();
        let (mut message, initiated) = initiate(&a, &b.public, &shared, 7, [3; 32], [4; 12]).unwrap();
        message[8..40].fill(0);
        assert!(read_claim(&b, &message).is_none());
        let mut response = [0; RESPONSE_LEN];
        response[0] = 2;
        assert!(initiated.finish(&a, &[0; 32], &response).is_none());
        assert!(initiate(&a, &[0; 32], &shared, 7, [3; 32], [4; 12]).is_none());
    }
}
