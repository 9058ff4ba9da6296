//! `debug`: what scripts use of it (localapi-cli.md §B11).

use std::net::{Ipv4Addr, Ipv6Addr};

use clap::{Args, Subcommand};
use ipnet::{Ipv4Net, Ipv6Net};
use serde_json::Value;
use sw_types::local::{Problem, watch_mask};
use sw_types::problem::quoted;

use super::client::{Response, escape};
use super::{Context, Outcome, misuse, print_bytes, say, say_json};

#[derive(Args, Clone, Debug)]
pub struct DebugArgs {
    #[command(subcommand)]
    action: DebugAction,
}

#[derive(Subcommand, Clone, Debug)]
enum DebugAction {
    /// The relay map
    DerpMap,
    /// The preferences
    Prefs {
        #[arg(long)]
        pretty: bool,
    },
    /// The network as the daemon knows it
    Netmap,
    /// Counters
    Metrics,
    /// Measure the network again
    Restun,
    /// Bind the sockets anew
    Rebind,
    /// Where the state is kept
    Statedir,
    /// Follow the notify bus
    WatchIpn {
        #[arg(long, default_value_t = 0)]
        count: u32,
        /// Begin with state, preferences and network
        #[arg(long)]
        initial: bool,
        /// Begin with the status
        #[arg(long)]
        initial_status: bool,
        /// Begin with what is wrong
        #[arg(long)]
        initial_health: bool,
        /// Machines that change, one by one
        #[arg(long)]
        peer_changes: bool,
        /// As --peer-changes, with small changes as such
        #[arg(long)]
        peer_patches: bool,
    },
    /// Convert between an IPv4 prefix of a site and its IPv6 form
    Via {
        /// Site and IPv4 prefix, or an IPv6 prefix
        words: Vec<String>,
    },
    /// Record the packets inside the tunnel as a pcap file, until Ctrl-C
    Capture {
        /// Write to this file ("-": standard output)
        #[arg(short, long, value_name = "FILE")]
        output: String,
    },
    /// Send a request to the LocalAPI
    Localapi {
        /// Method and path, or path alone
        words: Vec<String>,
    },
}

pub(super) fn debug(context: &Context, args: &DebugArgs) -> Outcome {
    let act = |action: &str| {
        context
            .client
            .send("POST", &format!("/localapi/v0/debug?action={}", escape(action)), None)?
            .ok()?
            .text()
    };
    match &args.action {
        DebugAction::DerpMap => say_json(&context.client.get::<Value>("/localapi/v0/derpmap")?),
        DebugAction::Prefs { .. } => say_json(&context.client.get::<Value>("/localapi/v0/prefs")?),
        DebugAction::Netmap => say(act("current-netmap")?),
        DebugAction::Metrics => {
            print_bytes(&context.client.send("GET", "/localapi/v0/metrics", None)?.ok()?.bytes()?)
        }
        DebugAction::Restun => say(act("restun")?.trim_end()),
        DebugAction::Rebind => say(act("rebind")?.trim_end()),
        DebugAction::Statedir => say(act("statedir")?.trim_matches('"')),
        DebugAction::Via { words } => via(words),
        DebugAction::WatchIpn {
            count,
            initial,
            initial_status,
            initial_health,
            peer_changes,
            peer_patches,
        } => {
            let bits = [
                (
                    *initial,
                    watch_mask::INITIAL_STATE | watch_mask::INITIAL_PREFS | watch_mask::INITIAL_NET_MAP,
                ),
                (*initial_health, watch_mask::INITIAL_HEALTH),
                (*initial_status, watch_mask::INITIAL_STATUS),
                (*peer_changes, watch_mask::PEER_CHANGES),
                (*peer_patches, watch_mask::PEER_PATCHES),
            ];
            let mask: u64 = bits.iter().filter(|(is_wanted, _)| *is_wanted).map(|(_, bits)| bits).sum();
            let mut watch =
                context.client.send("GET", &format!("/localapi/v0/watch-ipn-bus?mask={mask}"), None)?.ok()?;
            let mut seen = 0;
            while let Ok(Some(line)) = watch.next_line() {
                say(line)?;
                seen += 1;
                if seen == *count {
                    break;
                }
            }
            Ok(())
        }
        DebugAction::Capture { output } => {
            let packets = context.client.send("POST", "/localapi/v0/debug-capture", None)?.ok()?;
            record(packets, output)
        }
        DebugAction::Localapi { words } => {
            let (method, path) = match words.as_slice() {
                [path] => ("GET", path.as_str()),
                [method, path, ..] => (method.as_str(), path.as_str()),
                [] => return Err(super::misuse("a path is missing.", "samewire debug localapi GET status")),
            };
            let path =
                if path.starts_with("/localapi/") { path.to_owned() } else { format!("/localapi/v0/{path}") };
            print_bytes(
                &context.client.send(method, &path, words.get(2).map(String::as_bytes))?.ok()?.bytes()?,
            )
        }
    }
}

/// Where addresses of sites begin (node-services.md §2.7).
const VIA: u128 = 0xfd7a_115c_a1e0_0b1a << 64;
const VIA_LEN: u8 = 64;
const SITE_LEN: u8 = 32;

fn via(words: &[String]) -> Outcome {
    let refuse = |what: String| {
        misuse(
            what,
            "samewire debug via 7 10.1.1.0/24, or samewire debug via fd7a:115c:a1e0:b1a:0:7:a01:100/120",
        )
    };
    match words {
        [site, net] => {
            let number =
                site.strip_prefix("0x").map_or_else(|| site.parse(), |hex| u32::from_str_radix(hex, 16));
            let site = number.map_err(|_| refuse(format!("{} is no number of a site.", quoted(site))))?;
            let v4: Ipv4Net =
                net.parse().map_err(|_| refuse(format!("{} is no IPv4 prefix.", quoted(net))))?;
            let address = VIA | u128::from(site) << 32 | u128::from(v4.network().to_bits());
            say(format!("{}/{}", Ipv6Addr::from(address), VIA_LEN + SITE_LEN + v4.prefix_len()))
        }
        [net] => {
            let v6: Ipv6Net =
                net.parse().map_err(|_| refuse(format!("{} is no IPv6 prefix.", quoted(net))))?;
            let bits = v6.network().to_bits();
            let is_via = bits >> 64 == VIA >> 64 && v6.prefix_len() >= VIA_LEN + SITE_LEN;
            if !is_via {
                return Err(refuse(format!("{} is no prefix of a site.", quoted(net))));
            }
            let [.., a, b, c, d] = bits.to_be_bytes();
            let site = bits >> 32 & u128::from(u32::MAX);
            let v4 = Ipv4Addr::new(a, b, c, d);
            say(format!("site {site} (0x{site:x}), {v4}/{}", v6.prefix_len() - VIA_LEN - SITE_LEN))
        }
        _ => Err(refuse("`debug via` wants a site and an IPv4 prefix, or an IPv6 prefix.".to_owned())),
    }
}

fn record(packets: Response, output: &str) -> Outcome {
    if output == "-" {
        // Whoever reads may stop at any time.
        return packets.copy_to(&mut std::io::stdout().lock()).map_err(|_| super::Failure::Exit(141));
    }
    let written = std::fs::File::create(output).and_then(|mut file| packets.copy_to(&mut file));
    written.map_err(|error| {
        Problem::other(
            "the capture could not be written.",
            format!("{output}: {error}"),
            "choose another place: samewire debug capture -o FILE",
        )
        .into()
    })
}
