//! HuJSON: JSON with comments and trailing commas, nothing else (policy.md §2), parsed with positions.

mod edit;
mod format;
mod lex;
mod parse;

pub use edit::{EditError, Step, append, remove, replace};
pub use format::format;
pub use parse::parse;

use crate::error::Span;

/// Deepest nesting of arrays and objects (threat-model.md §4).
pub const DEPTH_MAX: usize = 64;
/// Longest policy text in bytes (threat-model.md §4).
pub const TEXT_BYTES_MAX: usize = 4 << 20;

/// A JSON value and where it stands.
#[derive(Clone, Debug, PartialEq)]
pub struct Value {
    pub span: Span,
    pub json: Json,
}

/// What a value is.
#[derive(Clone, Debug, PartialEq)]
pub enum Json {
    Null,
    Bool(bool),
    /// The digits as they stand in the text.
    Number(String),
    String(String),
    Array(Vec<Value>),
    Object(Vec<Member>),
}

/// One name of an object with its value.
#[derive(Clone, Debug, PartialEq)]
pub struct Member {
    pub name: String,
    pub name_span: Span,
    pub value: Value,
}

impl Value {
    /// Returns what this value is, in words for messages.
    #[must_use]
    pub fn type_name(&self) -> &'static str {
        match self.json {
            Json::Null => "null",
            Json::Bool(_) => "a boolean",
            Json::Number(_) => "a number",
            Json::String(_) => "a string",
            Json::Array(_) => "an array",
            Json::Object(_) => "an object",
        }
    }

    /// Returns the value as strict JSON of `serde_json`, for the free-form parts of a policy.
    #[must_use]
    pub fn to_json(&self) -> serde_json::Value {
        match &self.json {
            Json::Null => serde_json::Value::Null,
            Json::Bool(flag) => serde_json::Value::Bool(*flag),
            Json::Number(digits) => serde_json::from_str(digits).unwrap_or(serde_json::Value::Null),
            Json::String(text) => serde_json::Value::String(text.clone()),
            Json::Array(items) => serde_json::Value::Array(items.iter().map(Self::to_json).collect()),
            Json::Object(members) => serde_json::Value::Object(
                members.iter().map(|member| (member.name.clone(), member.value.to_json())).collect(),
            ),
        }
    }
}
