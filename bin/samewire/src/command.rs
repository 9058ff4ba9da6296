//! The face of the command line: which verbs stand first, and the pages of the manual.

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{Args, Command};
use sw_daemon::Problem;
use sw_types::problem::{Slug, quoted};

/// The program, as messages call it.
const NAME: &str = "samewire";

/// The verbs of `--help`, most wanted first.
const GROUPS: [(&str, &[&str]); 7] = [
    ("A network in two lines", &["up", "join", "invite", "admin"]),
    (
        "Every day",
        &[
            "status",
            "ping",
            "ip",
            "whoami",
            "whois",
            "down",
            "set",
            "get",
            "exit-node",
            "file",
            "serve",
            "nc",
            "wait",
        ],
    ),
    ("When something does not work", &["explain", "check", "netcheck", "dns", "bugreport", "help"]),
    ("Who may do what", &["login", "logout", "switch", "policy"]),
    ("Keep, move, end", &["update", "backup", "restore", "move", "leave", "uninstall"]),
    ("Parts on their own", &["daemon", "control", "relay", "wireguard"]),
    ("For builders", &["lab", "metrics", "debug", "completion", "version"]),
];

/// Flags of `man`.
#[derive(Args, Clone, Debug)]
pub(crate) struct ManArgs {
    /// The folder for the pages, made if need be
    #[arg(long, value_name = "DIR")]
    dir: PathBuf,
}

/// Gives the command line its grouped help.
pub(crate) fn with_groups(command: Command) -> Command {
    let about = |name: &str| {
        let verb = command.find_subcommand(name);
        verb.and_then(Command::get_about).map(ToString::to_string).unwrap_or_default()
    };
    let mut text = String::new();
    for (title, verbs) in GROUPS {
        text.push_str(&format!("{title}:\n"));
        for verb in verbs {
            text.push_str(&format!("  {verb:<11}{}\n", about(verb)));
        }
        text.push('\n');
    }
    let template = format!(
        "{{name}}: {{about}}\n\nUsage: {{usage}}\n\n{}Options:\n{{options}}\n\nOne verb: samewire help VERB. A message: samewire help NAME.\n",
        text
    );
    crate::examples::put_first(command.help_template(template))
}

/// Writes the pages of the manual, one per verb.
pub(crate) fn man(args: &ManArgs, command: Command) -> ExitCode {
    let written = std::fs::create_dir_all(&args.dir)
        .and_then(|()| clap_mangen::generate_to(command.disable_help_subcommand(true), &args.dir));
    match written {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let folder = args.dir.display();
            sw_cli::local::warn(format!("error: the manual was not written.\n  why: {folder}: {error}"));
            ExitCode::FAILURE
        }
    }
}

/// Verbs of the official client that are not here, and what takes their place.
const ELSEWHERE: [(&str, &str, &str); 13] = [
    (
        "funnel",
        "publishing to the Internet is not in this version",
        "inside the network: samewire serve PORT; for the Internet put a web server on a machine with a public address before it",
    ),
    (
        "cert",
        "certificates for machines are not in this version",
        "inside the network nothing is sent in the clear; names have the form MACHINE.NETWORK",
    ),
    (
        "ssh",
        "there is no ssh of samewire's own",
        "the system's ssh takes the same names: ssh USER@MACHINE; without an interface: ssh -o ProxyCommand='samewire nc %h %p' USER@MACHINE",
    ),
    (
        "id-token",
        "tokens for other services are not in this version",
        "keys for programs: samewire control apikeys create",
    ),
    ("lock", "the lock is not in this version", "see who may let machines in: samewire admin"),
    (
        "drive",
        "sharing folders is not in this version",
        "share a folder by NFS, Samba or SFTP; the policy rules its port",
    ),
    ("configure", "there is nothing to configure for other programs", "settings: samewire set --help"),
    ("syspolicy", "there are no system policies here", "settings: samewire get"),
    (
        "service",
        "services with addresses of their own are not in this version",
        "give a machine a tag: samewire up --advertise-tags=tag:NAME",
    ),
    ("web", "the page is the network's", "samewire admin"),
    (
        "licenses",
        "the licences are with the source",
        "samewire is MIT or Apache-2.0; its parts: docs/dependencies.md",
    ),
    ("systray", "there is no program for the desktop bar", "samewire status, or the page: samewire admin"),
    (
        "appc-routes",
        "app connectors are not in this version",
        "offer the subnet: sudo samewire set --advertise-routes=PREFIX",
    ),
];

/// What clap says of a wrong command line, in our form (ux.md §1); `None` for what is no mistake, as help.
pub(crate) fn problem_of(error: &clap::Error, words: &[OsString], command: &Command) -> Option<Problem> {
    if !error.use_stderr() || error.kind() == ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand {
        return None;
    }
    let text = |kind| match error.get(kind) {
        Some(ContextValue::String(text)) => Some(text.clone()),
        Some(ContextValue::Strings(texts)) => Some(texts.join(", ")),
        // Numbers and styled texts are not what is asked for.
        Some(_) | None => None,
    };
    let unknown = text(ContextKind::InvalidSubcommand);
    let path = verb_path(words, unknown.as_deref(), command);
    if let Some(word) = unknown {
        return Some(unknown_verb(&word, &path, command));
    }
    let suggestion = text(ContextKind::SuggestedArg).map(|name| format!("did you mean {name}? "));
    let what = mistake(error, &path, &text);
    let fix = format!("{}see: {path} --help", suggestion.unwrap_or_default());
    Some(Problem::misuse(what, fix))
}

/// The mistake as a sentence; `text` gives what clap noted about it.
fn mistake(error: &clap::Error, path: &str, text: &dyn Fn(ContextKind) -> Option<String>) -> String {
    let kind = error.kind();
    let argument = text(ContextKind::InvalidArg).unwrap_or_default();
    let value = text(ContextKind::InvalidValue).unwrap_or_default();
    if kind == ErrorKind::MissingRequiredArgument {
        return format!("`{path}` lacks {argument}.");
    }
    if kind == ErrorKind::UnknownArgument {
        let what = if argument.starts_with('-') { "has no flag" } else { "takes no argument" };
        return format!("`{path}` {what} {}.", quoted(&argument));
    }
    if kind == ErrorKind::InvalidValue && value.is_empty() {
        return format!("{argument} lacks its value.");
    }
    if kind == ErrorKind::InvalidValue || kind == ErrorKind::ValueValidation {
        let valid = text(ContextKind::ValidValue).map(|all| format!(": it is one of {all}"));
        let told = std::error::Error::source(error).map(|cause| format!(": {cause}"));
        return format!(
            "{} is no value for {argument}{}.",
            quoted(&value),
            valid.or(told).unwrap_or_default()
        );
    }
    if kind == ErrorKind::ArgumentConflict {
        let other = text(ContextKind::PriorArg).unwrap_or_default();
        return if other.is_empty() || other == argument {
            format!("{argument} stands more than once.")
        } else {
            format!("{argument} and {other} exclude each other.")
        };
    }
    let said = error.to_string();
    let line = said.lines().next().unwrap_or_default().trim_start_matches("error: ");
    format!("{}.", line.trim_end_matches('.'))
}

fn unknown_verb(word: &str, path: &str, command: &Command) -> Problem {
    if let Some((_, what, fix)) = ELSEWHERE.iter().find(|(verb, ..)| *verb == word && path == NAME) {
        let problem = Slug::UnknownVerb.problem(&[("verb", &quoted(word)), ("suggestion", "")]);
        return Problem { why: (*what).to_owned(), fix: (*fix).to_owned(), ..problem };
    }
    let mut group = command;
    for name in path.split(' ').skip(1) {
        group = group.find_subcommand(name).unwrap_or(group);
    }
    let names = group.get_subcommands().filter(|verb| !verb.is_hide_set()).map(Command::get_name);
    let nearest = sw_cli::local::nearest(word, names);
    let suggestion = nearest.map(|name| format!("did you mean {name}? ")).unwrap_or_default();
    let problem = Slug::UnknownVerb.problem(&[("verb", &quoted(word)), ("suggestion", &suggestion)]);
    if path == NAME {
        return problem;
    }
    Problem { fix: format!("{suggestion}All of them: {path} --help"), ..problem }
}

/// The verb that a command line is about: `samewire metrics write`. Nothing behind an unknown one is looked at.
fn verb_path(words: &[OsString], unknown: Option<&str>, command: &Command) -> String {
    let (mut path, mut at) = (NAME.to_owned(), command);
    let known =
        words.iter().skip(1).filter_map(|word| word.to_str()).take_while(|word| Some(*word) != unknown);
    for word in known {
        if let Some(verb) = at.find_subcommand(word) {
            path = format!("{path} {}", verb.get_name());
            at = verb;
        }
    }
    path
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use std::collections::BTreeSet;

    /// Every verb that is not hidden stands in one group, and no group names one that is not there.
    pub(crate) fn every_verb_has_its_place(command: &Command) {
        let shown: Vec<&str> = GROUPS.iter().flat_map(|(_, verbs)| verbs.iter().copied()).collect();
        let there: BTreeSet<&str> =
            command.get_subcommands().filter(|verb| !verb.is_hide_set()).map(Command::get_name).collect();
        assert_eq!(shown.iter().copied().collect::<BTreeSet<_>>(), there);
        assert_eq!(shown.len(), there.len(), "a verb stands twice");
    }
}
