//! The admin page in a real browser: headless Chromium against the real server, with real machines that join.
//!
//! Pictures of every page lie in `target/tmp/pictures` afterwards, or where `SAMEWIRE_PICTURES` says.

mod network;
mod pages;
mod raw;
mod story;
mod tab;

use std::io::Write as _;

fn skip(test: &str, why: &str) {
    say(&format!("skipped: {test}: {why}"));
}

/// Prints past the test harness, which would hide the line of a test that passes.
fn say(line: &str) {
    writeln!(std::io::stderr(), "{line}").expect("stderr");
}
