//! The conformance interface on standard input and output (policy.md §17).

use std::io::{BufRead as _, Read as _, Write as _};
use std::process::ExitCode;

use sw_policy::conform;

/// Answers one document.
pub(super) fn document() -> ExitCode {
    let mut text = String::new();
    if let Err(error) = std::io::stdin().read_to_string(&mut text) {
        return malformed(&error);
    }
    answer(&text).unwrap_or(ExitCode::SUCCESS)
}

/// Answers one document a line until the input ends.
pub(super) fn lines() -> ExitCode {
    for line in std::io::stdin().lock().lines() {
        let line = match line {
            Ok(line) => line,
            Err(error) => return malformed(&error),
        };
        if line.trim().is_empty() {
            continue;
        }
        if let Some(code) = answer(&line) {
            return code;
        }
    }
    ExitCode::SUCCESS
}

/// Writes the answer to a document; `Some` ends the program.
fn answer(document: &str) -> Option<ExitCode> {
    let output = match conform::answer(document) {
        Ok(output) => output,
        Err(error) => return Some(malformed(&error)),
    };
    let line = match serde_json::to_string(&output) {
        Ok(line) => line,
        Err(error) => return Some(malformed(&error)),
    };
    let mut out = std::io::stdout().lock();
    match writeln!(out, "{line}").and_then(|()| out.flush()) {
        Ok(()) => None,
        // The reader went away.
        Err(_) => Some(ExitCode::from(141)),
    }
}

fn malformed(why: &dyn std::fmt::Display) -> ExitCode {
    crate::local::warn(format!("error: the input is not a document of the policy interface.\n  why: {why}"));
    ExitCode::from(2)
}
