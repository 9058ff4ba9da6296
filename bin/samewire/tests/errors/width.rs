//! Terminals of every width: no line of what people read is broken by the terminal in the middle of a word, tables keep
//! machine and path, and what people paste stays whole (ux.md §1.3).

use crate::machine::{Machine, can_run};
use crate::plain::{ANSWERS, printed};
use crate::rows::{ALONE, EXPIRED, UP};

const WIDTHS: [usize; 5] = [40, 60, 80, 120, 200];
/// What begins something to paste.
const PASTED: [&str; 8] = ["sudo ", "ssh ", "samewire ", "tailscale ", "curl ", "scp ", "http", "{"];
/// Documents for programs, as they are.
/// `wireguard` speaks to service managers, in lines as short as their words are.
const DOCUMENTS: [&str; 8] = [
    "wireguard ",
    "debug ",
    "metrics",
    "completion",
    "policy get",
    "dns get",
    "control settings",
    "explain --json",
];

/// A terminal of this width.
fn environment(columns: usize) -> String {
    format!("TERM=xterm-256color LANG=C.UTF-8 COLUMNS={columns}")
}

fn without_colours(text: &str) -> String {
    let mut parts = text.split("\x1b[");
    let first = parts.next().unwrap_or_default().to_owned();
    parts.fold(first, |all, part| all + part.split_once('m').map_or("", |(_, rest)| rest))
}

/// Lines that a terminal of `columns` would break in the middle of a word.
fn too_wide(text: &str, columns: usize) -> Vec<String> {
    let width = |line: &str| line.chars().map(|c| if c == '\t' { 8 } else { 1 }).sum::<usize>();
    let is_whole = |line: &str| {
        let text = line.trim();
        !text.contains(' ') || PASTED.iter().any(|begin| text.starts_with(begin))
    };
    let lines = without_colours(text);
    lines
        .lines()
        .map(str::trim_end)
        .filter(|line| width(line) > columns && !is_whole(line))
        .map(str::to_owned)
        .collect()
}

/// Neither a document nor the official words, and the shell of the test can type it.
fn is_for_people(words: &str) -> bool {
    let is_document = DOCUMENTS.iter().any(|document| words.contains(document));
    !is_document && !words.contains('"') && !words.starts_with("as tailscale")
}

fn check(machine: &Machine, all: &[&str]) {
    let mut faults = Vec::new();
    let mut longest = 0;
    for columns in WIDTHS {
        for (words, text) in printed(machine, &environment(columns), true, all) {
            longest = longest
                .max(without_colours(&text).lines().map(|line| line.chars().count()).max().unwrap_or(0));
            for line in too_wide(&text, columns) {
                faults.push(format!("{columns}: samewire {words}: {line}"));
            }
        }
    }
    assert!(faults.is_empty(), "{} lines:\n{}", faults.len(), faults.join("\n"));
    assert!(longest > 80, "some lines are long where there is room: {longest}");
}

#[test]
fn mistakes_fit_every_terminal() {
    let Some(machine) = can_run("width, fresh machine").then(|| Machine::new("alder")) else { return };
    let all: Vec<&str> = ALONE.iter().map(|row| row.words).filter(|words| is_for_people(words)).collect();
    check(&machine, &all);
}

#[test]
fn answers_fit_every_terminal_and_tables_keep_machine_and_path() {
    let Some(machine) = can_run("width, in a network").then(|| Machine::new("alder")) else { return };
    let first = machine.bare(&environment(40), "samewire up </dev/null", true);
    assert_eq!(too_wide(&first.out, 40), <[&str; 0]>::default(), "{}", first.out);
    let key = machine.works("control keys create").out.trim().to_owned();
    machine.daemon("birch", "--tun userspace-networking --port 0");
    machine.works(&format!(
        "--socket /run/birch.sock up --login-server=http://127.0.0.1 --auth-key={key} --hostname=a-machine-with-a-long-name-for-any-table"
    ));
    machine.works("ping -c 1 a-machine-with-a-long-name-for-any-table");
    for columns in WIDTHS {
        let said = machine.bare(&environment(columns), "samewire status", true).out;
        let shown = without_colours(&said);
        let head = shown.lines().find(|line| line.contains("MACHINE")).unwrap_or_else(|| panic!("{said}"));
        assert!(head.contains("PATH"), "{columns}: {said}");
        assert_eq!(head.contains("PERSON"), columns >= 80, "{columns}: {said}");
        let row = shown.lines().find(|line| line.contains("a-mach")).unwrap_or_else(|| panic!("{said}"));
        assert_eq!(row.contains('…'), columns == 40, "{columns}: {said}");
    }
    let help = without_colours(&machine.works("--help").out);
    let verbs = help.lines().filter_map(|line| line.strip_prefix("  ")?.split_whitespace().next());
    let helps: Vec<String> =
        verbs.filter(|verb| !verb.starts_with('-')).map(|verb| format!("{verb} --help")).collect();
    let slugs = sw_types::problem::Slug::ALL.iter().map(|slug| format!("help {}", slug.name()));
    let texts: Vec<String> = helps.into_iter().chain(slugs).collect();
    let rows = UP.iter().map(|row| row.words);
    let mut all: Vec<&str> =
        ANSWERS.iter().copied().chain(rows).chain(texts.iter().map(String::as_str)).collect();
    all.retain(|words| is_for_people(words));
    check(&machine, &all);
    machine.works("control nodes expire a-machine-with-a-long-name-for-any-table");
    machine.until("it hears of it", || (machine.run("--socket /run/birch.sock ip").code != 0).then_some(()));
    check(&machine, &EXPIRED.iter().map(|row| row.words).chain(["help"]).collect::<Vec<_>>());
}
