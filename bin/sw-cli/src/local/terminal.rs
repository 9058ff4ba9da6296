//! What the command knows of its terminal, and how figures look for people (ux.md §1).

use std::fmt;
use std::io::IsTerminal as _;
use std::time::Duration;

/// When to colour.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum ColorChoice {
    Always,
    Never,
    #[default]
    Auto,
}

/// Properties of standard output.
#[derive(Clone, Copy, Debug)]
pub struct Terminal {
    /// Screens for people instead of stable lines for programs.
    pub is_pretty: bool,
    pub has_color: bool,
    /// Whether ✓ and its like may be used.
    pub has_unicode: bool,
    pub columns: usize,
}

impl Terminal {
    /// Looks at standard output and the environment. `pretty` is set by `--pretty` (true) and `--plain` (false).
    pub fn detect(color: ColorChoice, pretty: Option<bool>) -> Self {
        let is_terminal = std::io::stdout().is_terminal();
        let is_set = |name: &str| std::env::var_os(name).is_some_and(|value| !value.is_empty());
        let is_dumb = std::env::var("TERM").is_ok_and(|term| term == "dumb");
        let has_color = match color {
            ColorChoice::Always => true,
            ColorChoice::Never => false,
            ColorChoice::Auto => {
                !is_set("NO_COLOR") && (is_set("CLICOLOR_FORCE") || (is_terminal && !is_dumb))
            }
        };
        let locale = ["LC_ALL", "LC_CTYPE", "LANG"]
            .iter()
            .find_map(|name| std::env::var(name).ok().filter(|value| !value.is_empty()))
            .unwrap_or_default()
            .to_ascii_lowercase();
        Self {
            is_pretty: pretty.unwrap_or(is_terminal),
            has_color,
            has_unicode: locale.contains("utf-8") || locale.contains("utf8"),
            columns: columns(),
        }
    }

    /// Paints `text`, if colour is on.
    pub fn paint(&self, style: Style, text: impl fmt::Display) -> String {
        if !self.has_color {
            return text.to_string();
        }
        format!("\x1b[{}m{text}\x1b[0m", style.code())
    }

    /// The mark of something that is well.
    pub fn tick(&self) -> &'static str {
        if self.has_unicode { "✓" } else { "ok" }
    }

    /// The mark of something that is broken.
    pub fn cross(&self) -> &'static str {
        if self.has_unicode { "✗" } else { "x" }
    }
}

/// The few styles there are; all from the 16 colours of the user's theme.
#[derive(Clone, Copy, Debug)]
pub enum Style {
    Good,
    Caution,
    Bad,
    PeerRelay,
    Bold,
    Dim,
}

impl Style {
    const fn code(self) -> u8 {
        match self {
            Self::Good => 32,
            Self::Caution => 33,
            Self::Bad => 31,
            Self::PeerRelay => 35,
            Self::Bold => 1,
            Self::Dim => 2,
        }
    }
}

fn columns() -> usize {
    let from_environment = std::env::var("COLUMNS").ok().and_then(|value| value.parse::<usize>().ok());
    let from_terminal = || {
        let size = rustix::termios::tcgetwinsize(std::io::stdout()).ok()?;
        (size.ws_col > 0).then_some(usize::from(size.ws_col))
    };
    from_environment.or_else(from_terminal).unwrap_or(80).max(40)
}

/// A delay: `0.4 ms`, `11 ms`, `1.3 s`.
pub fn delay(duration: Duration) -> String {
    let millis = duration.as_secs_f64() * 1e3;
    if millis < 10.0 {
        format!("{millis:.1} ms")
    } else if millis < 1000.0 {
        format!("{millis:.0} ms")
    } else {
        format!("{:.1} s", millis / 1e3)
    }
}

/// An age: `now`, `4 s`, `3 min`, `5 h`, `3 days`.
pub fn age(duration: Duration) -> String {
    if duration.as_secs() == 0 { "now".to_owned() } else { sw_types::problem::span(duration) }
}

/// Parses a duration in Go's form: `5s`, `1m30s`, `500ms`, `0`.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    let refuse = || format!("{text:?} is no duration; write for example 5s, 1m30s or 500ms");
    if text == "0" {
        return Ok(Duration::ZERO);
    }
    let mut rest = text;
    let mut total = Duration::ZERO;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.').ok_or_else(refuse)?;
        let number: f64 = rest[..digits].parse().map_err(|_| refuse())?;
        rest = &rest[digits..];
        let letters = rest.find(|c: char| c.is_ascii_digit()).unwrap_or(rest.len());
        let seconds = match &rest[..letters] {
            "ns" => 1e-9,
            "us" | "µs" => 1e-6,
            "ms" => 1e-3,
            "s" => 1.0,
            "m" => 60.0,
            "h" => 3600.0,
            "d" => 86_400.0,
            _ => return Err(refuse()),
        };
        rest = &rest[letters..];
        total += Duration::try_from_secs_f64(number * seconds).map_err(|_| refuse())?;
    }
    if text.is_empty() { Err(refuse()) } else { Ok(total) }
}

/// Pads to a width counted in characters.
pub(super) fn pad(text: &str, width: usize) -> String {
    let length = text.chars().count();
    format!("{text}{}", " ".repeat(width.saturating_sub(length)))
}

/// Cuts a long name in the middle: `attic-n…nas`.
pub(super) fn shorten(text: &str, width: usize, has_unicode: bool) -> String {
    let characters: Vec<char> = text.chars().collect();
    let mark = if has_unicode { "…" } else { "~" };
    if characters.len() <= width || width < 5 {
        return text.to_owned();
    }
    let tail = (width - 1) / 3;
    let head = width - 1 - tail;
    let tail_start = characters.len() - tail;
    characters[..head]
        .iter()
        .chain(mark.chars().collect::<Vec<_>>().iter())
        .chain(&characters[tail_start..])
        .collect()
}

/// Finds the candidate nearest to a mistyped word, within an edit distance of 2.
pub fn nearest<'a>(word: &str, candidates: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    candidates
        .map(|candidate| (edit_distance(word, candidate), candidate))
        .filter(|(distance, _)| *distance <= 2)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

/// Insertions, deletions, changes, and swaps of neighbours.
fn edit_distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    let mut rows = vec![vec![0; b.len() + 1]; a.len() + 1];
    for (i, row) in rows.iter_mut().enumerate() {
        row[0] = i;
    }
    for (j, cell) in rows[0].iter_mut().enumerate() {
        *cell = j;
    }
    for i in 1..=a.len() {
        for j in 1..=b.len() {
            let change = usize::from(a[i - 1] != b[j - 1]);
            let mut best = (rows[i - 1][j] + 1).min(rows[i][j - 1] + 1).min(rows[i - 1][j - 1] + change);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                best = best.min(rows[i - 2][j - 2] + 1);
            }
            rows[i][j] = best;
        }
    }
    rows[a.len()][b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_look_as_in_the_guide() {
        assert_eq!(delay(Duration::from_micros(400)), "0.4 ms");
        assert_eq!(delay(Duration::from_millis(11)), "11 ms");
        assert_eq!(delay(Duration::from_millis(1300)), "1.3 s");
        assert_eq!(age(Duration::from_secs(3 * 86_400)), "3 days");
        assert_eq!(age(Duration::from_secs(200)), "3 min");
    }

    #[test]
    fn durations_are_read_in_gos_form() {
        assert_eq!(parse_duration("1m30s"), Ok(Duration::from_secs(90)));
        assert_eq!(parse_duration("0.5s"), Ok(Duration::from_millis(500)));
        assert_eq!(parse_duration("0"), Ok(Duration::ZERO));
        for bad in ["", "5", "s", "5x", "-1s"] {
            assert!(parse_duration(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn typing_errors_find_the_nearest_word() {
        let verbs = ["status", "switch", "set"];
        assert_eq!(nearest("stauts", verbs.into_iter()), Some("status"));
        assert_eq!(nearest("zzzzzz", verbs.into_iter()), None);
    }

    #[test]
    fn long_names_are_cut_in_the_middle() {
        assert_eq!(shorten("attic-nas-of-jun", 11, true), "attic-n…jun");
        assert_eq!(shorten("short", 11, true), "short");
    }
}
