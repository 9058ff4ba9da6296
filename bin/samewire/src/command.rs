//! The face of the command line: which verbs stand first, and the pages of the manual.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Command};
use sw_daemon::Problem;
use sw_types::problem::{Slug, quoted};

/// The verbs of `--help`, most wanted first.
const GROUPS: [(&str, &[&str]); 7] = [
    ("A network in two lines", &["up", "join", "invite", "admin"]),
    ("Every day", &["status", "ping", "ip", "whoami", "whois", "down", "set", "get", "nc", "wait"]),
    ("When something does not work", &["explain", "check", "netcheck", "bugreport", "help"]),
    ("Who may do what", &["login", "logout", "switch", "policy"]),
    ("Keep, move, end", &["backup", "restore", "move", "leave", "uninstall"]),
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
    command.help_template(template)
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

/// What clap says of a wrong word, in our form where it is the verb that is wrong.
pub(crate) fn unknown_verb(error: &clap::Error, command: &Command) -> Option<Problem> {
    use clap::error::{ContextKind, ContextValue, ErrorKind};
    if error.kind() != ErrorKind::InvalidSubcommand {
        return None;
    }
    let Some(ContextValue::String(word)) = error.get(ContextKind::InvalidSubcommand) else { return None };
    let names = command.get_subcommands().filter(|verb| !verb.is_hide_set()).map(Command::get_name);
    let nearest = sw_cli::local::nearest(word, names);
    let suggestion = nearest.map(|name| format!("did you mean {name}? ")).unwrap_or_default();
    Some(Slug::UnknownVerb.problem(&[("verb", &quoted(word)), ("suggestion", &suggestion)]))
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
