//! `exit-node` (localapi-cli.md §B2).

use clap::{Args, Subcommand};
use sw_types::local::{PeerStatus, Problem, Status};

use super::terminal::pad;
use super::{Context, Outcome, not_connected, say};

#[derive(Args, Clone, Debug)]
pub struct ExitNodeArgs {
    #[command(subcommand)]
    action: ExitNodeAction,
}

#[derive(Subcommand, Clone, Debug)]
enum ExitNodeAction {
    /// List the machines that carry Internet traffic for others
    List {
        /// Only of this country
        #[arg(long, value_name = "COUNTRY")]
        filter: Option<String>,
    },
    /// Name the one to use
    Suggest,
}

pub(super) fn exit_node(context: &Context, args: &ExitNodeArgs) -> Outcome {
    let status = context.status()?;
    if let Some(problem) = not_connected(&status) {
        return Err(problem.into());
    }
    match &args.action {
        ExitNodeAction::List { filter } => list(context, &status, filter.as_deref().unwrap_or_default()),
        ExitNodeAction::Suggest => suggest(context, &status),
    }
}

fn offering(status: &Status) -> Vec<&PeerStatus> {
    let peers = status.peer.iter().flat_map(|peers| peers.values());
    let mut offering: Vec<&PeerStatus> = peers.filter(|peer| peer.exit_node_option).collect();
    offering.sort_by_key(|peer| (country(peer), peer.dns_name.clone()));
    offering
}

fn place(peer: &PeerStatus, part: &str) -> String {
    let text = peer.location.as_ref().and_then(|location| location[part].as_str());
    text.filter(|text| !text.is_empty()).unwrap_or("-").to_owned()
}

fn country(peer: &PeerStatus) -> String {
    place(peer, "Country")
}

fn list(context: &Context, status: &Status, filter: &str) -> Outcome {
    let of_country = |peer: &&PeerStatus| filter.is_empty() || country(peer).eq_ignore_ascii_case(filter);
    let shown: Vec<&PeerStatus> = offering(status).into_iter().filter(of_country).collect();
    if shown.is_empty() {
        let what =
            if context.is_official { "no exit nodes found" } else { "no machine offers to be an exit node." };
        let fix = "on one with a good line: sudo samewire set --advertise-exit-node; then an admin allows it";
        return Err(Problem::other(what, "", fix).into());
    }
    let mut rows = vec![["IP", "HOSTNAME", "COUNTRY", "CITY", "STATUS"].map(str::to_owned)];
    rows.extend(shown.into_iter().map(|peer| {
        let ip = peer.tailscale_ips.iter().flatten().next().map(ToString::to_string).unwrap_or_default();
        let name = peer.dns_name.trim_end_matches('.').to_owned();
        let state = match (peer.exit_node, peer.online) {
            (true, true) => "selected",
            (true, false) => "selected but offline",
            (false, true) => "-",
            (false, false) => "offline",
        };
        [ip, name, country(peer), place(peer, "City"), state.to_owned()]
    }));
    // At least 10 wide, with 5 blanks between (localapi-cli.md §B1).
    let width = |at: usize| rows.iter().map(|row| row[at].chars().count() + 5).max().unwrap_or(0).max(10);
    let widths = [width(0), width(1), width(2), width(3)];
    say("")?;
    for row in &rows {
        let cells: String = row.iter().zip(widths).map(|(cell, width)| pad(cell, width)).collect();
        say(format!(" {cells}{}", row[4]))?;
    }
    let name = if context.is_official { "tailscale" } else { "samewire" };
    say(format!("\n# To use one: {name} set --exit-node=HOSTNAME or IP; none: {name} set --exit-node="))
}

fn suggest(context: &Context, status: &Status) -> Outcome {
    let online = offering(status).into_iter().filter(|peer| peer.online);
    let nearest = online.min_by(|a, b| {
        let delay = |peer: &PeerStatus| peer.latency_seconds.unwrap_or(f64::MAX);
        delay(a).total_cmp(&delay(b))
    });
    let Some(peer) = nearest else {
        return say("No exit node suggestion is available.");
    };
    let host = peer.dns_name.trim_end_matches('.');
    let name = if context.is_official { "tailscale" } else { "samewire" };
    say(format!("Suggested exit node: {host}\nTo accept it: {name} set --exit-node={host}"))
}
