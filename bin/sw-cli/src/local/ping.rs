//! `ping` (localapi-cli.md §B6).

use std::time::{Duration, Instant};

use clap::Args;
use sw_types::local::{PingResult, Problem};

use super::client::escape;
use super::flags::parse_bool;
use super::terminal::{delay, parse_duration};
use super::{Context, Failure, Outcome, Style, find_machine, say, say_json, warn};

#[derive(Args, Clone, Debug)]
pub struct PingArgs {
    /// Stop once the path is direct
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true", default_value = "true", value_parser = parse_bool)]
    until_direct: bool,
    /// At most this many (0 = without end)
    #[arg(short = 'c', value_name = "N", default_value_t = 10)]
    count: u32,
    /// Limit of each
    #[arg(long, value_name = "DURATION", default_value = "5s", value_parser = parse_duration)]
    timeout: Duration,
    /// Size of the packet
    #[arg(long, value_name = "BYTES", default_value_t = 0)]
    size: u16,
    /// Through the peer's own network stack
    #[arg(long)]
    icmp: bool,
    /// Answered by the peer's daemon
    #[arg(long)]
    tsmp: bool,
    /// Answered by the peer's API
    #[arg(long)]
    peerapi: bool,
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
    if status.backend_state != "Running" {
        let why = format!("its state is {}", status.backend_state);
        return Err(Problem::other("this machine is not connected.", why, "samewire up").into());
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
        .ok_or_else(|| Problem::other("the machine has no address.", "", ""))?;
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
                say(format!("{address} is local Tailscale IP"))?;
                return Ok(());
            }
            Ok(result) if result.err.is_empty() => {
                answered += 1;
                let is_direct = !result.endpoint.is_empty();
                show(context, args, &result)?;
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
                return Err(Problem::other(
                    format!("no machine has the address {address}."),
                    "",
                    "samewire status lists all",
                )
                .into());
            }
            Ok(_) | Err(_) => say(format!("ping \"{address}\" timed out"))?,
        }
        if args.count != 0 && sent >= args.count {
            break;
        }
        std::thread::sleep(Duration::from_secs(1).saturating_sub(round.elapsed()));
    }
    if answered == 0 {
        return Err(failed(context, "no reply"));
    }
    if args.until_direct {
        if context.terminal.is_pretty {
            warn(context.terminal.paint(
                Style::Dim,
                format!("still relayed after {sent} tries. Why: samewire explain {}", machine.name),
            ));
            return Err(Failure::Exit(1));
        }
        return Err(failed(context, "direct connection not established"));
    }
    Ok(())
}

fn failed(context: &Context, text: &str) -> Failure {
    warn(text);
    let _same_for_both_names = context.is_official;
    Failure::Exit(1)
}

fn show(context: &Context, args: &PingArgs, result: &PingResult) -> Outcome {
    if args.json && !context.is_official {
        return say_json(result);
    }
    let via = if !result.endpoint.is_empty() {
        result.endpoint.clone()
    } else if !result.peer_relay.is_empty() {
        format!("peer-relay({})", result.peer_relay)
    } else if !result.derp_region_code.is_empty() || result.derp_region_id != 0 {
        format!("DERP({})", result.derp_region_code)
    } else {
        "TSMP".to_owned()
    };
    let port = if result.peer_api_port == 0 { String::new() } else { format!(", {}", result.peer_api_port) };
    let millis = (result.latency_seconds * 1e3).round();
    say(format!("pong from {} ({}{port}) via {via} in {millis}ms", result.node_name, result.node_ip))
}
