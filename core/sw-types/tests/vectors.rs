//! The vectors of keys.md §5.1 and §1.4, and properties of all text forms.
#![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use std::fmt::{Debug, Display};
use std::net::SocketAddr;
use std::str::FromStr;

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use sw_types::{
    ChallengeKey, ControlKey, ControlPrivate, DerpKey, DiscoKey, DiscoPrivate, HardwareKey, InviteToken,
    JoinAddress, JoinString, KeyError, LockKey, LockPrivate, LowOrderPoint, MachineKey, MachinePrivate,
    MeshKey, NodeKey, NodePrivate, Secret, ServerKeyHash,
};

fn vectors() -> Value {
    serde_json::from_str(include_str!("data/keys.json")).unwrap()
}

fn text<'a>(vectors: &'a Value, name: &str) -> &'a str {
    vectors[name].as_str().unwrap_or_else(|| panic!("vector {name}"))
}

fn bytes<const N: usize>(vectors: &Value, name: &str) -> [u8; N] {
    hex::decode(text(vectors, name)).unwrap().try_into().unwrap()
}

#[test]
fn text_forms_agree_with_the_vectors() {
    let v = &vectors()["text_forms"];
    let (private, public) = (bytes(v, "private"), bytes(v, "public"));
    let node = NodePrivate::from_bytes(private);
    assert_eq!(node.public(), NodeKey::from_bytes(public));
    assert_eq!(node.to_text().expose(), text(v, "private_text"));
    assert_eq!(NodePrivate::from_text(text(v, "private_text")).unwrap().public(), node.public());
    let machine = MachinePrivate::from_text(text(v, "private_text")).unwrap();
    assert_eq!(machine.to_text().expose(), text(v, "private_text"));
    assert_eq!(machine.public().to_string(), text(v, "machine_text"));
    assert_eq!(node.public().to_string(), text(v, "node_text"));
    assert_eq!(DiscoPrivate::from_bytes(private).public().to_string(), text(v, "disco_text"));
}

#[test]
fn key_pairs_and_short_forms_agree_with_the_vectors() {
    let v = vectors();
    let pairs = v["pairs"].as_array().unwrap();
    assert_eq!(pairs.len(), 9);
    for pair in pairs {
        let public = NodePrivate::from_bytes(bytes(pair, "private")).public();
        assert_eq!(public, NodeKey::from_bytes(bytes(pair, "public")));
        if let Some(short) = pair["short"].as_str() {
            assert_eq!(public.short(), short);
        }
    }
    assert_eq!(NodeKey::ZERO.short(), "");
    let spoiled = NodeKey::from_bytes([7; 32]).spoiled();
    assert!(spoiled.to_string().contains(text(&v, "spoiled_prefix")));
    assert!(spoiled.short().starts_with("[bad0"));
}

#[test]
fn exchanges_agree_with_the_vector_and_refuse_points_of_low_order() {
    let v = vectors();
    let x25519 = &v["x25519"];
    let private = DiscoPrivate::from_bytes(bytes(x25519, "private"));
    let shared = private.shared_secret(&DiscoKey::from_bytes(bytes(x25519, "public"))).unwrap();
    assert_eq!(*shared.expose(), bytes(x25519, "shared"));
    for point in v["low_order_points"].as_array().unwrap() {
        let point: [u8; 32] = hex::decode(point.as_str().unwrap()).unwrap().try_into().unwrap();
        assert_eq!(private.shared_secret(&DiscoKey::from_bytes(point)).err(), Some(LowOrderPoint));
    }
}

#[test]
fn generated_keys_are_clamped() {
    for random in [[0; 32], [0xff; 32]] {
        let key = NodePrivate::generate(random);
        assert_eq!(key.expose_bytes()[0] & 7, 0);
        assert_eq!(key.expose_bytes()[31] & 0xc0, 0x40);
    }
}

#[test]
fn the_join_string_agrees_with_the_vector() {
    let v = &vectors()["join"];
    let invite: InviteToken = text(v, "token").parse().unwrap();
    assert_eq!(*invite.expose_bytes(), bytes::<16>(v, "bytes"));
    assert_eq!(invite.to_text().expose(), text(v, "token"));
    assert_eq!(invite.id().to_string(), text(v, "id"));
    assert_eq!(invite.to_auth_key().expose(), &format!("swinv-{}", text(v, "token")));

    let server = ControlPrivate::from_bytes(bytes(v, "server_private")).public();
    let SocketAddr::V4(addr) = text(v, "address").parse().unwrap() else { panic!("an IPv4 address") };
    let addresses = vec![JoinAddress::V4(*addr.ip(), addr.port())];
    let expiry = text(v, "expiry").parse().unwrap();
    let made = JoinString::new(addresses.clone(), ServerKeyHash::of(&server), invite, expiry).unwrap();
    assert_eq!(made.to_text().expose(), text(v, "text"));

    let read: JoinString = text(v, "text").parse().unwrap();
    assert_eq!((read.addresses(), read.expiry()), (&addresses[..], expiry));
    assert!(read.server_key().matches(&server));
    assert!(!read.server_key().matches(&ControlKey::from_bytes([1; 32])));
    assert!(read.invite().ct_eq(made.invite()));
}

/// Text and JSON of one public key type: round trips, prefix, length, letter case, `null`, and no empty string.
fn check_public<K>(prefix: &'static str, from_bytes: fn([u8; 32]) -> K)
where
    K: FromStr<Err = KeyError> + Display + Debug + Copy + PartialEq + Default + Serialize + DeserializeOwned,
{
    arbtest::arbtest(|u| {
        let key = from_bytes(u.arbitrary()?);
        let text = key.to_string();
        assert!(text.starts_with(prefix) && text.len() == prefix.len() + 64);
        assert_eq!(text.parse(), Ok(key));
        assert_eq!(format!("{prefix}{}", text[prefix.len()..].to_uppercase()).parse(), Ok(key));
        let json = serde_json::to_string(&key).unwrap();
        assert_eq!(json, format!("\"{text}\""));
        assert_eq!(serde_json::from_str::<K>(&json).unwrap(), key);
        let debug = format!("{key:?}");
        assert!(debug.len() < 32 && !debug.contains(&text[prefix.len() + 8..]), "{debug}");
        // Arbitrary text is a key only if it looks like one.
        let other: &str = u.arbitrary()?;
        assert_eq!(other.parse::<K>().is_ok(), other.starts_with(prefix) && other.len() == prefix.len() + 64);
        Ok(())
    });
    let digits = "0".repeat(64);
    assert_eq!(format!("{prefix}{digits}").parse(), Ok(K::default()));
    assert_eq!(format!("{prefix}{digits}0").parse::<K>(), Err(KeyError::Length { expected: 64, got: 65 }));
    assert_eq!(
        format!("{prefix}{}", &digits[1..]).parse::<K>(),
        Err(KeyError::Length { expected: 64, got: 63 })
    );
    assert_eq!(format!("{prefix}{}g", &digits[1..]).parse::<K>(), Err(KeyError::NotHex));
    assert!(matches!(format!("x{prefix}{digits}").parse::<K>(), Err(KeyError::Prefix { .. })));
    assert_eq!(serde_json::from_str::<K>("null").unwrap(), K::default());
    assert!(serde_json::from_str::<K>("\"\"").is_err());
    assert!(serde_json::from_str::<K>("7").is_err());
}

#[test]
fn public_keys_survive_text_and_json() {
    check_public("nodekey:", NodeKey::from_bytes);
    check_public("nodekey:", DerpKey::from_bytes);
    check_public("mkey:", MachineKey::from_bytes);
    check_public("mkey:", ControlKey::from_bytes);
    check_public("discokey:", DiscoKey::from_bytes);
    check_public("chalpub:", ChallengeKey::from_bytes);
    check_public("nlpub:", LockKey::from_bytes);
}

#[test]
fn lock_and_hardware_keys_have_their_own_forms() {
    let public = LockKey::from_bytes([0x5a; 32]);
    assert_eq!(public.to_cli_text(), format!("tlpub:{}", "5a".repeat(32)));
    assert_eq!(public.to_cli_text().parse(), Ok(public));
    let private = LockPrivate::from_seed(&[1; 32], public);
    let stored = private.to_text();
    assert_eq!(stored.expose(), &format!("nlpriv:{}{}", "01".repeat(32), "5a".repeat(32)));
    let read = LockPrivate::from_text(stored.expose()).unwrap();
    assert_eq!((read.public(), read.expose_bytes()), (public, private.expose_bytes()));
    assert_eq!(
        LockPrivate::from_text(&format!("nlpriv:{}", "0".repeat(128))).err(),
        Some(KeyError::ZeroPrivate)
    );

    assert_eq!("".parse::<HardwareKey>().unwrap().to_string(), "");
    let hardware = format!("hwattestpub:04{}", "ab".repeat(64));
    assert_eq!(hardware.parse::<HardwareKey>().unwrap().to_string(), hardware);
    assert_eq!(
        format!("hwattestpub:02{}", "ab".repeat(64)).parse::<HardwareKey>(),
        Err(KeyError::Inconsistent)
    );
    assert!(serde_json::from_str::<HardwareKey>("\"\"").unwrap().is_zero());
}

#[test]
fn secrets_print_nothing_and_errors_repeat_nothing() {
    let secret = "0123456789abcdef".repeat(4);
    let node = NodePrivate::from_text(&format!("privkey:{secret}")).unwrap();
    let lock = LockPrivate::from_text(&format!("nlpriv:{secret}{secret}")).unwrap();
    let mesh = MeshKey::from_text(&secret).unwrap();
    assert_eq!(mesh.to_text().expose(), &secret);
    assert!(mesh.ct_eq(&MeshKey::from_text(&secret).unwrap()));
    let printed = format!("{node:?} {lock:?} {mesh:?} {:?}", Secret::new(secret.clone()));
    assert!(!printed.contains(&secret[..8]) && printed.contains("***"), "{printed}");

    for wrong in [format!("privkey:{secret}0"), format!("privkey:{}x", &secret[1..]), secret.clone()] {
        let error = NodePrivate::from_text(&wrong).expect_err("a damaged key");
        assert!(!format!("{error} {error:?}").contains(&secret[8..16]));
    }
    let zero = NodePrivate::from_text(&format!("privkey:{}", "0".repeat(64)));
    assert_eq!(zero.err(), Some(KeyError::ZeroPrivate));
}
