//! Small changes to a policy text which leave everything else, comments too, as it is.

use super::{Json, Value, format, parse};
use crate::error::Span;

/// One step of a path into a policy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// The member of an object; upper and lower case are one.
    Name(String),
    /// The element of an array, from 0.
    Index(usize),
}

/// Why a text was not changed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EditError {
    #[error("the policy or the new piece is not HuJSON")]
    Syntax,
    #[error("the policy has nothing at that place")]
    NoSuchPlace,
}

/// Appends `piece` to the array at `path`; a missing last step is created as an array.
///
/// # Errors
/// When the text or the piece does not parse, or `path` leads to something that is no array.
pub fn append(text: &str, path: &[Step], piece: &str) -> Result<String, EditError> {
    let root = parsed(text)?;
    parsed(piece)?;
    if let Some(array) = find(&root, path) {
        let Json::Array(items) = &array.json else { return Err(EditError::NoSuchPlace) };
        let place = Place { last: items.last().map(|item| item.span), outer: array.span };
        return finish(insert(text, place, piece));
    }
    let Some((Step::Name(name), parent)) = path.split_last() else { return Err(EditError::NoSuchPlace) };
    let parent = find(&root, parent).ok_or(EditError::NoSuchPlace)?;
    let Json::Object(members) = &parent.json else { return Err(EditError::NoSuchPlace) };
    let place = Place { last: members.last().map(|member| member.value.span), outer: parent.span };
    let name = serde_json::to_string(name).map_err(|_| EditError::Syntax)?;
    finish(insert(text, place, &format!("{name}: [\n{piece},\n]")))
}

/// Replaces the value at `path` by `piece`.
///
/// # Errors
/// When the text or the piece does not parse, or nothing is at `path`.
pub fn replace(text: &str, path: &[Step], piece: &str) -> Result<String, EditError> {
    let root = parsed(text)?;
    parsed(piece)?;
    let span = find(&root, path).ok_or(EditError::NoSuchPlace)?.span;
    finish(spliced(text, span, piece))
}

/// Removes the element or member at `path` and its comma; comments before it stay.
///
/// # Errors
/// When the text does not parse, or nothing is at `path`.
pub fn remove(text: &str, path: &[Step]) -> Result<String, EditError> {
    let root = parsed(text)?;
    let (last, parent) = path.split_last().ok_or(EditError::NoSuchPlace)?;
    let parent = find(&root, parent).ok_or(EditError::NoSuchPlace)?;
    let own = match (&parent.json, last) {
        (Json::Array(items), Step::Index(at)) => items.get(*at).ok_or(EditError::NoSuchPlace)?.span,
        (Json::Object(members), Step::Name(name)) => {
            let member = members.iter().find(|member| member.name.eq_ignore_ascii_case(name));
            let member = member.ok_or(EditError::NoSuchPlace)?;
            Span { start: member.name_span.start, end: member.value.span.end }
        }
        _ => return Err(EditError::NoSuchPlace),
    };
    let Some(comma) = comma_after(text, own.end).filter(|comma| *comma < parent.span.end) else {
        // The last element without a comma: the comma before it may stay, HuJSON allows it.
        return finish(spliced(text, own, ""));
    };
    let without_comma = spliced(text, Span { start: comma, end: comma + 1 }, "");
    finish(spliced(&without_comma, own, ""))
}

fn parsed(text: &str) -> Result<Value, EditError> {
    parse(text).map_err(|_| EditError::Syntax)
}

fn finish(text: String) -> Result<String, EditError> {
    format(&text).map_err(|_| EditError::Syntax)
}

fn find<'v>(value: &'v Value, path: &[Step]) -> Option<&'v Value> {
    let Some((step, rest)) = path.split_first() else { return Some(value) };
    let inner = match (&value.json, step) {
        (Json::Array(items), Step::Index(at)) => items.get(*at),
        (Json::Object(members), Step::Name(name)) => {
            members.iter().find(|member| member.name.eq_ignore_ascii_case(name)).map(|member| &member.value)
        }
        _ => None,
    };
    find(inner?, rest)
}

fn spliced(text: &str, span: Span, piece: &str) -> String {
    let before = text.get(..span.start).unwrap_or("");
    let after = text.get(span.end..).unwrap_or("");
    format!("{before}{piece}{after}")
}

struct Place {
    last: Option<Span>,
    outer: Span,
}

fn insert(text: &str, place: Place, piece: &str) -> String {
    let Some(last) = place.last else {
        let after_open = place.outer.start + 1;
        return spliced(text, Span { start: after_open, end: after_open }, &format!("\n{piece},"));
    };
    let close = place.outer.end - 1;
    match comma_after(text, last.end).filter(|comma| *comma < close) {
        Some(_) => spliced(text, Span { start: close, end: close }, &on_own_line(text, close, piece)),
        None => {
            let with_piece =
                spliced(text, Span { start: close, end: close }, &on_own_line(text, close, piece));
            spliced(&with_piece, Span { start: last.end, end: last.end }, ",")
        }
    }
}

fn on_own_line(text: &str, close: usize, piece: &str) -> String {
    let before = text.get(..close).unwrap_or("").trim_end_matches([' ', '\t', '\r']);
    if before.ends_with('\n') { format!("{piece},\n") } else { format!("\n{piece},\n") }
}

/// Returns the offset of the comma that follows `from`, comments and white space skipped.
fn comma_after(text: &str, from: usize) -> Option<usize> {
    let mut at = from;
    loop {
        let rest = text.get(at..)?;
        let skipped = rest.len() - rest.trim_start().len();
        at += skipped;
        let rest = text.get(at..)?;
        if rest.starts_with("//") {
            at += rest.find('\n')?;
        } else if rest.starts_with("/*") {
            at += rest.find("*/")? + 2;
        } else {
            return rest.starts_with(',').then_some(at);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(name: &str) -> Step {
        Step::Name(name.to_owned())
    }

    #[test]
    fn appending_keeps_comments() {
        let text = "{\n  // who\n  \"Grants\": [\n    {\"src\": [\"*\"]} // last\n    // tail\n  ]\n}\n";
        let out = append(text, &[name("grants")], "{\"src\": [\"a@\"]}").unwrap();
        assert_eq!(
            out,
            "{\n  // who\n  \"Grants\": [\n    {\"src\": [\"*\"]},  // last\n    // tail\n    {\"src\": [\"a@\"]},\n  ],\n}\n"
        );
        let out = append("{}", &[name("grants")], "1").unwrap();
        assert_eq!(out, "{\n  \"grants\": [\n    1,\n  ],\n}\n");
        assert_eq!(append("{\"a\": 1}", &[name("a")], "1"), Err(EditError::NoSuchPlace));
    }

    #[test]
    fn removing_and_replacing_touch_one_place() {
        let text = "{\n  \"a\": [1, 2, 3], // list\n  \"b\": 2\n}\n";
        let two = [name("a"), Step::Index(1)];
        assert_eq!(remove(text, &two).unwrap(), "{\n  \"a\": [1, 3],  // list\n  \"b\": 2,\n}\n");
        assert_eq!(replace(text, &two, "9").unwrap(), "{\n  \"a\": [1, 9, 3],  // list\n  \"b\": 2,\n}\n");
        assert_eq!(remove(text, &[name("b")]).unwrap(), "{\n  \"a\": [1, 2, 3],  // list\n}\n");
        assert_eq!(remove(text, &[name("c")]), Err(EditError::NoSuchPlace));
    }
}
