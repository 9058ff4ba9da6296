//! The hard limit on a file's length: 600 lines without its tests.

use crate::purity::rust_files;
use std::fs;
use std::path::Path;

const LINES_MAX: usize = 600;

/// Files that are over it today, and how long they may be: the numbers only go down, and a split removes the line.
const TO_SPLIT: &[(&str, usize)] =
    &[("core/sw-tailnet/src/admin.rs", 870), ("core/sw-tailnet/src/tailnet.rs", 730)];

/// Returns the files that are too long, with their length.
pub(crate) fn violations(root: &Path) -> anyhow::Result<Vec<String>> {
    let mut found = Vec::new();
    for folder in ["core", "edge", "bin", "sim", "xtask"] {
        for file in rust_files(&root.join(folder))? {
            let lines = length(&fs::read_to_string(&file)?);
            let shown = file.strip_prefix(root).unwrap_or(&file);
            let known = TO_SPLIT.iter().find(|(name, _)| shown == Path::new(name));
            let limit = known.map_or(LINES_MAX, |(_, limit)| *limit);
            if lines > limit {
                found.push(format!("{}: {lines} lines, the limit is {limit}", shown.display()));
            }
        }
    }
    Ok(found)
}

/// Lines before the test module.
fn length(text: &str) -> usize {
    let lines: Vec<&str> = text.lines().collect();
    let tests =
        lines.windows(2).position(|w| w[0].trim() == "#[cfg(test)]" && w[1].trim_start().starts_with("mod "));
    tests.unwrap_or(lines.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tests_do_not_count() {
        assert_eq!(length("a\nb\n#[cfg(test)]\nmod tests {\n}\n"), 2);
        assert_eq!(length("a\nb\n"), 2);
    }
}
