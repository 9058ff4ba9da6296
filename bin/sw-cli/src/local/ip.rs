//! `ip` (localapi-cli.md §B2).

use std::net::IpAddr;

use clap::Args;
use sw_types::local::{Problem, Status};

use super::{Context, Failure, Outcome, find_machine, misuse, not_connected, say};

#[derive(Args, Clone, Debug, Default)]
pub struct IpArgs {
    /// Only the first address
    #[arg(short = '1', conflicts_with_all = ["four", "six"])]
    one: bool,
    /// Only the IPv4 address
    #[arg(short = '4', conflicts_with = "six")]
    four: bool,
    /// Only the IPv6 address
    #[arg(short = '6')]
    six: bool,
    /// Exit 0 if this machine has the address, else 1
    #[arg(long, value_name = "IP")]
    assert: Option<String>,
    /// Of this machine instead of the own one
    machine: Option<String>,
}

/// Why this machine has no address.
pub(super) fn no_address(status: &Status) -> Problem {
    not_connected(status).unwrap_or_else(|| {
        Problem::other("this machine has no address now.", "the network gives it none", "samewire status")
    })
}

pub(super) fn ip(context: &Context, args: &IpArgs) -> Outcome {
    let status = context.status()?;
    let own = status.tailscale_ips.clone().unwrap_or_default();
    if let Some(wanted) = &args.assert {
        let wanted: IpAddr = wanted
            .parse()
            .map_err(|_| misuse(format!("{wanted:?} is no address."), "write it as 100.64.0.1"))?;
        return if own.contains(&wanted) { Ok(()) } else { Err(Failure::Exit(1)) };
    }
    let addresses = match &args.machine {
        Some(words) => {
            if let Some(problem) = not_connected(&status) {
                return Err(problem.into());
            }
            find_machine(&status, words)?.addresses
        }
        None if own.is_empty() => return Err(no_address(&status).into()),
        None => own,
    };
    let mut shown: Vec<IpAddr> = addresses
        .into_iter()
        .filter(|address| (!args.four || address.is_ipv4()) && (!args.six || address.is_ipv6()))
        .collect();
    shown.sort_by_key(IpAddr::is_ipv6);
    if args.one {
        shown.truncate(1);
    }
    if shown.is_empty() {
        let kind = if args.six { "IPv6" } else { "IPv4" };
        let whose = args.machine.as_deref().unwrap_or("this machine");
        return Err(Problem::other(
            format!("{whose} has no {kind} address."),
            "the network gives it none",
            "see what it has: samewire ip",
        )
        .into());
    }
    shown.into_iter().try_for_each(say)
}
