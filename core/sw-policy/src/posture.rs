//! Device postures: conditions on attributes of the source machine (policy.md §5.10).

use std::cmp::Ordering;
use std::collections::BTreeMap;

use crate::alias::Malformed;
use crate::error::Kind;

/// The attributes of a machine, such as `node:os`.
pub type Attributes = BTreeMap<String, serde_json::Value>;

#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Assertion {
    /// As written.
    pub(crate) text: String,
    attribute: String,
    test: Test,
}

#[derive(Clone, Debug, PartialEq)]
enum Test {
    Compare(Comparison, Literal),
    In(Vec<Literal>),
    NotIn(Vec<Literal>),
    IsSet,
    NotSet,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Comparison {
    Equal,
    NotEqual,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
}

#[derive(Clone, Debug, PartialEq)]
enum Literal {
    Text(String),
    Number(f64),
    Flag(bool),
}

const FIX: &str = "write \"<attribute> <operator> <value>\", for example \"node:os == 'linux'\" or \
                   \"node:tsVersion >= '1.60'\"; operators: == != < <= > >= IN, NOT IN, IS SET, NOT SET";

impl Assertion {
    /// Parses one assertion.
    pub(crate) fn parse(text: &str) -> Result<Self, Malformed> {
        parse(text).ok_or_else(|| Malformed {
            kind: Kind::BadPosture,
            message: format!("invalid posture assertion: {text:?}"),
            fix: FIX.to_owned(),
        })
    }

    /// Returns what a machine has of the attribute, printed.
    pub(crate) fn value(&self, attributes: &Attributes) -> Option<String> {
        attributes.get(&self.attribute).filter(|value| !value.is_null()).map(ToString::to_string)
    }

    /// Reports whether a machine with these attributes meets the assertion. An attribute that is not set fails
    /// every test but `NOT SET`, `!=` and `NOT IN`.
    pub(crate) fn holds(&self, attributes: &Attributes) -> bool {
        let value = attributes.get(&self.attribute).filter(|value| !value.is_null());
        match (&self.test, value) {
            (Test::IsSet, value) => value.is_some(),
            (Test::NotSet, value) => value.is_none(),
            (Test::Compare(Comparison::NotEqual, _) | Test::NotIn(_), None) => true,
            (Test::Compare(..) | Test::In(_), None) => false,
            (Test::In(list), Some(value)) => list.iter().any(|literal| literal.equals(value)),
            (Test::NotIn(list), Some(value)) => !list.iter().any(|literal| literal.equals(value)),
            (Test::Compare(Comparison::Equal, literal), Some(value)) => literal.equals(value),
            (Test::Compare(Comparison::NotEqual, literal), Some(value)) => !literal.equals(value),
            (Test::Compare(comparison, literal), Some(value)) => {
                literal.order(value).is_some_and(|order| comparison.accepts(order))
            }
        }
    }
}

impl Comparison {
    fn accepts(self, order: Ordering) -> bool {
        match self {
            Self::Equal => order.is_eq(),
            Self::NotEqual => order.is_ne(),
            Self::Less => order.is_lt(),
            Self::LessOrEqual => order.is_le(),
            Self::Greater => order.is_gt(),
            Self::GreaterOrEqual => order.is_ge(),
        }
    }
}

impl Literal {
    fn parse(text: &str) -> Option<Self> {
        if let Some(inner) = text.strip_prefix('\'') {
            let inner = inner.strip_suffix('\'')?;
            return (!inner.contains('\'')).then(|| Self::Text(inner.to_owned()));
        }
        match text {
            "true" => Some(Self::Flag(true)),
            "false" => Some(Self::Flag(false)),
            number => {
                let is_number = number.starts_with(|c: char| c.is_ascii_digit() || c == '-');
                is_number.then(|| number.parse().ok().map(Self::Number)).flatten()
            }
        }
    }

    fn equals(&self, value: &serde_json::Value) -> bool {
        match (self, value) {
            (Self::Flag(flag), serde_json::Value::Bool(value)) => flag == value,
            (Self::Number(number), serde_json::Value::Number(value)) => value.as_f64() == Some(*number),
            (Self::Text(text), serde_json::Value::String(value)) => text == value,
            // Machines report all they report as text.
            (Self::Flag(flag), serde_json::Value::String(value)) => *value == flag.to_string(),
            (Self::Number(number), serde_json::Value::String(value)) => value.parse() == Ok(*number),
            _ => false,
        }
    }

    /// Returns how `value` compares to this literal.
    fn order(&self, value: &serde_json::Value) -> Option<Ordering> {
        match (self, value) {
            (Self::Number(number), serde_json::Value::Number(value)) => value.as_f64()?.partial_cmp(number),
            (Self::Text(text), serde_json::Value::String(value)) => Some(compare_versions(value, text)),
            (Self::Number(number), serde_json::Value::String(value)) => {
                Some(compare_versions(value, &number.to_string()))
            }
            _ => None,
        }
    }
}

/// Compares version texts piece by piece, digits as numbers; a missing piece is 0.
fn compare_versions(a: &str, b: &str) -> Ordering {
    let pieces = |text: &str| -> Vec<u64> {
        let digits = |piece: &str| piece.parse::<u64>().unwrap_or(u64::MAX);
        text.split(|c: char| !c.is_ascii_digit()).filter(|piece| !piece.is_empty()).map(digits).collect()
    };
    let (a, b) = (pieces(a), pieces(b));
    (0..a.len().max(b.len()))
        .map(|at| a.get(at).unwrap_or(&0).cmp(b.get(at).unwrap_or(&0)))
        .find(|order| order.is_ne())
        .unwrap_or(Ordering::Equal)
}

fn parse(text: &str) -> Option<Assertion> {
    let text = text.trim();
    let (attribute, rest) = text.split_once(char::is_whitespace)?;
    let (namespace, name) = attribute.split_once(':')?;
    if namespace.is_empty() || name.is_empty() {
        return None;
    }
    let rest = rest.trim();
    let words: Vec<&str> = rest.split_whitespace().collect();
    let test = match words.as_slice() {
        ["IS", "SET"] => Test::IsSet,
        ["NOT", "SET"] => Test::NotSet,
        ["NOT", "IN", ..] => Test::NotIn(list(rest.strip_prefix("NOT")?.trim_start().strip_prefix("IN")?)?),
        ["IN", ..] => Test::In(list(rest.strip_prefix("IN")?)?),
        [operator, _, ..] => {
            let comparison = match *operator {
                "==" => Comparison::Equal,
                "!=" => Comparison::NotEqual,
                "<" => Comparison::Less,
                "<=" => Comparison::LessOrEqual,
                ">" => Comparison::Greater,
                ">=" => Comparison::GreaterOrEqual,
                _ => return None,
            };
            Test::Compare(comparison, Literal::parse(rest.strip_prefix(operator)?.trim())?)
        }
        _ => return None,
    };
    Some(Assertion { text: text.to_owned(), attribute: attribute.to_owned(), test })
}

fn list(text: &str) -> Option<Vec<Literal>> {
    let inner = text.trim().strip_prefix('[')?.strip_suffix(']')?;
    if inner.trim().is_empty() {
        return Some(Vec::new());
    }
    inner.split(',').map(|item| Literal::parse(item.trim())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn assertions_hold_as_specified() {
        let attributes: Attributes = serde_json::from_value(serde_json::json!({
            "node:os": "linux", "node:tsVersion": "1.60.1", "custom:level": 5, "node:tsAutoUpdate": true,
            "custom:text": "5", "custom:yes": "true",
        }))
        .unwrap();
        for (text, holds) in [
            ("node:os == 'linux'", true),
            ("node:os != 'linux'", false),
            ("node:os IN ['macos', 'linux']", true),
            ("node:os NOT IN ['macos','linux']", false),
            ("node:tsVersion >= '1.60'", true),
            ("node:tsVersion < '1.9'", false),
            ("custom:level > 4", true),
            ("custom:level <= 4", false),
            ("node:tsAutoUpdate == true", true),
            ("custom:text == 5", true),
            ("custom:yes == true", true),
            ("custom:yes == false", false),
            ("custom:x IS SET", false),
            ("custom:x NOT SET", true),
            ("custom:x == 'a'", false),
            ("custom:x != 'a'", true),
            ("custom:x NOT IN ['a']", true),
        ] {
            assert_eq!(Assertion::parse(text).unwrap().holds(&attributes), holds, "{text}");
        }
        for bad in
            ["", "node:os", "node:os = 'x'", "os == 'x'", "node:os == \"x\"", "node:os IN 'x'", "node:os =="]
        {
            assert!(Assertion::parse(bad).is_err(), "{bad}");
        }
    }
}
