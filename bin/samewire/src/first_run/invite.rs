//! `samewire invite` and `samewire admin`: from the first machine, or from any machine of an owner or admin (ux.md §2.3).

use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Subcommand};
use serde_json::{Value, json};
use sw_cli::local::{Context, Globals, finish, parse_duration, say};
use sw_control::Invitation;
use sw_daemon::Problem;

use super::background::Paths;
use super::screen::{Look, invite_screen};
use super::up::{clock_time, look, problem_of};

/// Flags of `invite`.
#[derive(Args, Clone, Debug)]
#[command(args_conflicts_with_subcommands = true)]
pub struct InviteArgs {
    #[command(subcommand)]
    action: Option<InviteAction>,
    /// Whose machines those will be that join by it
    #[arg(long, value_name = "NAME")]
    user: Option<String>,
    /// How long it is good, for example 30m or 7d
    #[arg(long, value_name = "DURATION", default_value = "1h", value_parser = parse_duration)]
    expires: Duration,
    /// Tag the machines that join by it; may be given several times
    #[arg(long, value_name = "TAG")]
    tag: Vec<String>,
    /// How many machines may join by it
    #[arg(long, value_name = "N", default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..))]
    uses: u32,
    /// Print only the line for the official client
    #[arg(long)]
    official: bool,
    /// Show the QR code also where output is no terminal
    #[arg(long)]
    qr: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(Subcommand, Clone, Debug)]
enum InviteAction {
    /// Take an invite back; machines that joined by it stay
    Revoke {
        /// Its six characters
        id: String,
    },
}

/// Flags of `admin`.
#[derive(Args, Clone, Debug)]
pub struct AdminArgs {
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Runs `invite`.
pub fn invite(args: &InviteArgs, globals: &Globals) -> ExitCode {
    let context = Context::new(globals, false);
    match make_or_revoke(args, &context, &Paths::detect(globals.socket.as_deref())) {
        Ok(()) => ExitCode::SUCCESS,
        Err(problem) => finish(Err(problem.into()), &context, args.json),
    }
}

fn make_or_revoke(args: &InviteArgs, context: &Context, paths: &Paths) -> Result<(), Problem> {
    if let Some(InviteAction::Revoke { id }) = &args.action {
        ask_server(context, paths, &format!("invites/{id}/revoke"), &json!({}))?;
        drop(context.done(format!("The invite {id} is taken back.")));
        return Ok(());
    }
    let tags: Vec<String> = args
        .tag
        .iter()
        .map(|tag| if tag.starts_with("tag:") { tag.clone() } else { format!("tag:{tag}") })
        .collect();
    let wish = json!({
        "user": args.user,
        "tags": tags,
        "uses": args.uses,
        "expirySeconds": args.expires.as_secs(),
    });
    let made = ask_server(context, paths, "invites", &wish)?;
    let invite: Invitation = serde_json::from_value(made)
        .map_err(|error| Problem::other("the server's answer was not understood.", error.to_string(), ""))?;
    if args.json {
        drop(say(serde_json::to_string(&invite).unwrap_or_default()));
        return Ok(());
    }
    if args.official {
        drop(say(&invite.official_up));
        return Ok(());
    }
    let network = network_name(context);
    let whom = args.user.as_deref().or(args.tag.first().map(String::as_str));
    let look = look(context);
    let look = Look { is_terminal: look.is_terminal || args.qr, ..look };
    let shown = invite_screen(&invite, &network, whom, &until(&invite, args.expires), look);
    drop(say(shown.trim_end_matches('\n')));
    Ok(())
}

/// The time of day, with the day where it is not today's.
fn until(invite: &Invitation, lifetime: Duration) -> String {
    let day = invite.expires.split('T').next().unwrap_or_default();
    let time = clock_time(&invite.expires);
    if lifetime > Duration::from_secs(12 * 3600) { format!("{day} {time}") } else { time }
}

fn network_name(context: &Context) -> String {
    let status = context.status().ok();
    let network = status.and_then(|status| status.current_tailnet).map(|network| network.name);
    network.unwrap_or_else(|| "home.internal".to_owned())
}

/// Runs `admin`: a new one-time way to the page.
pub fn admin(args: &AdminArgs, globals: &Globals) -> ExitCode {
    let context = Context::new(globals, false);
    match ask_server(&context, &Paths::detect(globals.socket.as_deref()), "admin-link", &json!({})) {
        Ok(link) => {
            let url = link["adminUrl"].as_str().unwrap_or_default();
            let shown = if args.json {
                link.to_string()
            } else {
                format!("  Open this once, within the hour.\n\n{url}")
            };
            drop(say(shown));
            ExitCode::SUCCESS
        }
        Err(problem) => finish(Err(problem.into()), &context, args.json),
    }
}

/// Asks the server on this machine by its socket, else that of the network through the daemon.
fn ask_server(context: &Context, paths: &Paths, path: &str, body: &Value) -> Result<Value, Problem> {
    if paths.control().join("control.sock").exists() {
        return sw_cli::admin::ask(&paths.control(), "POST", path, body.clone())
            .map_err(|error| problem_of(&error));
    }
    context.client.exchange("POST", &format!("/localapi/samewire/v1/{path}"), body)
}
