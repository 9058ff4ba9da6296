//! Long lines on a terminal: broken between words, under the column where their text began; what people paste is
//! never broken (ux.md §1.3).

/// Words with which something to paste begins.
const COMMANDS: [&str; 8] =
    ["sudo", "samewire", "tailscale", "curl", "ssh", "scp", "systemctl", "journalctl"];
/// Words behind the program's name with which a sentence about it goes on.
const OF_SENTENCES: [&str; 10] =
    ["machines", "keeps", "now", "uses", "is", "runs", "did", "already", "has", "daemon."];
/// Signs before a line.
const MARKS: [&str; 7] = ["✓", "✗", "!", "-", "ok", "x", "*"];
/// Where a line of a message goes on: under the text of `why:` and `fix:`.
const MESSAGE_INDENT: usize = 7;
const TAB: usize = 8;

/// Breaks each line of `text` that is wider than `columns`.
pub(super) fn fold(text: &str, columns: usize) -> String {
    let lines: Vec<String> = text.split('\n').map(|line| fold_line(line, columns)).collect();
    lines.join("\n")
}

fn fold_line(line: &str, columns: usize) -> String {
    if width(line) <= columns || stands_alone(line) {
        return line.to_owned();
    }
    let indent = hanging(line, columns);
    let mut folded = String::new();
    let mut at = 0;
    for unit in units(line) {
        let (gap, words) = unit;
        let needed = width(&gap) + width(&words);
        if at == 0 || at + needed <= columns {
            folded.push_str(&gap);
            at += needed;
        } else {
            folded.push('\n');
            folded.push_str(&" ".repeat(indent));
            at = indent + width(&words);
        }
        folded.push_str(&words);
    }
    folded
}

/// Whether a line is one thing to paste: a command or an address from its first column on.
fn stands_alone(line: &str) -> bool {
    let first = line.split(' ').next().unwrap_or_default();
    COMMANDS.contains(&first)
        || first.starts_with("http")
        || first.starts_with('{')
        || !line.trim_start().contains(' ')
}

/// The column under which a line goes on: that of its text behind a label, if that leaves half of the width.
fn hanging(line: &str, columns: usize) -> usize {
    let text = line.trim_start();
    let begin = width(line) - width(text);
    let is = |leads: &[&str]| leads.iter().any(|lead| plain(text).starts_with(lead));
    if begin == 0 && is(&["error: ", "warning: ", "note: "]) {
        return MESSAGE_INDENT;
    }
    if let Some((lead, _)) = text.split_once(": ").filter(|_| is(&["why: ", "fix: ", "wait: "])) {
        return begin + lead.chars().count() + 2;
    }
    let units = units(line);
    let mut at = 0;
    let mut under = begin;
    for (index, (gap, words)) in units.iter().enumerate() {
        at += width(gap);
        if index > 0 && width(gap) >= 2 && at <= columns / 2 {
            under = at;
        }
        at += width(words);
    }
    // A mark before the text is no label.
    let mark = units.first().filter(|(_, words)| under == begin && MARKS.contains(&plain(words).as_str()));
    mark.map_or(under, |(_, words)| begin + width(words) + 1)
}

/// The words of a line with the blanks before them; a command within it is one unit, up to its comma or its end.
fn units(line: &str) -> Vec<(String, String)> {
    let mut units: Vec<(String, String)> = Vec::new();
    let mut is_command = false;
    let mut rest = line;
    while !rest.is_empty() {
        let text = rest.trim_start_matches([' ', '\t']);
        let (gap, text) = (&rest[..rest.len() - text.len()], text);
        let end = text.find([' ', '\t']).unwrap_or(text.len());
        let (word, after) = text.split_at(end);
        match units.last_mut() {
            // Two blanks are a new column.
            Some((_, words)) if is_command && gap.len() < 2 => {
                words.push_str(gap);
                words.push_str(word);
            }
            Some(_) | None => {
                let next = after.split_whitespace().next().unwrap_or_default();
                is_command = COMMANDS.contains(&plain(word).as_str()) && !OF_SENTENCES.contains(&next);
                units.push((gap.to_owned(), word.to_owned()));
            }
        }
        is_command &= !plain(word).ends_with([',', '.', ';', ':', ')']);
        rest = after;
    }
    units
}

/// Columns that a text takes; colours take none.
pub(super) fn width(text: &str) -> usize {
    plain(text).chars().map(|c| if c == '\t' { TAB } else { 1 }).sum()
}

/// A text without its colours.
fn plain(text: &str) -> String {
    let mut parts = text.split("\x1b[");
    let mut plain = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        plain.push_str(part.split_once('m').map_or("", |(_, rest)| rest));
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_go_on_under_their_text() {
        let text = "error: machines outside this LAN cannot reach this server.\n  why: the router at 192.168.8.1 maps no ports and there is no public IPv6";
        assert_eq!(
            fold(text, 40),
            "error: machines outside this LAN cannot\n       reach this server.\n  why: the router at 192.168.8.1 maps no\n       ports and there is no public IPv6"
        );
        assert_eq!(fold(text, 80), text);
    }

    #[test]
    fn what_is_pasted_stays_whole() {
        let line = "curl -fsSL https://203.0.113.7/j/7QmX2vKd9sT4bN8cLw5eRy | sudo sh";
        assert_eq!(fold(line, 40), line);
        let fix = "  fix: paste the join line from another machine, or: sudo samewire up --login-server http://192.168.8.10, then wait";
        assert_eq!(
            fold(fix, 40),
            "  fix: paste the join line from another\n       machine, or:\n       sudo samewire up --login-server http://192.168.8.10,\n       then wait"
        );
    }

    #[test]
    fn labels_keep_their_column_where_there_is_room() {
        let step = "  ok New network         home.internal, its keys stay on this machine";
        let wide = fold(step, 60);
        assert_eq!(
            wide,
            "  ok New network         home.internal, its keys stay on\n                         this machine"
        );
        let narrow = fold(step, 40);
        assert!(narrow.lines().all(|line| line.len() <= 40), "{narrow}");
        let marked = "  \x1b[33m!\x1b[0m this machine's clock is four hours behind that of its server";
        assert_eq!(
            fold(marked, 40),
            "  \x1b[33m!\x1b[0m this machine's clock is four hours\n    behind that of its server"
        );
    }
}
