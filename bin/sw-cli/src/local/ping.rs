//! `ping` (localapi-cli.md §B6).

use std::time::{Duration, Instant};

use clap::Args;
use sw_types::local::{PingResult, Problem};
use sw_types::problem::Slug;

use super::client::escape;
use super::flags::parse_bool;
use super::ip::no_address;
use super::terminal::{age, delay, parse_duration};
use super::{Context, Failure, Outcome, Style, find_machine, not_connected, say, say_json, warn};

#[derive(Args, Clone, Debug)]
pub struct PingArgs {
    /// Stop once the path is direct
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true", default_value = "true", value_parser = parse_bool)]
    until_direct: bool,
    /// At most this many (0 = without end)
    #[arg(short = 'c', long = "c", value_name = "N", default_value_t = 10)]
    count: u32,
    /// Limit of each
    #[arg(long, value_name = "DURATION", default_value = "5s", value_parser = parse_duration)]
    timeout: Duration,
    /// Size of the packet
    #[arg(long, value_name = "BYTES", default_value_t = 0)]
    size: u16,
    /// Through the peer's own network stack
    #[arg(long, conflicts_with_all = ["tsmp", "peerapi"])]
    icmp: bool,
    /// Answered by the peer's daemon
    #[arg(long, conflicts_with = "peerapi")]
    tsmp: bool,
    /// Answered by the peer's API
    #[arg(long)]
    peerapi: bool,
    /// Say which address a name stands for
    #[arg(long)]
    verbose: bool,
    /// One JSON object per answer
    #[arg(long)]
    pub(super) json: bool,
    /// Machine: name or address
    machine: String,
}

pub(super) fn ping(context: &Context, args: &PingArgs) -> Outcome {
    let status = context.status()?;
    if let Some(problem) = not_connected(&status) {
        return Err(problem.into());
    }
    let machine = match args.machine.parse::<std::net::IpAddr>() {
        Ok(address) => {
            super::Machine { name: args.machine.clone(), addresses: vec![address], is_self: false }
        }
        Err(_) => find_machine(&status, &args.machine)?,
    };
    let address = machine
        .addresses
        .iter()
        .find(|address| address.is_ipv4())
        .or_else(|| machine.addresses.first())
        .ok_or_else(|| no_address(&status))?;
    if args.verbose {
        say(format!("lookup {:?} => {:?}", args.machine, address.to_string()))?;
    }
    let kind = match (args.icmp, args.tsmp, args.peerapi) {
        (true, ..) => "ICMP",
        (_, true, _) => "TSMP",
        (.., true) => "peerapi",
        _ => "disco",
    };
    let path =
        format!("/localapi/v0/ping?ip={}&type={kind}&size={}", escape(&address.to_string()), args.size);
    let begin = Instant::now();
    let (mut sent, mut answered) = (0, 0);
    loop {
        let round = Instant::now();
        sent += 1;
        let response = context.client.send_with("POST", &path, None, &[], Some(args.timeout));
        let result = response.and_then(super::Response::ok).and_then(super::Response::json::<PingResult>);
        match result {
            Ok(result) if result.is_local_ip => {
                if args.json && !context.is_official {
                    return say_json(&result);
                }
                say(format!("{address} is local Tailscale IP"))?;
                return Ok(());
            }
            Ok(result) if result.err.is_empty() => {
                answered += 1;
                let is_direct = !result.endpoint.is_empty();
                show(context, args, kind, &result)?;
                if kind != "disco" {
                    return Ok(());
                }
                if is_direct && args.until_direct {
                    if context.terminal.is_pretty && sent > 1 {
                        warn(
                            context
                                .terminal
                                .paint(Style::Dim, format!("direct after {}", delay(begin.elapsed()))),
                        );
                    }
                    return Ok(());
                }
            }
            Ok(result) if result.err.contains("no matching peer") => {
                let why = "neither this machine nor one that is visible from here, nor a subnet of one";
                return Err(Problem::other(
                    format!("no machine has the address {address}."),
                    why,
                    format!("samewire explain {address}"),
                )
                .into());
            }
            Ok(result) if result.err.contains("no peerapi base") => {
                let what = format!("{} tells of no PeerAPI.", machine.name);
                let why = "its software offers none, or it has not told the server yet";
                return Err(Problem::other(what, why, format!("samewire ping {}", machine.name)).into());
            }
            Ok(_) | Err(_) => say(format!("ping \"{address}\" timed out"))?,
        }
        if args.count != 0 && sent >= args.count {
            break;
        }
        std::thread::sleep(Duration::from_secs(1).saturating_sub(round.elapsed()));
    }
    let official = if answered == 0 { "no reply" } else { "direct connection not established" };
    if context.is_official && (answered == 0 || args.until_direct) {
        warn(official);
        return Err(Failure::Exit(1));
    }
    if answered == 0 {
        return Err(silent(context, &machine.name, *address).into());
    }
    if args.until_direct {
        let text = format!("still relayed after {sent} tries. Why: samewire explain {}", machine.name);
        warn(context.terminal.paint(Style::Dim, text));
        return Err(Failure::Exit(1));
    }
    Ok(())
}

/// Why a machine gave no answer, as far as the server tells.
fn silent(context: &Context, name: &str, address: std::net::IpAddr) -> Problem {
    let status = context.status().unwrap_or_default();
    let mut peers = status.peer.iter().flat_map(|peers| peers.values());
    let peer = peers.find(|peer| peer.tailscale_ips.iter().flatten().any(|ip| *ip == address));
    match peer {
        Some(peer) if peer.expired => {
            let date = peer.key_expiry.map(|at| at.to_string()).unwrap_or_default();
            Slug::PeerKeyExpired.problem(&[("peer", name), ("date", &date)])
        }
        Some(peer) if !peer.online => {
            let known = Some(peer.last_seen).filter(|seen| !seen.is_go_zero());
            let age = known.map(|seen| age(super::status::now().saturating_since(seen))).unwrap_or_default();
            Slug::PeerOffline.problem(&[("peer", name), ("age", &age)])
        }
        Some(_) | None => Problem::other(
            format!("{name} does not answer."),
            "the server says that it is online",
            format!("samewire explain {name}"),
        ),
    }
}

fn show(context: &Context, args: &PingArgs, kind: &str, result: &PingResult) -> Outcome {
    if args.json && !context.is_official {
        return say_json(result);
    }
    if kind == "peerapi" {
        let seconds = Duration::from_secs_f64(result.latency_seconds.max(0.0));
        let (ip, name, url) = (&result.node_ip, &result.node_name, &result.peer_api_url);
        return say(format!("hit peerapi of {ip} ({name}) at {url} in {}ms", seconds.as_millis()));
    }
    let via = if !result.endpoint.is_empty() {
        result.endpoint.clone()
    } else if !result.peer_relay.is_empty() {
        format!("peer-relay({})", result.peer_relay)
    } else if !result.derp_region_code.is_empty() || result.derp_region_id != 0 {
        format!("DERP({})", result.derp_region_code)
    } else {
        kind.to_owned()
    };
    let port = if result.peer_api_port == 0 { String::new() } else { format!(", {}", result.peer_api_port) };
    let millis = (result.latency_seconds * 1e3).round();
    say(format!("pong from {} ({}{port}) via {via} in {millis}ms", result.node_name, result.node_ip))
}
