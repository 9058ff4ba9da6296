//! Tables for people.

use std::io;

use serde_json::Value;

use crate::local::table::{self, Column, Room};
use crate::local::{columns_of, print_bytes, say};

/// The columns that stay longest, most wanted first; all others go before them, from the right.
const WANTED: [&str; 8] = ["NAME", "ID", "ADDRESSES", "ONLINE", "USER", "WHAT", "WHEN", "LAST SEEN"];

/// Prints one line or text to standard output; a reader that went away is no error.
pub(crate) fn line(text: &str) {
    let _gone = say(text.trim_end_matches('\n'));
}

/// Prints a document as it is.
pub(crate) fn document(text: &str) {
    let _gone = print_bytes(format!("{}\n", text.trim_end_matches('\n')).as_bytes());
}

/// Prints a JSON value as it came.
pub(crate) fn json(value: &Value) {
    document(&serde_json::to_string_pretty(value).unwrap_or_default());
}

/// Prints a list of objects: columns are (title, key path with dots).
pub(crate) fn table(list: &Value, columns: &[(&str, &str)]) {
    let has_name = columns.iter().any(|(title, _)| *title == "NAME");
    let heads: Vec<Column<'_>> = columns
        .iter()
        .enumerate()
        .map(|(at, (title, _))| {
            let is_name = if has_name { *title == "NAME" } else { at == 0 };
            let wanted = WANTED.iter().position(|wanted| wanted == title).unwrap_or(WANTED.len() + at);
            Column { title, rank: if is_name { 0 } else { wanted.max(1) } }
        })
        .collect();
    let items = list.as_array().map(Vec::as_slice).unwrap_or_default();
    let rows: Vec<Vec<String>> =
        items.iter().map(|row| columns.iter().map(|(_, key)| cell(row, key)).collect()).collect();
    let room = Room { columns: columns_of(&io::stdout()), indent: 0, has_unicode: false };
    line(&table::table(&heads, &rows, room).join("\n"));
}

fn cell(row: &Value, key: &str) -> String {
    let value = key.split('.').try_fold(row, |value, key| value.get(key));
    value.map_or_else(|| "-".to_owned(), show)
}

/// A value in a cell: plain, lists by commas, nothing as a dash.
pub(crate) fn show(value: &Value) -> String {
    match value {
        Value::Null => "-".to_owned(),
        Value::Bool(true) => "yes".to_owned(),
        Value::Bool(false) => "no".to_owned(),
        Value::Number(number) => number.to_string(),
        // Times to the second are enough for people.
        Value::String(text) => match text.split_once('.') {
            Some((seconds, rest)) if rest.ends_with('Z') && seconds.contains('T') => format!("{seconds}Z"),
            Some(_) | None => text.clone(),
        },
        Value::Array(items) if items.is_empty() => "-".to_owned(),
        Value::Array(items) => items.iter().map(show).collect::<Vec<_>>().join(","),
        Value::Object(_) => value.to_string(),
    }
}
