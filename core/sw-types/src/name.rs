//! DNS labels and names of nodes (control.md §8.2).

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Longest label (RFC 1035 §2.3.4).
const LABEL_MAX: usize = 63;
/// Longest name in text form, without the trailing dot (RFC 1035 §2.3.4).
const NAME_MAX: usize = 253;

/// A text cannot be a DNS label or name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    #[error("name is empty or has an empty label")]
    Empty,
    #[error("label or name is too long")]
    TooLong,
    #[error("label holds a character other than letters, digits and inner dashes")]
    Character,
}

/// One label of a host name: 1 to 63 lower-case letters, digits and inner dashes.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DnsLabel(String);

impl DnsLabel {
    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Makes a label of a machine's own host name; see [`sanitize_hostname`].
    pub fn sanitize(raw: &str) -> Self {
        Self(sanitize_hostname(raw))
    }

    /// The label with `-number` behind it, cut so that it stays a label: what a second machine of the same
    /// name is called.
    #[must_use]
    pub fn numbered(&self, number: u32) -> Self {
        let suffix = format!("-{number}");
        let keep = self.0.len().min(LABEL_MAX - suffix.len());
        let base = self.0.get(..keep).unwrap_or_default().trim_end_matches('-');
        Self(format!("{base}{suffix}"))
    }
}

fn check_label(label: &str) -> Result<(), NameError> {
    if label.is_empty() {
        return Err(NameError::Empty);
    }
    if label.len() > LABEL_MAX {
        return Err(NameError::TooLong);
    }
    let allowed = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    if !label.chars().all(allowed) || label.starts_with('-') || label.ends_with('-') {
        return Err(NameError::Character);
    }
    Ok(())
}

impl FromStr for DnsLabel {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        let text = text.to_ascii_lowercase();
        check_label(&text)?;
        Ok(Self(text))
    }
}

impl fmt::Display for DnsLabel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Makes a DNS label of any host name, as Tailscale does: lower case, apostrophes dropped, spaces, dots,
/// underscores and `@` become dashes, everything else that DNS does not know dropped, no outer dashes, at most
/// 63 characters; `node` when nothing is left (control.md §8.2).
pub fn sanitize_hostname(raw: &str) -> String {
    let mut label = String::new();
    for character in raw.chars() {
        let character = match character.to_ascii_lowercase() {
            letter @ ('a'..='z' | '0'..='9' | '-') => letter,
            ' ' | '.' | '_' | '@' => '-',
            _ => continue,
        };
        // Leading dashes must not use up the 63 characters.
        if !(label.is_empty() && character == '-') {
            label.push(character);
        }
        if label.len() == LABEL_MAX {
            break;
        }
    }
    label.truncate(label.trim_end_matches('-').len());
    if label.is_empty() { "node".to_owned() } else { label }
}

/// A domain name in lower case without trailing dot, at most 253 characters. Underscores are allowed within
/// labels, as in `_acme-challenge`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DnsName(String);

impl DnsName {
    /// The text without trailing dot.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The form of `Node.Name`: with trailing dot (control.md §5.6).
    pub fn with_dot(&self) -> String {
        format!("{}.", self.0)
    }

    /// The first label.
    pub fn first_label(&self) -> &str {
        self.0.split('.').next().unwrap_or(&self.0)
    }

    /// The name without its first label, `None` when it has only one.
    pub fn parent(&self) -> Option<Self> {
        self.0.split_once('.').map(|(_, rest)| Self(rest.to_owned()))
    }

    /// Returns true when `self` is `suffix` or lies below it.
    pub fn is_within(&self, suffix: &Self) -> bool {
        self.0.strip_suffix(&suffix.0).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
    }

    /// Puts `label` before the name.
    ///
    /// # Errors
    /// [`NameError::TooLong`].
    pub fn child(&self, label: &DnsLabel) -> Result<Self, NameError> {
        format!("{label}.{}", self.0).parse()
    }
}

impl FromStr for DnsName {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        let text = text.strip_suffix('.').unwrap_or(text).to_ascii_lowercase();
        if text.len() > NAME_MAX {
            return Err(NameError::TooLong);
        }
        for label in text.split('.') {
            check_label(&label.replace('_', "0"))?;
        }
        Ok(Self(text))
    }
}

impl fmt::Display for DnsName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Serialize for DnsName {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for DnsName {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn host_names_are_sanitized_as_documented() {
        for (raw, label) in [
            ("Joe's Mac mini", "joes-mac-mini"),
            ("mail.server", "mail-server"),
            ("Test@Host", "test-host"),
            ("My-PC!", "my-pc"),
            ("", "node"),
            ("---", "node"),
            ("日本", "node"),
            ("_a_", "a"),
        ] {
            assert_eq!(sanitize_hostname(raw), label, "{raw:?}");
        }
        assert_eq!(sanitize_hostname(&"a".repeat(64)), "a".repeat(63));
        assert_eq!(sanitize_hostname(&format!("{}-b", "a".repeat(62))), "a".repeat(62));
    }

    #[test]
    fn every_sanitized_name_is_a_label_and_stays_one_when_numbered() {
        arbtest::arbtest(|u| {
            let label = DnsLabel::sanitize(u.arbitrary()?);
            assert_eq!(label.as_str().parse(), Ok(label.clone()));
            let numbered = label.numbered(u.arbitrary()?);
            assert_eq!(numbered.as_str().parse(), Ok(numbered.clone()));
            assert_eq!(DnsLabel::sanitize(label.as_str()), label);
            Ok(())
        });
    }

    #[test]
    fn names_have_limits() {
        let name: DnsName = "Host.Net.Example.".parse().unwrap();
        assert_eq!(name.as_str(), "host.net.example");
        assert_eq!(name.with_dot(), "host.net.example.");
        assert_eq!(name.first_label(), "host");
        assert!(name.is_within(&"net.example".parse().unwrap()));
        assert!(!name.is_within(&"et.example".parse().unwrap()));
        assert!("_acme-challenge.host.net".parse::<DnsName>().is_ok());

        let label = "a".repeat(63);
        assert!(label.parse::<DnsLabel>().is_ok());
        assert_eq!(format!("{label}a").parse::<DnsLabel>(), Err(NameError::TooLong));
        let longest = format!("{label}.{label}.{label}.{}", "a".repeat(61));
        assert!(longest.parse::<DnsName>().is_ok());
        assert_eq!(format!("{longest}a").parse::<DnsName>(), Err(NameError::TooLong));
        for bad in ["", ".", "a..b", ".a"] {
            assert_eq!(bad.parse::<DnsName>(), Err(NameError::Empty), "{bad:?}");
        }
        for bad in ["-a", "a-", "a b", "ü"] {
            assert_eq!(bad.parse::<DnsName>(), Err(NameError::Character), "{bad:?}");
        }
    }
}
