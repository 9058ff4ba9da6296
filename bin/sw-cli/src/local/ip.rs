//! `ip` (localapi-cli.md §B2).

use std::net::IpAddr;

use clap::Args;
use sw_types::local::Problem;

use super::{Context, Failure, Outcome, find_machine, misuse, say};

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
        Some(words) => find_machine(&status, words)?.addresses,
        None if own.is_empty() => {
            let why = format!("its state is {}", status.backend_state);
            return Err(Problem::other("this machine has no address now.", why, "samewire up").into());
        }
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
        return Err(Problem::other("there is no address of this kind.", "", "").into());
    }
    shown.into_iter().try_for_each(say)
}
