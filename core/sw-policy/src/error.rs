//! What is wrong with a policy: kind, place, text and the way out.

use std::fmt;

/// Byte offsets of a piece of the policy text, end exclusive.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Span {
    pub start: usize,
    pub end: usize,
}

/// A line and column, both counted from 1; columns count characters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Position {
    pub line: usize,
    pub column: usize,
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}, column {}", self.line, self.column)
    }
}

/// Where the lines of a text begin.
#[derive(Clone, Debug, Default)]
pub struct Lines {
    starts: Vec<usize>,
}

impl Lines {
    /// Returns the index of `text`.
    #[must_use]
    pub fn new(text: &str) -> Self {
        let after_newlines =
            text.bytes().enumerate().filter(|(_, byte)| *byte == b'\n').map(|(at, _)| at + 1);
        Self { starts: std::iter::once(0).chain(after_newlines).collect() }
    }

    /// Returns the line number of a byte offset, from 1.
    #[must_use]
    pub fn line(&self, offset: usize) -> usize {
        self.starts.partition_point(|start| *start <= offset).max(1)
    }

    /// Returns the position of a byte offset in `text`, the text the index was made from.
    #[must_use]
    pub fn position(&self, text: &str, offset: usize) -> Position {
        let line = self.line(offset);
        let start = self.starts.get(line - 1).copied().unwrap_or(0);
        let column = text.get(start..offset).map_or(1, |before| before.chars().count() + 1);
        Position { line, column }
    }

    /// Returns the text of a line (from 1) without its line end.
    #[must_use]
    pub fn text<'t>(&self, text: &'t str, line: usize) -> &'t str {
        let start = self.starts.get(line.wrapping_sub(1)).copied().unwrap_or(text.len());
        let end = self.starts.get(line).copied().unwrap_or(text.len());
        text.get(start..end).unwrap_or("").trim_end_matches(['\n', '\r'])
    }
}

macro_rules! kinds {
    ($($variant:ident = $name:literal,)*) => {
        /// The stable identifier of a kind of mistake (policy.md §6.3).
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        pub enum Kind { $($variant,)* }

        impl Kind {
            /// Every kind, in the order of policy.md §6.3.
            pub const ALL: &[Self] = &[$(Self::$variant,)*];

            /// Returns the identifier as it stands in JSON.
            #[must_use]
            pub fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }
        }
    };
}

kinds! {
    HujsonSyntax = "hujson_syntax",
    InvalidJson = "invalid_json",
    UnknownField = "unknown_field",
    TypeMismatch = "type_mismatch",
    InvalidAlias = "invalid_alias",
    DstMissingPort = "dst_missing_port",
    BadPort = "bad_port",
    BadProtocol = "bad_protocol",
    BadIpSpec = "bad_ip_spec",
    BadAction = "bad_action",
    BadGroup = "bad_group",
    RecursiveGroup = "recursive_group",
    BadHost = "bad_host",
    BadTagName = "bad_tag_name",
    BadUser = "bad_user",
    BadVia = "bad_via",
    BadDuration = "bad_duration",
    BadIpset = "bad_ipset",
    BadPosture = "bad_posture",
    SshAliasNotAllowed = "ssh_alias_not_allowed",
    UndefinedHost = "undefined_host",
    UndefinedGroup = "undefined_group",
    UndefinedTag = "undefined_tag",
    UndefinedIpset = "undefined_ipset",
    UndefinedPosture = "undefined_posture",
    AutogroupNotAllowed = "autogroup_not_allowed",
    AutogroupSelfSrc = "autogroup_self_src",
    AutogroupSelfBadSrc = "autogroup_self_bad_src",
    ProtoNoPorts = "proto_no_ports",
    SshActionMissing = "ssh_action_missing",
    SshUsersMissing = "ssh_users_missing",
    SshUserInvalid = "ssh_user_invalid",
    SshAcceptEnvEmpty = "ssh_accept_env_empty",
    SshSrcDstCombination = "ssh_src_dst_combination",
    SshCheckPeriod = "ssh_check_period",
    GrantEmpty = "grant_empty",
    BadCapName = "bad_cap_name",
    AppWithInternet = "app_with_internet",
    GrantDefaultRoute = "grant_default_route",
    DomainNotInTailnet = "domain_not_in_tailnet",
    NodeAttrPool = "node_attr_pool",
    TestsFailed = "tests_failed",
    SshTestBadDst = "ssh_test_bad_dst",
}

/// One mistake.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    pub kind: Kind,
    /// The offending piece of the policy text.
    pub span: Span,
    /// What is wrong; the words of policy.md.
    pub message: String,
    /// What to write instead.
    pub fix: String,
}

/// Why a policy was refused: at least one problem, in the order the checks ran.
#[derive(Clone, Debug)]
pub struct Rejection {
    text: String,
    lines: Lines,
    problems: Vec<Problem>,
}

impl Rejection {
    /// Wraps the problems of `text`.
    ///
    /// # Panics
    /// When there is no problem: a rejection without a reason is our own fault.
    #[must_use]
    pub fn new(text: &str, problems: Vec<Problem>) -> Self {
        assert!(!problems.is_empty(), "a rejection has a reason");
        Self { text: text.to_owned(), lines: Lines::new(text), problems }
    }

    /// Returns the kind of the first problem.
    #[must_use]
    pub fn kind(&self) -> Kind {
        self.problems.first().map_or(Kind::HujsonSyntax, |problem| problem.kind)
    }

    /// Returns the problems in the order the checks ran.
    #[must_use]
    pub fn problems(&self) -> &[Problem] {
        &self.problems
    }

    /// Returns where a problem of this rejection begins.
    #[must_use]
    pub fn position(&self, problem: &Problem) -> Position {
        self.lines.position(&self.text, problem.span.start)
    }

    /// Returns all messages with their places, one a line: the text of the HTTP API.
    #[must_use]
    pub fn message(&self) -> String {
        let lines: Vec<String> = self
            .problems
            .iter()
            .map(|problem| format!("{}: {}", self.position(problem), problem.message))
            .collect();
        lines.join("\n")
    }

    /// Returns the full report for a person: place, source line with the piece underlined, way out.
    #[must_use]
    pub fn report(&self) -> String {
        let mut out = String::new();
        for problem in &self.problems {
            self.describe(problem, &mut out);
        }
        out
    }

    fn describe(&self, problem: &Problem, out: &mut String) {
        use fmt::Write as _;
        let at = self.position(problem);
        let line = self.lines.text(&self.text, at.line);
        let (shown, skipped) = window(line, at.column - 1);
        let lead: String =
            shown.chars().take(at.column - 1 - skipped).map(|c| if c == '\t' { '\t' } else { ' ' }).collect();
        let marked = self.text.get(problem.span.start..problem.span.end).unwrap_or("");
        let rest = shown.chars().count().saturating_sub(at.column - 1 - skipped);
        let width = marked.lines().next().unwrap_or("").chars().count().clamp(1, rest.max(1));
        let number = at.line.to_string();
        let pad = " ".repeat(number.len());
        // Writing to a String cannot fail.
        let _ = writeln!(out, "{at}: {}", problem.message);
        let _ = writeln!(out, "  {number} | {shown}");
        let _ = writeln!(out, "  {pad} | {lead}{}", "^".repeat(width));
        let _ = writeln!(out, "  fix: {}", problem.fix);
    }
}

/// Returns the part of a long line around a column, and how many characters were left out before it.
fn window(line: &str, column: usize) -> (String, usize) {
    const WIDTH: usize = 100;
    let length = line.chars().count();
    if length <= WIDTH {
        return (line.to_owned(), 0);
    }
    let skipped = column.saturating_sub(WIDTH / 2).min(length - WIDTH);
    (line.chars().skip(skipped).take(WIDTH).collect(), skipped)
}

impl fmt::Display for Rejection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message())
    }
}

impl std::error::Error for Rejection {}

/// Returns the candidate nearest to `word` within two edits, for "did you mean".
pub(crate) fn nearest<'c>(word: &str, candidates: impl IntoIterator<Item = &'c str>) -> Option<&'c str> {
    let word = word.to_lowercase();
    candidates
        .into_iter()
        .map(|candidate| (distance(&word, &candidate.to_lowercase()), candidate))
        .filter(|(far, _)| *far <= 2)
        .min()
        .map(|(_, candidate)| candidate)
}

fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().take(64).collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.chars().take(64).enumerate() {
        let mut diagonal = i;
        let mut left = i + 1;
        for (j, y) in b.iter().enumerate() {
            let above = row.get(j + 1).copied().unwrap_or(usize::MAX / 2);
            let next = (diagonal + usize::from(x != *y)).min(above + 1).min(left + 1);
            diagonal = above;
            if let Some(cell) = row.get_mut(j) {
                *cell = left;
            }
            left = next;
        }
        if let Some(cell) = row.last_mut() {
            *cell = left;
        }
    }
    row.last().copied().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nearest_word_is_found_within_two_edits() {
        assert_eq!(nearest("aclz", ["acls", "grants"]), Some("acls"));
        assert_eq!(nearest("group:egn", ["group:eng", "group:ops"]), Some("group:eng"));
        assert_eq!(nearest("firewall", ["acls", "grants"]), None);
        assert_eq!(distance("kitten", "sitting"), 3);
        assert_eq!(distance("", "abc"), 3);
    }

    #[test]
    fn columns_count_characters() {
        let text = "{\n \"ä\": x";
        let lines = Lines::new(text);
        assert_eq!(lines.position(text, text.len() - 1), Position { line: 2, column: 7 });
    }
}
