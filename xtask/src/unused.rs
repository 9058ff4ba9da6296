//! Dependencies that nobody names: each costs a build, and hides which ones matter.

use serde_json::Value;
use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

/// Needed without being named in the source: their features act on other crates.
const FOR_THEIR_FEATURES: &[&str] = &["libc", "mimalloc"];

/// Returns dependencies of a crate that its source never names, and workspace entries that no crate asks for.
///
/// `metadata` is the answer of `cargo metadata --no-deps`, `manifest` the text of the workspace's `Cargo.toml`.
pub(crate) fn violations(metadata: &Value, manifest: &str) -> anyhow::Result<Vec<String>> {
    let mut found = Vec::new();
    let mut asked_for = BTreeSet::new();
    for package in metadata["packages"].as_array().into_iter().flatten() {
        let krate = package["name"].as_str().unwrap_or_default();
        let path = Path::new(package["manifest_path"].as_str().unwrap_or_default());
        let source = text_of(path.parent().unwrap_or(path))?;
        for dependency in package["dependencies"].as_array().into_iter().flatten() {
            let name = dependency["name"].as_str().unwrap_or_default();
            asked_for.insert(name);
            let shown = dependency["rename"].as_str().unwrap_or(name);
            if !FOR_THEIR_FEATURES.contains(&name) && !is_named(&source, shown) {
                found.push(format!("{krate}: its dependency {name} is named nowhere in its source"));
            }
        }
    }
    let entries = manifest.split("[workspace.dependencies]").nth(1).unwrap_or_default();
    let entries = entries.lines().take_while(|line| !line.starts_with('['));
    for name in entries.filter_map(|line| line.split_once('=')).map(|(name, _)| name.trim()) {
        if !name.starts_with('#') && !asked_for.contains(name) {
            found.push(format!("Cargo.toml: the workspace dependency {name} is asked for by no crate"));
        }
    }
    Ok(found)
}

/// All Rust of a crate: source, tests, benches, examples.
fn text_of(folder: &Path) -> anyhow::Result<String> {
    let mut text = String::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() && !path.ends_with("target") {
            text.push_str(&text_of(&path)?);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            text.push_str(&fs::read_to_string(path)?);
        }
    }
    Ok(text)
}

/// Whether the crate's name stands in the source as a word of its own.
fn is_named(source: &str, krate: &str) -> bool {
    let word = krate.replace('-', "_");
    let part = |c: char| c.is_alphanumeric() || c == '_';
    source.match_indices(&word).any(|(at, _)| {
        let before = source[..at].chars().next_back();
        let after = source[at + word.len()..].chars().next();
        !before.is_some_and(part) && !after.is_some_and(part)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_counts_as_a_word_only() {
        assert!(is_named("use h2::client;", "h2"));
        assert!(is_named("sw_types::Key", "sw-types"));
        assert!(!is_named("use sw_types_extra::Key;", "sw-types"));
        assert!(!is_named("let oh2 = 1;", "h2"));
    }

    #[test]
    fn an_entry_that_no_crate_asks_for_is_found() {
        let metadata = serde_json::json!({ "packages": [] });
        let found =
            violations(&metadata, "[workspace.dependencies]\nserde = \"1\"\n\n[profile.dev]\n").unwrap();
        assert_eq!(found, ["Cargo.toml: the workspace dependency serde is asked for by no crate"]);
    }
}
