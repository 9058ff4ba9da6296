//! Names that must be unique, and tags.

use sw_types::DnsLabel;

/// Finds the first free label of `nas`, `nas-1`, `nas-2`, … for a machine that calls itself `host`.
pub fn free_label(host: &str, mut taken: impl FnMut(&str) -> bool) -> String {
    let wanted = DnsLabel::sanitize(host);
    if !taken(wanted.as_str()) {
        return wanted.as_str().to_owned();
    }
    (1_u32..)
        .map(|n| wanted.numbered(n))
        .find(|label| !taken(label.as_str()))
        .map_or_else(|| wanted.as_str().to_owned(), |label| label.as_str().to_owned())
}

/// Whether `tag` is `tag:` + a letter + letters, digits or `-` (control.md §3.7).
pub fn is_tag(tag: &str) -> bool {
    let Some(name) = tag.strip_prefix("tag:") else {
        return false;
    };
    name.len() <= 63
        && name.starts_with(|c: char| c.is_ascii_alphabetic())
        && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '-')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_taken_label_gets_the_next_number_within_63_bytes() {
        let taken = ["nas".to_owned(), "nas-1".to_owned(), "x".repeat(63)];
        let is_taken = |l: &str| taken.iter().any(|t| t == l);
        assert_eq!(free_label("NAS", is_taken), "nas-2");
        let long = free_label(&"x".repeat(63), is_taken);
        assert_eq!(long.len(), 63);
        assert!(long.ends_with("-1"));
    }

    #[test]
    fn tags_need_a_letter_first() {
        assert!(is_tag("tag:web-1"));
        for bad in ["web", "tag:", "tag:1a", "tag:a_b", "tag:-a"] {
            assert!(!is_tag(bad), "{bad}");
        }
    }
}
