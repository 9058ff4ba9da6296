//! What programs, poor terminals and other locales read: no escapes where there is no colour, no signs beyond ASCII
//! where the locale has none, JSON that is JSON (ux.md §1.3).

use std::collections::BTreeMap;

use serde_json::Value;

use crate::machine::{Machine, Said, can_run};
use crate::rows::ALONE;

/// What is answered on a first machine that runs. The words of the page and of the policy are none of the terminal's.
pub(crate) const ANSWERS: &[&str] = &[
    "status",
    "status --pretty",
    "status --peers=false",
    "ip",
    "ip -4",
    "whoami",
    "serve status",
    "serve --bg text:hello",
    "serve --http=80 off",
    "whois alder",
    "ping alder",
    "ping nosuch",
    "explain alder:443",
    "explain alder:9",
    "explain nosuch",
    "check",
    "netcheck",
    "netcheck --pretty",
    "dns status",
    "dns query alder",
    "exit-node list",
    "exit-node suggest",
    "switch --list",
    "get",
    "set --hostname=alder",
    "set --foo",
    "file get /root",
    "version",
    "version --daemon",
    "help",
    "help status",
    "help relay-hard-nat",
    "--help",
    "up --help",
    "invite",
    "invite --official",
    "invite revoke nosuch",
    "admin",
    "up",
    "up --dry-run",
    "wait --timeout=5s",
    "bugreport",
    "metrics",
    "debug prefs",
    "debug netmap",
    "move",
    "uninstall",
    "restore --latest",
    "control nodes list",
    "control users list",
    "control keys list",
    "control settings",
    "control audit",
    "control health",
    "policy check",
    "policy get",
    "policy history",
    "completion bash",
    "lab ps",
    "down",
    "status",
    "up --quiet",
];

/// The same as JSON: words, and whether they must work.
const JSON: &[&str] = &[
    "update --json",
    "status --json",
    "whoami --json",
    "whois --json alder",
    "ping --json alder",
    "ping --json nosuch",
    "explain --json alder:443",
    "explain --json nosuch",
    "check --json",
    "netcheck --format=json",
    "netcheck --format=json-line",
    "get --json",
    "switch --list --json",
    "serve status --json",
    "version --json",
    "version --daemon --json",
    "invite --json",
    "invite revoke nosuch --json",
    "admin --json",
    "up --json",
    "up --dry-run --json",
    "join x --json",
    "leave --json",
    "dns status --json",
    "control nodes list --json",
    "control users list --json",
    "control keys list --json",
    "control settings --json",
    "control audit --json",
    "control health --json",
    "stauts --json",
];

/// How somebody's terminal and environment are.
struct Place {
    name: &'static str,
    environment: &'static str,
    /// Whether standard output and errors are a terminal.
    is_terminal: bool,
    has_escapes: bool,
    has_signs: bool,
}

const fn place(name: &'static str, environment: &'static str, is_terminal: bool) -> Place {
    Place { name, environment, is_terminal, has_escapes: false, has_signs: true }
}

const PLACES: &[Place] = &[
    place("a pipe", "TERM=xterm-256color LANG=C.UTF-8", false),
    place("NO_COLOR", "TERM=xterm-256color LANG=C.UTF-8 NO_COLOR=1", true),
    place("TERM=dumb", "TERM=dumb LANG=C.UTF-8", true),
    Place { has_signs: false, ..place("the C locale", "TERM=xterm NO_COLOR=1 LANG=C", true) },
    Place {
        has_signs: false,
        ..place("a pipe in the C locale", "TERM=xterm LC_ALL=C LANG=de_DE.UTF-8", false)
    },
    // Without these the others could not fail.
    Place { has_escapes: true, ..place("a terminal", "TERM=xterm-256color LANG=C.UTF-8", true) },
];

/// Runs all commands in one place; what each printed, on both streams.
pub(crate) fn printed(
    machine: &Machine,
    environment: &str,
    is_terminal: bool,
    all: &[&str],
) -> Vec<(String, String)> {
    let mut script = String::new();
    for words in all {
        let (user, words) = match words.strip_prefix("nobody: ") {
            Some(words) => ("setpriv --reuid=65534 --regid=65534 --clear-groups ", words),
            None => ("", *words),
        };
        let (program, words) = match words.strip_prefix("as tailscale: ") {
            Some(words) => ("tailscale", words),
            None => ("samewire", words),
        };
        script +=
            &format!("printf '\\n=== %s\\n' '{words}'; {user}timeout 30 {program} {words} </dev/null; ");
    }
    let Said { out, err, .. } = machine.bare(environment, &script, is_terminal);
    let text = format!("{out}\n{err}");
    let parts = text.split("\n=== ").skip(1);
    parts
        .filter_map(|part| part.split_once('\n'))
        .map(|(words, said)| (words.trim().to_owned(), said.to_owned()))
        .collect()
}

/// `has_signs` says whether any of the commands has one to show.
fn check(machine: &Machine, all: &[&str], has_signs: bool) {
    let mut faults = Vec::new();
    for place in PLACES {
        let said = printed(machine, place.environment, place.is_terminal, all);
        assert_eq!(said.len(), all.len(), "every command was run in {}", place.name);
        let with = |sign: fn(&char) -> bool| {
            said.iter()
                .filter(|(_, text)| text.chars().any(|c| sign(&c)))
                .map(|(words, _)| words.clone())
                .collect::<Vec<_>>()
        };
        let (escapes, signs) = (with(|c| *c == '\x1b'), with(|c| !c.is_ascii()));
        if !place.has_escapes && !escapes.is_empty() {
            faults.push(format!("escapes in {}: {escapes:?}", place.name));
        }
        if !place.has_signs && !signs.is_empty() {
            faults.push(format!("signs in {}: {signs:?}", place.name));
        }
        if place.has_escapes {
            assert!(!escapes.is_empty(), "colours are seen where they may be");
            assert_eq!(signs.is_empty(), !has_signs, "signs are seen where they may be: {signs:?}");
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

#[test]
fn mistakes_on_a_fresh_machine_are_plain_text_where_they_must() {
    let Some(machine) = can_run("plain text, fresh machine").then(|| Machine::new("alder")) else { return };
    // What starts a daemon is tried where one runs.
    let all: Vec<&str> = ALONE.iter().map(|row| row.words).filter(|words| !words.contains('"')).collect();
    check(&machine, &[&all[..], &["explain --help", "status --color=never"]].concat(), false);
}

#[test]
fn answers_are_plain_text_where_they_must_and_json_where_asked() {
    let Some(machine) = can_run("plain text, in a network").then(|| Machine::new("alder")) else { return };
    let first = machine.bare("TERM=xterm LANG=C NO_COLOR=1", "samewire up </dev/null", true);
    assert!(first.out.contains("Add a machine"), "{}", first.out);
    assert!(first.out.is_ascii() && !first.out.contains('\x1b'), "the first screen: {}", first.out);
    check(&machine, ANSWERS, true);
    all_json_parses(&machine);
}

fn all_json_parses(machine: &Machine) {
    let mut faults = Vec::new();
    let mut tried = BTreeMap::new();
    for words in JSON {
        let said = machine.run(words);
        let verb = words.split_whitespace().find(|word| !word.starts_with('-')).expect("a verb");
        tried.insert(verb, ());
        let (text, is_error) = if said.out.is_empty() { (&said.err, true) } else { (&said.out, false) };
        let parsed: Result<Vec<Value>, _> = serde_json::Deserializer::from_str(text).into_iter().collect();
        match parsed {
            Ok(values) if values.is_empty() => faults.push(format!("{words}: nothing")),
            Ok(values) if is_error && values[0]["error"]["slug"].as_str().is_none() => {
                faults.push(format!("{words}: an error without its name: {text}"));
            }
            Ok(_) => {}
            Err(error) => faults.push(format!("{words}: {error}: {text}")),
        }
        if text.contains('\x1b') {
            faults.push(format!("{words}: escapes"));
        }
    }
    let verbs = machine.run("--help").out;
    for verb in verbs.lines().filter_map(|line| line.strip_prefix("  ")?.split_whitespace().next()) {
        let offers = !verb.starts_with('-') && machine.run(&format!("{verb} --help")).out.contains("--json");
        if offers && !tried.contains_key(verb) {
            faults.push(format!("no row tries {verb} --json"));
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}
