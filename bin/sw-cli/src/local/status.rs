//! `status` (localapi-cli.md §B5, ux.md §2.4).

use std::io::IsTerminal as _;
use std::time::{Duration, SystemTime};

use clap::Args;
use sw_types::UnixTime;
use sw_types::local::{PeerStatus, Problem, Status};
use sw_types::problem::{Severity, Slug};

use super::flags::parse_bool;
use super::table::{Column, Room, table};
use super::terminal::{age, delay, pad};
use super::{Context, Failure, Outcome, Style, misuse, print_bytes, say, say_json};

#[derive(Args, Clone, Debug)]
pub struct StatusArgs {
    /// Print the JSON of the API
    #[arg(long)]
    pub(super) json: bool,
    /// Only machines with traffic
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true", default_value = "false", value_parser = parse_bool)]
    active: bool,
    /// Show this machine
    #[arg(long = "self", value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true", default_value = "true", value_parser = parse_bool)]
    own: bool,
    /// Show the other machines
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true", default_value = "true", value_parser = parse_bool)]
    peers: bool,
    /// Head lines over the columns
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true", default_value = "false", value_parser = parse_bool)]
    header: bool,
    #[arg(long, hide = true)]
    web: bool,
    #[arg(long, hide = true)]
    listen: Option<String>,
    #[arg(long, hide = true)]
    browser: Option<String>,
}

pub(super) fn status(context: &Context, args: &StatusArgs) -> Outcome {
    if args.web || args.listen.is_some() {
        return Err(misuse("the status has no web page of its own.", "the network has one: samewire admin"));
    }
    let _without_the_page = &args.browser;
    let status: Status = context.client.get(&format!("/localapi/v0/status?peers={}", args.peers))?;
    if args.json {
        return say_json(&status);
    }
    if context.terminal.is_pretty { screen(context, args, &status) } else { lines(context, args, &status) }
}

pub(super) fn now() -> UnixTime {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    UnixTime::from_nanos(i128::try_from(since.as_nanos()).unwrap_or(i128::MAX))
}

/// What is shown when the machine is not connected; `None` when it is.
fn not_running(context: &Context, status: &Status) -> Option<Failure> {
    let official = match status.backend_state.as_str() {
        "Running" | "Starting" => return None,
        "Stopped" => "Tailscale is stopped.".to_owned(),
        "NeedsLogin" if status.auth_url.is_empty() => "Logged out.".to_owned(),
        "NeedsLogin" => format!("Logged out.\nLog in at: {}", status.auth_url),
        "NeedsMachineAuth" => "Machine is not yet approved by tailnet admin.".to_owned(),
        other => format!("unexpected state: {other}"),
    };
    if context.is_official {
        return Some(say(official).err().unwrap_or(Failure::Exit(1)));
    }
    super::not_connected(status).map(Failure::from)
}

fn lines(context: &Context, args: &StatusArgs, status: &Status) -> Outcome {
    if let Some(failure) = not_running(context, status) {
        return Err(failure);
    }
    let mut rows: Vec<[String; 5]> = Vec::new();
    if args.header {
        rows.push(["IP", "Hostname", "Owner", "OS", "Status"].map(str::to_owned));
        rows.push(["--", "--------", "-----", "--", "------"].map(str::to_owned));
    }
    let mut nodes: Vec<&PeerStatus> = status.peer.iter().flat_map(|peers| peers.values()).collect();
    nodes.sort_by(|a, b| (&a.dns_name, &a.host_name).cmp(&(&b.dns_name, &b.host_name)));
    nodes.retain(|node| !node.sharee_node && (!args.active || node.active));
    let own = status.self_node.iter().filter(|_| args.own);
    for node in own.chain(nodes) {
        let address = node.tailscale_ips.iter().flatten().next().map(ToString::to_string).unwrap_or_default();
        rows.push([address, name(status, node), owner(status, node), node.os.clone(), state_text(node)]);
    }
    let widths: Vec<usize> =
        (0..4).map(|at| rows.iter().map(|row| row[at].chars().count()).max().unwrap_or(0)).collect();
    let mut text = String::new();
    for row in &rows {
        for (cell, width) in row.iter().zip(&widths) {
            text.push_str(&pad(cell, width + 2));
        }
        text.push_str(&row[4]);
        text.push('\n');
    }
    if !status.health.is_empty() {
        text.push_str("\n# Health check:\n");
        for line in &status.health {
            text.push_str(&format!("#     - {line}\n"));
        }
    }
    print_bytes(text.as_bytes())
}

fn name(status: &Status, node: &PeerStatus) -> String {
    let full = node.dns_name.trim_end_matches('.');
    if full.is_empty() {
        return format!("({:?})", node.host_name);
    }
    full.strip_suffix(&status.magic_dns_suffix).map_or(full, |name| name.trim_end_matches('.')).to_owned()
}

fn owner(status: &Status, node: &PeerStatus) -> String {
    let login =
        status.user.as_ref().and_then(|users| users.get(&node.user_id)).map(|user| user.login_name.clone());
    match login {
        Some(login) if !login.is_empty() => match login.split_once('@') {
            Some((name, _)) => format!("{name}@"),
            None => login,
        },
        Some(_) | None => "-".to_owned(),
    }
}

fn last_seen(node: &PeerStatus) -> String {
    if node.last_seen.is_go_zero() {
        return String::new();
    }
    let minutes = now().saturating_since(node.last_seen).as_secs() / 60;
    let text = match minutes {
        0..60 => format!("{}m", minutes.max(1)),
        60..1440 => format!("{}h", minutes / 60),
        _ => format!("{}d", minutes / 1440),
    };
    format!(", last seen {text} ago")
}

/// The last column of the stable form.
fn state_text(node: &PeerStatus) -> String {
    let has_traffic = node.rx_bytes + node.tx_bytes > 0;
    let is_offline = !node.online;
    let mut text = String::new();
    let mut is_plain = false;
    if node.active {
        text.push_str("active; ");
        if node.exit_node {
            text.push_str("exit node; ");
        } else if node.exit_node_option {
            text.push_str("offers exit node; ");
        }
        if !node.peer_relay.is_empty() {
            text.push_str(&format!("peer-relay {}", node.peer_relay));
        } else if !node.cur_addr.is_empty() {
            text.push_str(&format!("direct {}", node.cur_addr));
        } else if !node.relay.is_empty() {
            text.push_str(&format!("relay {:?}", node.relay));
        }
    } else if node.exit_node {
        text.push_str("idle; exit node");
    } else if node.exit_node_option {
        text.push_str("idle; offers exit node");
    } else if has_traffic {
        text.push_str("idle");
    } else if is_offline {
        is_plain = true;
        text.push_str(&format!("offline{}", last_seen(node)));
    } else {
        text.push('-');
    }
    if is_offline && !is_plain {
        text.push_str(&format!("; offline{}", last_seen(node)));
    }
    if has_traffic {
        text.push_str(&format!(", tx {} rx {}", node.tx_bytes, node.rx_bytes));
    }
    text
}

fn screen(context: &Context, args: &StatusArgs, status: &Status) -> Outcome {
    if let Some(failure) = not_running(context, status) {
        return Err(failure);
    }
    let terminal = &context.terminal;
    let Some(own) = &status.self_node else { return Ok(()) };
    let network = status.current_tailnet.as_ref().map(|tailnet| tailnet.name.clone()).unwrap_or_default();
    let address = own.tailscale_ips.iter().flatten().next().map(ToString::to_string).unwrap_or_default();
    let person = owner(status, own);
    let signed_in = if person == "-" {
        String::new()
    } else {
        format!(", signed in as {}", person.trim_end_matches('@'))
    };
    let head = format!(
        "  {}, you are {}, {address}{signed_in}",
        terminal.paint(Style::Bold, network),
        name(status, own)
    );
    say(head)?;
    let mut nodes: Vec<&PeerStatus> = status.peer.iter().flat_map(|peers| peers.values()).collect();
    nodes.retain(|node| !node.sharee_node && (!args.active || node.active));
    nodes.sort_by_key(|node| (!node.active, !node.online, node.dns_name.clone()));
    if !nodes.is_empty() {
        machines(context, status, &nodes)?;
    } else if args.peers {
        say("\n  No other machine is visible from here.")?;
    }
    for problem in &status.health {
        say(format!("\n  {} {problem}", terminal.paint(Style::Caution, "!")))?;
    }
    for note in notes(status) {
        say(format!(
            "\n  {} {}",
            terminal.paint(Style::Dim, "-"),
            terminal.paint(Style::Dim, note.sentence())
        ))?;
    }
    Ok(())
}

/// What is worth knowing and no warning; those stand among the health texts.
pub(super) fn notes(status: &Status) -> impl Iterator<Item = &Problem> {
    status.notices.iter().filter(|notice| notice.known_slug().map(Slug::severity) == Some(Severity::Note))
}

/// The columns, and how soon each is left out where there is no room.
const COLUMNS: [Column<'_>; 5] = [
    Column { title: "MACHINE", rank: 0 },
    Column { title: "ADDRESS", rank: 2 },
    Column { title: "PERSON", rank: 3 },
    Column { title: "PATH", rank: 0 },
    Column { title: "DELAY", rank: 1 },
];

fn machines(context: &Context, status: &Status, nodes: &[&PeerStatus]) -> Outcome {
    let terminal = &context.terminal;
    let row = |node: &&PeerStatus| {
        let address = node.tailscale_ips.iter().flatten().next().map(ToString::to_string).unwrap_or_default();
        let person = if node.tags.is_some() {
            "tagged".to_owned()
        } else {
            owner(status, node).trim_end_matches('@').to_owned()
        };
        let (word, style, reason) = path_words(node);
        let measured = node
            .latency_seconds
            .filter(|_| node.active)
            .map(|seconds| delay(Duration::from_secs_f64(seconds.max(0.0))));
        let path = format!("{}{reason}", terminal.paint(style, word));
        vec![name(status, node), address, person, path, measured.unwrap_or_default()]
    };
    let rows: Vec<Vec<String>> = nodes.iter().map(row).collect();
    let columns = Some(terminal.columns).filter(|_| std::io::stdout().is_terminal());
    let room = Room { columns, indent: 2, has_unicode: terminal.has_unicode };
    let lines = table(&COLUMNS, &rows, room);
    for (at, line) in lines.iter().enumerate() {
        say(if at == 0 { format!("\n{}", terminal.paint(Style::Bold, line)) } else { line.clone() })?;
    }
    Ok(())
}

fn path_words(node: &PeerStatus) -> (&'static str, Style, String) {
    if !node.active {
        if node.online {
            return ("idle", Style::Dim, String::new());
        }
        let since = if node.last_seen.is_go_zero() {
            String::new()
        } else {
            format!(" for {}", age(now().saturating_since(node.last_seen)))
        };
        return ("offline", Style::Dim, since);
    }
    if !node.peer_relay.is_empty() {
        return ("peer relay", Style::PeerRelay, String::new());
    }
    if !node.cur_addr.is_empty() {
        let ip = node.cur_addr.rsplit_once(':').map_or(node.cur_addr.as_str(), |(ip, _)| ip);
        return ("direct", Style::Good, format!("  {ip}"));
    }
    ("relay", Style::Caution, format!("   {}", node.path_reason))
}
