//! Words that may not stand in the source of a core: clocks, sockets, files, environment, threads.
//!
//! Clippy refuses the same calls (core/clippy.toml); this scan is its belt: it needs no compile, also sees what
//! an alias or a macro hides, and asks each core for the two crate-level lints that clippy.toml cannot set.

use std::fs;
use std::path::{Path, PathBuf};

const BANNED: &[(&str, &str)] = &[
    ("Instant::now", "take `now: Now` as an argument"),
    ("SystemTime", "take `now: Now` as an argument"),
    ("std::time::Instant", "use sw_types::Instant"),
    ("std::env", "configuration comes in through the constructor"),
    ("std::fs", "files live in edge/"),
    ("std::thread", "cores are single-threaded values"),
    ("std::process", "programs are started in edge/"),
    ("UdpSocket", "sockets live in edge/"),
    ("TcpStream", "sockets live in edge/"),
    ("tokio::", "no runtime in a core"),
    ("getrandom", "randomness comes in as a seed"),
    ("thread_rng", "randomness comes in as a seed"),
    ("async fn", "a core is a value, not a task"),
];

/// Lines every core's `lib.rs` must have.
const ATTRIBUTES: &[&str] = &["#![forbid(unsafe_code)]", "#![warn(clippy::iter_over_hash_type)]"];

/// Returns what breaks the purity of the crates in `core`, as `file:line: what`.
pub(crate) fn violations(core: &Path) -> anyhow::Result<Vec<String>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(core)? {
        let krate = entry?.path();
        let source = krate.join("src");
        let root = source.join("lib.rs");
        if !root.is_file() {
            continue;
        }
        let lib = fs::read_to_string(&root)?;
        for attribute in ATTRIBUTES.iter().filter(|a| !lib.contains(**a)) {
            found.push(format!("{}: `{attribute}` is missing", root.display()));
        }
        for file in rust_files(&source)? {
            scan(&file, &fs::read_to_string(&file)?, &mut found);
        }
    }
    Ok(found)
}

fn scan(file: &Path, text: &str, found: &mut Vec<String>) {
    let mut after_test_attribute = false;
    for (index, line) in text.lines().enumerate() {
        let code = line.split("//").next().unwrap_or_default();
        if after_test_attribute && code.trim_start().starts_with("mod ") {
            return; // Tests stand last in a file (style).
        }
        after_test_attribute = code.trim() == "#[cfg(test)]";
        for (word, instead) in BANNED.iter().filter(|(word, _)| code.contains(word)) {
            found.push(format!("{}:{}: `{word}` in a core: {instead}", file.display(), index + 1));
        }
    }
}

/// All `.rs` files below `folder` that belong to the library: no `bin/`, no `tests.rs`, no `tests/`.
pub(crate) fn rust_files(folder: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        let name = path.file_name().and_then(|n| n.to_str()).unwrap_or_default();
        if path.is_dir() {
            if !["bin", "tests"].contains(&name) {
                files.extend(rust_files(&path)?);
            }
        } else if name.ends_with(".rs") && !name.ends_with("tests.rs") {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scanned(text: &str) -> Vec<String> {
        let mut found = Vec::new();
        scan(Path::new("lib.rs"), text, &mut found);
        found
    }

    #[test]
    fn a_clock_in_a_core_is_refused() {
        let planted = "fn tick() {\n    let t = std::time::Instant::now();\n}\n";
        assert!(scanned(planted).iter().any(|f| f.starts_with("lib.rs:2: `Instant::now` in a core")));
    }

    #[test]
    fn comments_and_tests_may_name_a_clock() {
        assert!(
            scanned("// not Instant::now\nfn f() {}\n#[cfg(test)]\nmod tests {\n  use std::fs;\n}\n")
                .is_empty()
        );
    }

    #[test]
    fn the_cores_of_this_workspace_are_pure() {
        let found = violations(&crate::run::workspace_root().join("core")).expect("the folder is readable");
        assert_eq!(found, Vec::<String>::new());
    }
}
