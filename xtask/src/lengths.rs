//! The hard limit on a file's length: 600 lines without its tests.

use crate::purity::rust_files;
use std::fs;
use std::path::Path;

const LINES_MAX: usize = 600;

/// Returns the files that are too long, with their length.
pub(crate) fn violations(root: &Path) -> anyhow::Result<Vec<String>> {
    let mut found = Vec::new();
    for folder in ["core", "edge", "bin", "sim", "xtask"] {
        for file in rust_files(&root.join(folder))? {
            let lines = length(&fs::read_to_string(&file)?);
            let shown = file.strip_prefix(root).unwrap_or(&file);
            if lines > LINES_MAX {
                found.push(format!("{}: {lines} lines, the limit is {LINES_MAX}", shown.display()));
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
