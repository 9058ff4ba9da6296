//! `switch` (localapi-cli.md §B2).

use std::time::{Duration, Instant};

use clap::Args;
use serde_json::json;
use sw_types::local::{LoginProfile, Problem, Status};

use super::client::escape;
use super::{Context, Failure, Outcome, misuse, not_connected, say, say_json};

/// How long the other account is waited for.
const SETTLE_MAX: Duration = Duration::from_secs(15);

#[derive(Args, Clone, Debug, Default)]
pub struct SwitchArgs {
    /// List the networks and accounts of this machine
    #[arg(long)]
    list: bool,
    /// Print JSON
    #[arg(long)]
    pub(super) json: bool,
    /// Network, account, name or id; or: remove ID
    words: Vec<String>,
}

pub(super) fn switch(context: &Context, args: &SwitchArgs) -> Outcome {
    let profiles: Vec<LoginProfile> = context.client.get("/localapi/v0/profiles/")?;
    let current: LoginProfile = context.client.get("/localapi/v0/profiles/current")?;
    if args.list || (args.json && args.words.is_empty()) {
        return list(args.json, &profiles, &current);
    }
    match args.words.as_slice() {
        [verb, id] if verb == "remove" => {
            let profile = find(&profiles, id)?;
            context.client.command(
                "DELETE",
                &format!("/localapi/v0/profiles/{}", escape(&profile.id)),
                None,
            )?;
            Ok(())
        }
        [words] => {
            let profile = find(&profiles, words)?;
            if profile.id == current.id {
                return say(format!("Already on account {:?}", profile.name));
            }
            say(format!("Switching to account {:?}", profile.name))?;
            context.client.command(
                "POST",
                &format!("/localapi/v0/profiles/{}", escape(&profile.id)),
                None,
            )?;
            settle(context)
        }
        _ => Err(misuse(
            "`switch` wants one network or account.",
            "see which there are: samewire switch --list",
        )),
    }
}

/// Waits until the other account is up, or cannot be by itself.
fn settle(context: &Context) -> Outcome {
    let end = Instant::now() + SETTLE_MAX;
    loop {
        let status: Status = context.client.get("/localapi/v0/status?peers=false")?;
        match status.backend_state.as_str() {
            "Running" => return say("Success."),
            "NeedsLogin" if context.is_official => {
                say("Logged out.\nTo log in, run:\n  tailscale up")?;
                return Err(Failure::Exit(1));
            }
            "Starting" | "NoState" if Instant::now() < end => std::thread::sleep(Duration::from_millis(50)),
            _ => return not_connected(&status).map_or(Ok(()), |problem| Err(problem.into())),
        }
    }
}

fn list(json: bool, profiles: &[LoginProfile], current: &LoginProfile) -> Outcome {
    if json {
        let all: Vec<_> = profiles
            .iter()
            .map(|profile| {
                json!({
                    "id": profile.id,
                    "nickname": profile.name,
                    "tailnet": profile.network_profile.domain_name,
                    "account": profile.user_profile.login_name,
                    "selected": profile.id == current.id,
                })
            })
            .collect();
        return say_json(&all);
    }
    say(format!("{:<6}{:<28}Account", "ID", "Tailnet"))?;
    profiles.iter().try_for_each(|profile| {
        let mark = if profile.id == current.id { "*" } else { "" };
        say(format!("{:<6}{:<28}{}{mark}", profile.id, profile.network_profile.domain_name, profile.name))
    })
}

fn find<'a>(profiles: &'a [LoginProfile], words: &str) -> Result<&'a LoginProfile, Problem> {
    let tests: [fn(&LoginProfile) -> &str; 4] = [
        |profile| &profile.id,
        |profile| &profile.network_profile.domain_name,
        |profile| &profile.name,
        |profile| &profile.network_profile.display_name,
    ];
    tests.iter().find_map(|text| profiles.iter().find(|profile| text(profile) == words)).ok_or_else(|| {
        Problem::other(
            format!("there is no account {} on this machine.", sw_types::problem::quoted(words)),
            "an account is named by its id, its network or its name",
            "samewire switch --list shows all",
        )
    })
}
