//! The vectors of control.md §9.1 to §9.3, both sides.
#![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use serde_json::Value;
use sw_noise::primitives::{KEY_LEN, open_in_place};
use sw_noise::{
    EarlySplit, HandshakeError, Initiator, MapFrame, ServerReply, SymmetricState, accept, error_message,
    initiation_from_header, initiation_to_header, push_early, push_map_frame, split_early, split_map_frame,
    split_reply,
};
use sw_types::{CapVer, ControlPrivate, EphemeralPrivate, MachinePrivate};

struct Vectors(Value);

impl Vectors {
    fn load() -> Self {
        Self(serde_json::from_str(include_str!("data/control-noise.json")).unwrap())
    }

    fn bytes(&self, name: &str) -> [u8; 32] {
        hex::decode(self.text(name)).unwrap().try_into().unwrap()
    }

    fn text(&self, name: &str) -> &str {
        self.0[name].as_str().unwrap_or_else(|| panic!("vector {name}"))
    }

    fn machine(&self) -> MachinePrivate {
        MachinePrivate::from_bytes(self.bytes("client_static_private"))
    }

    fn server(&self) -> ControlPrivate {
        ControlPrivate::from_bytes(self.bytes("server_static_private"))
    }
}

#[test]
fn public_keys_belong_to_the_private_ones() {
    let v = Vectors::load();
    for who in ["client_static", "client_ephemeral", "server_static", "server_ephemeral"] {
        let private = EphemeralPrivate::from_bytes(v.bytes(&format!("{who}_private")));
        assert_eq!(*private.public().as_bytes(), v.bytes(&format!("{who}_public")), "{who}");
    }
}

#[test]
fn both_sides_agree_with_the_vectors() {
    let v = Vectors::load();
    for handshake in v.0["handshakes"].as_array().unwrap() {
        let version = CapVer(handshake["version"].as_u64().unwrap() as u16);
        let (machine, server) = (v.machine(), v.server());
        let (client, initiation) =
            Initiator::start(version, &machine, &server.public(), v.bytes("client_ephemeral_private"))
                .unwrap();
        assert_eq!(hex::encode(initiation), handshake["initiation"]);
        assert_eq!(initiation_to_header(&initiation), handshake["header"]);
        assert_eq!(initiation_from_header(handshake["header"].as_str().unwrap()), Ok(initiation));

        let accepted = accept(&initiation, &server, v.bytes("server_ephemeral_private")).unwrap();
        assert_eq!((accepted.version, accepted.machine), (version, machine.public()));
        assert_eq!(hex::encode(accepted.response), handshake["response"]);
        assert_eq!(hex::encode(accepted.transport.handshake_hash()), handshake["handshake_hash"]);

        let transport = client.finish(&machine, &accepted.response).unwrap();
        assert_eq!(transport.handshake_hash(), accepted.transport.handshake_hash());
        check_records(&v, transport, accepted.transport);
    }
}

fn check_records(v: &Vectors, client: sw_noise::Transport, server: sw_noise::Transport) {
    let ((mut to_server, mut from_server), (mut to_client, mut from_client)) =
        (client.split(), server.split());
    for (name, writer, reader) in [
        ("records_client_to_server", &mut to_server, &mut from_client),
        ("records_server_to_client", &mut to_client, &mut from_server),
    ] {
        for record in v.0[name].as_array().unwrap() {
            let (mut wire, mut plain) = (Vec::new(), Vec::new());
            writer.write(record["plain"].as_str().unwrap().as_bytes(), &mut wire).unwrap();
            assert_eq!(hex::encode(&wire), record["record"]);
            reader.read(&wire, &mut plain).unwrap();
            assert_eq!(plain, record["plain"].as_str().unwrap().as_bytes());
        }
    }
}

#[test]
fn intermediate_hashes_and_keys_agree_with_the_vectors() {
    let v = Vectors::load();
    let (machine, server) = (v.machine(), v.server());
    let ephemeral = EphemeralPrivate::from_bytes(v.bytes("client_ephemeral_private"));
    let mut noise = SymmetricState::new(b"Noise_IK_25519_ChaChaPoly_BLAKE2s");
    assert_eq!(*noise.hash(), v.bytes("hash_of_name"));
    noise.mix_hash(b"Tailscale Control Protocol v145");
    assert_eq!(*noise.hash(), v.bytes("hash_after_prologue_145"));
    noise.mix_hash(server.public().as_bytes());
    assert_eq!(*noise.hash(), v.bytes("hash_after_server_static_145"));
    noise.mix_hash(ephemeral.public().as_bytes());
    let mut sealed = Vec::new();
    let key = noise.mix_key(ephemeral.shared_secret(&server.public()).unwrap().expose());
    noise.seal(&key, machine.public().as_bytes(), &mut sealed);
    let key = noise.mix_key(machine.shared_secret(&server.public()).unwrap().expose());
    noise.seal(&key, &[], &mut sealed);
    assert_eq!(*noise.hash(), v.bytes("hash_after_message_1_145"));
    assert_eq!(*noise.chaining_key(), v.bytes("chaining_key_after_message_1"));

    let server_ephemeral = EphemeralPrivate::from_bytes(v.bytes("server_ephemeral_private"));
    noise.mix_hash(server_ephemeral.public().as_bytes());
    noise.mix_chaining_key(server_ephemeral.shared_secret(&ephemeral.public()).unwrap().expose());
    noise.mix_chaining_key(server_ephemeral.shared_secret(&machine.public()).unwrap().expose());
    let (to_server, to_client) = noise.split();
    assert_eq!(*to_server, v.bytes("key_client_to_server"));
    assert_eq!(*to_client, v.bytes("key_server_to_client"));

    // The bytes that a little-endian record number would give are others.
    let sealed = hex::decode(v.text("record_1_with_little_endian_nonce")).unwrap();
    let (mut body, tag) = (sealed[..5].to_vec(), sealed[5..].try_into().unwrap());
    let little_endian = [0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0];
    open_in_place(&to_server, &little_endian, &[], &mut body, &tag).unwrap();
    assert_eq!(body, b"hello");
}

#[test]
fn the_early_payload_agrees_with_the_vectors() {
    let v = Vectors::load();
    let early = &v.0["early"];
    let json = early["json"].as_str().unwrap().as_bytes();
    assert_eq!(json.len(), 95);
    let mut plain = Vec::new();
    push_early(json, &mut plain);
    assert!(hex::encode(&plain).starts_with(early["plain_prefix"].as_str().unwrap()));
    let server = v.server();
    let (_, initiation) =
        Initiator::start(CapVer(145), &v.machine(), &server.public(), v.bytes("client_ephemeral_private"))
            .unwrap();
    let accepted = accept(&initiation, &server, v.bytes("server_ephemeral_private")).unwrap();
    let mut wire = Vec::new();
    accepted.transport.split().0.write(&plain, &mut wire).unwrap();
    assert_eq!(hex::encode(wire), early["record_0_server_to_client"]);
    assert_eq!(split_early(&plain), Ok(EarlySplit::Payload { json, rest: b"" }));
}

#[test]
fn map_frames_agree_with_the_vectors() {
    let v = Vectors::load();
    let frame = &v.0["map_frame"];
    let content = frame["content"].as_str().unwrap().as_bytes();
    let mut wire = Vec::new();
    push_map_frame(content, &mut wire).unwrap();
    assert_eq!(hex::encode(&wire), frame["frame"]);
    assert_eq!(split_map_frame(&wire), Ok(Some(MapFrame { content, rest: b"" })));
    // The same keep-alive in both encodings of zstd that clients were seen to accept.
    for name in ["zstd_frame", "zstd_frame_with_checksum"] {
        let wire = hex::decode(frame[name].as_str().unwrap()).unwrap();
        let compressed = split_map_frame(&wire).unwrap().unwrap();
        assert_eq!(zstd::bulk::decompress(compressed.content, 1024).unwrap(), content, "{name}");
        assert_eq!(compressed.rest, b"");
    }
}

#[test]
fn every_changed_bit_of_a_handshake_is_refused() {
    let v = Vectors::load();
    let (machine, server) = (v.machine(), v.server());
    let start = || Initiator::start(CapVer(145), &machine, &server.public(), [5; 32]).unwrap();
    let (_, initiation) = start();
    for place in 0..initiation.len() {
        let mut changed = initiation;
        changed[place] ^= 1;
        assert!(accept(&changed, &server, [6; 32]).is_err(), "byte {place} of the initiation");
    }
    let accepted = accept(&initiation, &server, [6; 32]).unwrap();
    for place in 0..accepted.response.len() {
        let mut changed = accepted.response;
        changed[place] ^= 1;
        assert!(start().0.finish(&machine, &changed).is_err(), "byte {place} of the response");
    }
}

#[test]
fn another_server_key_and_points_of_low_order_are_refused() {
    let v = Vectors::load();
    let (machine, server) = (v.machine(), v.server());
    let other = ControlPrivate::generate([9; 32]);
    let (_, initiation) = Initiator::start(CapVer(145), &machine, &other.public(), [5; 32]).unwrap();
    assert_eq!(accept(&initiation, &server, [6; 32]).err(), Some(HandshakeError::SealBroken));

    let zero = sw_types::ControlKey::from_bytes([0; KEY_LEN]);
    let low_order = Initiator::start(CapVer(145), &machine, &zero, [5; 32]);
    assert_eq!(low_order.err(), Some(HandshakeError::LowOrderPoint));
    let mut initiation = initiation;
    initiation[5..37].fill(0);
    assert_eq!(accept(&initiation, &server, [6; 32]).err(), Some(HandshakeError::LowOrderPoint));
}

#[test]
fn sizes_types_and_lengths_are_checked_before_any_key() {
    let server = ControlPrivate::generate([1; 32]);
    let mut initiation = vec![0, 145, 1, 0, 96];
    initiation.resize(101, 7);
    for len in [0, 5, 100, 102] {
        let mut wrong = initiation.clone();
        wrong.resize(len, 7);
        assert_eq!(accept(&wrong, &server, [2; 32]).err(), Some(HandshakeError::Size));
    }
    initiation[2] = 2;
    assert_eq!(accept(&initiation, &server, [2; 32]).err(), Some(HandshakeError::Type));
    initiation[2] = 1;
    initiation[4] = 95;
    assert_eq!(accept(&initiation, &server, [2; 32]).err(), Some(HandshakeError::Length));

    assert_eq!(initiation_from_header("!"), Err(HandshakeError::Header));
    assert_eq!(initiation_from_header("AAAA"), Err(HandshakeError::Size));
    assert_eq!(initiation_from_header(&"A".repeat(140)), Err(HandshakeError::Size));
}

#[test]
fn a_servers_error_is_read_and_its_length_has_a_limit() {
    let message = error_message(HandshakeError::Size);
    assert_eq!(&message[..3], [3, 0, 31]);
    for end in 0..message.len() {
        assert_eq!(split_reply(&message[..end]), Ok(None));
    }
    let refused = ServerReply::Refused("wrong handshake initiation size".to_owned());
    assert_eq!(split_reply(&message), Ok(Some((refused, &b""[..]))));
    assert_eq!(
        split_reply(b"\x03\x00\x02a\x1b"),
        Ok(Some((ServerReply::Refused("a\u{fffd}".to_owned()), &b""[..])))
    );
    assert_eq!(split_reply(&[3, 0x0f, 0xfd]), Ok(None));
    assert_eq!(split_reply(&[3, 0x0f, 0xfe]), Err(HandshakeError::ErrorTextTooLong { got: 4094 }));
    assert_eq!(split_reply(&[2, 0, 47]), Err(HandshakeError::Length));
    assert_eq!(split_reply(&[4, 0, 0]), Err(HandshakeError::Type));
}
