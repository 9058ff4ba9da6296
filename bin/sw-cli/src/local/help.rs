//! `help` and `completion`.

use clap::Args;
use sw_types::problem::{Slug, quoted};

use super::{Context, Outcome, nearest, print_bytes, say};

#[derive(Args, Clone, Debug, Default)]
pub struct HelpArgs {
    /// A command, or the name of a message
    topic: Option<String>,
}

#[derive(Args, Clone, Debug)]
pub struct CompletionArgs {
    /// bash, zsh, fish
    shell: clap_complete::Shell,
}

const OVERVIEW: &str = "\
samewire: every machine you own, on the same wire.

  samewire up                     start a network here, or connect again
  samewire invite                 a line for the next machine, a code for a phone
  samewire status                 who is here, and how they are reached
  samewire ping MACHINE           does it answer, and on which path
  samewire explain MACHINE[:PORT] why it works, or not, and what would help
  samewire set --help             settings

All commands: samewire --help. One command: samewire help COMMAND.
A message you do not understand: samewire help NAME.
";

pub(super) fn help(context: &Context, args: &HelpArgs, mut command: clap::Command) -> Outcome {
    let Some(topic) = args.topic.as_deref() else { return say(OVERVIEW.trim_end()) };
    if let Some(slug) = Slug::from_name(topic) {
        return page(slug);
    }
    // Gives the verbs their full names and the flags of all.
    command.build();
    if let Some(verb) = command.find_subcommand_mut(topic) {
        return say(verb.render_long_help());
    }
    let verbs: Vec<String> = command.get_subcommands().map(|verb| verb.get_name().to_owned()).collect();
    let known = verbs.iter().map(String::as_str).chain(Slug::ALL.iter().map(|slug| slug.name()));
    let suggestion = nearest(topic, known).map(|verb| format!("did you mean {verb}? ")).unwrap_or_default();
    let _unused = context;
    Err(Slug::UnknownVerb.problem(&[("verb", &quoted(topic)), ("suggestion", &suggestion)]).into())
}

fn page(slug: Slug) -> Outcome {
    let (what, why, fix) = slug.template();
    say(format!("{}\n", slug.name()))?;
    say(format!("What it says:  {what}"))?;
    if !why.is_empty() {
        say(format!("Why:           {why}"))?;
    }
    say(format!("What to do:    {fix}"))?;
    say(format!("Exit code:     {}", slug.exit_code()))
}

pub(super) fn completion(args: &CompletionArgs, mut command: clap::Command) -> Outcome {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut command, "samewire", &mut script);
    print_bytes(&script)
}
