//! Text forms of `sw-types`.

use std::fmt::{Debug, Display};
use std::str::FromStr;

use sw_types::{
    ChallengeKey, ControlKey, DerpKey, DiscoKey, DnsLabel, DnsName, HardwareKey, InviteToken, JoinString,
    LockKey, LockPrivate, MachineKey, MeshKey, NodeKey, NodePrivate, SecretText, TokenId, UnixTime,
    parse_addr_port,
};

/// What is read must be written and read again as the same value.
fn survives<T: FromStr + Display + PartialEq + Debug>(text: &str) {
    if let Ok(value) = text.parse::<T>() {
        assert_eq!(value.to_string().parse().ok(), Some(value));
    }
}

pub(crate) fn key_text(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    survives::<NodeKey>(text);
    survives::<MachineKey>(text);
    survives::<DiscoKey>(text);
    survives::<ControlKey>(text);
    survives::<DerpKey>(text);
    survives::<ChallengeKey>(text);
    survives::<LockKey>(text);
    survives::<HardwareKey>(text);
    if let Ok(key) = NodePrivate::from_text(text) {
        let again = NodePrivate::from_text(key.to_text().expose()).expect("our own text");
        assert_eq!(again.public(), key.public());
    }
    if let Ok(key) = LockPrivate::from_text(text) {
        assert_eq!(key.to_text().expose(), &text.to_ascii_lowercase());
    }
    if let Ok(key) = MeshKey::from_text(text) {
        assert_eq!(key.to_text().expose(), &text.to_ascii_lowercase());
    }
}

pub(crate) fn secret_text(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    if let Ok(secret) = text.parse::<SecretText>() {
        assert_eq!(secret.text().expose(), text);
        assert!(text.starts_with(secret.kind().word()) && text.contains(&secret.id().to_string()));
    }
    if let Ok(invite) = text.parse::<InviteToken>() {
        assert_eq!(invite.to_text().expose(), text);
    }
    if let Ok(invite) = InviteToken::from_auth_key(text) {
        assert_eq!(invite.to_auth_key().expose(), text);
    }
    survives::<TokenId>(text);
}

pub(crate) fn join_string(data: &[u8]) {
    if let Ok(text) = std::str::from_utf8(data)
        && let Ok(join) = text.parse::<JoinString>()
    {
        assert!((1..=8).contains(&join.addresses().len()));
        assert_eq!(join.to_text().expose(), text.trim());
    }
}

pub(crate) fn time(data: &[u8]) {
    if let Ok(text) = std::str::from_utf8(data) {
        survives::<UnixTime>(text);
    }
}

pub(crate) fn addresses_and_names(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    if let Ok(addr) = parse_addr_port(text) {
        assert_eq!(parse_addr_port(&addr.to_string()), Ok(addr));
    }
    survives::<DnsName>(text);
    survives::<DnsLabel>(text);
    let label = DnsLabel::sanitize(text);
    assert_eq!(label.as_str().parse().as_ref(), Ok(&label));
    assert!(label.numbered(data.len() as u32).as_str().parse::<DnsLabel>().is_ok());
}
