//! Reads JSON values as the types that a section wants, and collects what does not fit.

use crate::alias::Malformed;
use crate::error::{Kind, Problem, Span, nearest};
use crate::hujson::{Json, Member, Value};
use crate::model::Text;

/// Collects problems while a policy is decoded.
#[derive(Debug, Default)]
pub(super) struct Problems(pub(super) Vec<Problem>);

impl Problems {
    pub(super) fn add(&mut self, kind: Kind, span: Span, message: impl Into<String>, fix: impl Into<String>) {
        self.0.push(Problem { kind, span, message: message.into(), fix: fix.into() });
    }

    pub(super) fn malformed(&mut self, span: Span, malformed: Malformed) {
        self.add(malformed.kind, span, malformed.message, malformed.fix);
    }

    fn wrong_type(&mut self, value: &Value, field: &str, wanted: &str) {
        let message = format!("{field} must be {wanted}, not {}", value.type_name());
        self.add(Kind::TypeMismatch, value.span, message, format!("write {wanted}"));
    }

    /// Returns the members of an object; `None` for `null` and, with a problem, for any other type.
    pub(super) fn object<'v>(&mut self, value: &'v Value, field: &str) -> Option<&'v [Member]> {
        match &value.json {
            Json::Object(members) => Some(members),
            Json::Null => None,
            Json::Bool(_) | Json::Number(_) | Json::String(_) | Json::Array(_) => {
                self.wrong_type(value, field, "an object");
                None
            }
        }
    }

    /// Returns the items of an array; `None` for `null` and, with a problem, for any other type.
    pub(super) fn array<'v>(&mut self, value: &'v Value, field: &str) -> Option<&'v [Value]> {
        match &value.json {
            Json::Array(items) => Some(items),
            Json::Null => None,
            Json::Bool(_) | Json::Number(_) | Json::String(_) | Json::Object(_) => {
                self.wrong_type(value, field, "an array");
                None
            }
        }
    }

    pub(super) fn string(&mut self, value: &Value, field: &str) -> Option<Text> {
        match &value.json {
            Json::String(text) => Some(Text { text: text.clone(), span: value.span }),
            Json::Null | Json::Bool(_) | Json::Number(_) | Json::Array(_) | Json::Object(_) => {
                self.wrong_type(value, field, "a string");
                None
            }
        }
    }

    pub(super) fn strings(&mut self, value: &Value, field: &str) -> Vec<Text> {
        let items = self.array(value, field).unwrap_or(&[]);
        let inner = format!("each entry of {field}");
        items.iter().filter_map(|item| self.string(item, &inner)).collect()
    }

    pub(super) fn flag(&mut self, value: &Value, field: &str) -> bool {
        match &value.json {
            Json::Bool(flag) => *flag,
            Json::Null => false,
            Json::Number(_) | Json::String(_) | Json::Array(_) | Json::Object(_) => {
                self.wrong_type(value, field, "true or false");
                false
            }
        }
    }

    /// Matches the names of an object with the fields that a section knows, upper and lower case being one.
    pub(super) fn fields<'v>(
        &mut self,
        value: &'v Value,
        what: &str,
        known: &'static [&'static str],
    ) -> Fields<'v> {
        let mut fields = Fields { known, values: vec![None; known.len()], span: value.span };
        let Some(members) = self.object(value, what) else { return fields };
        for member in members {
            let found = known.iter().position(|name| name.eq_ignore_ascii_case(&member.name));
            let Some(slot) = found.and_then(|at| fields.values.get_mut(at)) else {
                self.unknown(member, what, known);
                continue;
            };
            if slot.replace(&member.value).is_some() {
                let message = format!("duplicate object member name {:?}", member.name);
                self.add(Kind::InvalidJson, member.name_span, message, "keep one spelling of the name");
            }
        }
        fields
    }

    fn unknown(&mut self, member: &Member, what: &str, known: &[&str]) {
        if member.name.starts_with('#') && what == "an acl" {
            return;
        }
        let fix = match nearest(&member.name, known.iter().copied()) {
            Some(near) => format!("did you mean {near:?}?"),
            None => format!("{what} knows: {}", known.join(", ")),
        };
        self.add(Kind::UnknownField, member.name_span, format!("unknown field: {:?}", member.name), fix);
    }
}

/// The values of an object by the names that its section knows.
pub(super) struct Fields<'v> {
    known: &'static [&'static str],
    values: Vec<Option<&'v Value>>,
    pub(super) span: Span,
}

impl<'v> Fields<'v> {
    /// Returns the value of a field, unless it is absent or `null`.
    pub(super) fn get(&self, name: &str) -> Option<&'v Value> {
        let at = self.known.iter().position(|known| *known == name);
        debug_assert!(at.is_some(), "{name} is a field of this section");
        self.values.get(at?).copied().flatten().filter(|value| value.json != Json::Null)
    }
}
