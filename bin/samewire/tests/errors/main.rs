//! Every mistake and misfortune of the command line ends in a sentence that says what happened, why, and what to do,
//! with the exit code of its kind (ux.md §1). The rows are run with the real program on fresh machines: namespaces with
//! files of their own. Without root the tests print one line `skipped: why`.

mod machine;
mod notices;
mod plain;
mod rows;
mod width;

use std::time::{Duration, Instant};

use machine::{Machine, Said, can_run};
use rows::{ALONE, EXPIRED, Row, STARTING, STRANGER, UP, WAITING};

/// Runs the rows; all that is wrong is told at once.
fn check(machine: &Machine, rows: &[Row]) {
    let faults: Vec<String> = rows.iter().filter_map(|row| fault(row, &machine.run(row.words))).collect();
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

fn fault(row: &Row, said: &Said) -> Option<String> {
    let words = row.words;
    let wrong = |what: &str| {
        Some(format!("$ samewire {words}\n{what}\n{}{}[exit {}]\n", said.out, said.err, said.code))
    };
    if said.code != row.code {
        return wrong(&format!("the exit code should be {}", row.code));
    }
    let all = format!("{}{}", said.out, said.err);
    if let Some(missing) = row.says.iter().find(|part| !all.contains(**part)) {
        return wrong(&format!("it lacks {missing:?}"));
    }
    if ["os error", "panicked", "Some(", "None", "Err("].iter().any(|inside| all.contains(inside)) {
        return wrong("it shows the inside of the program");
    }
    // Answers that are no message have nothing more to keep.
    if row.code == 0 || said.err.is_empty() {
        return None;
    }
    let leads = ["error: ", "warning: ", "note: "];
    let mut lines = said.err.lines().skip_while(|line| !leads.iter().any(|word| line.starts_with(word)));
    if !lines.next().is_some_and(|first| first.ends_with(['.', '?'])) {
        return wrong("it has no sentence of what happened");
    }
    if !lines.any(|line| line.starts_with("  fix: ") || line.starts_with(" wait: ")) {
        return wrong("it does not say what to do");
    }
    None
}

#[test]
fn nobody_is_left_alone_on_a_fresh_machine() {
    let Some(machine) = can_run("errors").then(|| Machine::new("alder")) else { return };
    check(&machine, ALONE);
    let verbs = machine.run("--help").out;
    let told: Vec<&str> = [ALONE, UP, STRANGER, STARTING].concat().iter().map(|row| row.words).collect();
    for verb in verbs.lines().filter_map(|line| line.strip_prefix("  ")?.split_whitespace().next()) {
        let is_tried = told.iter().any(|words| words.split_whitespace().any(|word| word == verb));
        assert!(is_tried || verb.starts_with('-'), "no row tries {verb:?}");
    }
}

#[test]
fn errors_as_json_have_the_same_parts_and_leave_the_answer_empty() {
    let Some(machine) = can_run("errors as JSON").then(|| Machine::new("alder")) else { return };
    for (words, slug, code) in [
        ("status --json", "not-set-up", 3),
        ("--socket /run/none.sock status --json", "daemon-not-running", 3),
        ("ping --json", "misuse", 2),
        ("stauts --json", "unknown-verb", 2),
        ("up extra --json", "misuse", 2),
        ("join x --json", "invite-cut", 2),
        ("control nodes list --json", "other", 3),
    ] {
        let said = machine.run(words);
        assert_eq!((said.code, said.out.as_str()), (code, ""), "{words}: {}", said.err);
        let told: serde_json::Value =
            serde_json::from_str(&said.err).unwrap_or_else(|e| panic!("{words}: {e}: {}", said.err));
        assert_eq!(told["error"]["slug"], slug, "{words}: {}", said.err);
        assert!(told["error"]["fix"].as_str().is_some_and(|fix| !fix.is_empty()), "{words}: {}", said.err);
    }
}

#[test]
fn whoever_is_in_a_network_is_told_what_is_wrong() {
    let Some(machine) = can_run("errors in a network").then(|| Machine::new("alder")) else { return };
    machine.works("up");
    check(&machine, UP);
    machine.works("down");
    check(&machine, WAITING);
}

#[test]
fn whoever_wants_into_a_network_is_told_what_is_wrong() {
    let Some(machine) = can_run("errors at the door").then(|| Machine::new("alder")) else { return };
    machine.works("up");
    machine.shell("python3 -m http.server 8099 --bind 127.0.0.1 >/dev/null 2>&1 &");
    machine.daemon("birch", "--tun userspace-networking --port 0");
    check(&machine, STRANGER);

    // A key that was used up, one that has expired, and one that was never made.
    let key = machine.works("control keys create").out.trim().to_owned();
    let old = machine.works("control keys create --expiry 1s").out.trim().to_owned();
    let made = Instant::now();
    machine.daemon("cedar", "--tun userspace-networking --port 0");
    let join = |name: &str, key: &str| {
        machine.run(&format!(
            "--socket /run/{name}.sock up --login-server=http://127.0.0.1 --auth-key={key} --timeout=30s"
        ))
    };
    assert_eq!(join("cedar", &key).code, 0);
    machine.until("the key has expired", || (made.elapsed() > Duration::from_secs(2)).then_some(()));
    for key in [key, old, "swkey-nosuch".to_owned()] {
        let said = join("birch", &key);
        let row = Row {
            words: "up --auth-key=...",
            code: 7,
            says: &["the server refused this auth key.", "it says:", "samewire invite"],
        };
        assert_eq!(fault(&row, &said), None);
        assert!(!said.err.contains(&key) || key == "swkey-nosuch", "a secret is repeated: {}", said.err);
    }
}

#[test]
fn a_machine_whose_key_has_expired_says_so() {
    let Some(machine) = can_run("an expired key").then(|| Machine::new("alder")) else { return };
    machine.works("up");
    machine.daemon("birch", "--tun userspace-networking --port 0");
    let key = machine.works("control keys create").out.trim().to_owned();
    machine.works(&format!(
        "--socket /run/birch.sock up --login-server=http://127.0.0.1 --auth-key={key} --hostname=birch"
    ));
    machine.works("control nodes expire birch");
    machine
        .until("birch hears of it", || (machine.run("--socket /run/birch.sock ip").code != 0).then_some(()));
    check(&machine, EXPIRED);
}

#[test]
fn a_daemon_that_cannot_start_says_why() {
    let Some(machine) = can_run("errors of the daemon").then(|| Machine::new("alder")) else { return };
    machine.daemon("birch", "--tun userspace-networking --port 0");
    machine.shell(
        "mkdir -p /var/lib/broken /var/lib/open /var/lib/full; chmod 700 /var/lib/broken /var/lib/open
         echo '{broken' > /var/lib/broken/node.state; cp /var/lib/broken/node.state /var/lib/open/
         chmod 600 /var/lib/broken/node.state; chmod 644 /var/lib/open/node.state
         mount -t tmpfs -o size=16k tmpfs /var/lib/full; cat /dev/zero > /var/lib/full/x 2>/dev/null
         touch /run/file.sock; mount -t tmpfs tmpfs /dev/net",
    );
    check(&machine, STARTING);
    // Nothing that is not ours was touched.
    machine.shell("test -f /run/file.sock && test -f /var/lib/full/x");
    // A socket that a daemon left which is gone is no obstacle.
    machine.shell("python3 -c 'import socket; socket.socket(socket.AF_UNIX).bind(\"/run/cedar.sock\")'");
    machine.daemon("cedar", "--tun userspace-networking --port 0");
}
