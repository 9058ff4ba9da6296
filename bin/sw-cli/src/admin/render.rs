//! Tables for people.

use std::io::Write;

use comfy_table::{Table, presets};
use serde_json::Value;

/// Prints one line or text to standard output; a reader that went away is no error.
pub(crate) fn line(text: &str) {
    let mut out = std::io::stdout().lock();
    let _gone = writeln!(out, "{}", text.trim_end_matches('\n'));
}

/// Prints a JSON value as it came.
pub(crate) fn json(value: &Value) {
    let text = serde_json::to_string_pretty(value).unwrap_or_default();
    line(&text);
}

/// Prints a list of objects: columns are (title, key path with dots).
pub(crate) fn table(list: &Value, columns: &[(&str, &str)]) {
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    table.set_header(columns.iter().map(|(title, _)| *title));
    for row in list.as_array().into_iter().flatten() {
        table.add_row(columns.iter().map(|(_, key)| cell(row, key)));
    }
    line(&table.to_string());
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
