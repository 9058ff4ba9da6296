//! `netcheck` (localapi-cli.md §B7, ux.md §2.6).

use std::collections::BTreeMap;
use std::time::Duration;

use clap::Args;
use serde_json::Value;

use super::terminal::{delay, parse_duration};
use super::{Context, Outcome, misuse, say, say_json};

#[derive(Args, Clone, Debug, Default)]
pub struct NetcheckArgs {
    /// For programs: json, or json-line
    #[arg(long, value_name = "FORMAT", default_value = "", hide_default_value = true)]
    pub(super) format: String,
    /// Again after this time, without end
    #[arg(long, value_name = "DURATION", value_parser = parse_duration)]
    every: Option<Duration>,
    #[arg(long, hide = true)]
    verbose: bool,
    /// Accepted for scripts; the daemon's own sockets are what is examined
    #[arg(long, hide = true)]
    bind_address: Option<String>,
    #[arg(long, hide = true)]
    bind_port: Option<u16>,
}

pub(super) fn netcheck(context: &Context, args: &NetcheckArgs) -> Outcome {
    if !matches!(args.format.as_str(), "" | "json" | "json-line") {
        let what = format!("{} is no format.", sw_types::problem::quoted(&args.format));
        return Err(misuse(what, "write json or json-line, or leave --format out"));
    }
    loop {
        let report: Value = context.client.get("/localapi/samewire/v1/netcheck")?;
        match args.format.as_str() {
            "json" => say_json(&report)?,
            "json-line" => say(&report)?,
            _ => show(context, &report)?,
        }
        match args.every.filter(|every| !every.is_zero()) {
            Some(every) => std::thread::sleep(every),
            None => return Ok(()),
        }
    }
}

fn show(context: &Context, report: &Value) -> Outcome {
    let yes = |name: &str| report[name].as_bool().unwrap_or(false);
    let text = |name: &str| report[name].as_str().unwrap_or_default().to_owned();
    say("\nReport:")?;
    say(format!("\t* Time: {}", text("Now")))?;
    say(format!("\t* UDP: {}", yes("UDP")))?;
    let v4 = if yes("IPv4") { format!("yes, {}", text("GlobalV4")) } else { "(no addr found)".to_owned() };
    say(format!("\t* IPv4: {v4}"))?;
    let v6 = match (yes("IPv6"), yes("OSHasIPv6")) {
        (true, _) => format!("yes, {}", text("GlobalV6")),
        (false, true) => "no, but OS has support".to_owned(),
        (false, false) => "no, unavailable in OS".to_owned(),
    };
    say(format!("\t* IPv6: {v6}"))?;
    let varies = report["MappingVariesByDestIP"].as_bool();
    say(format!(
        "\t* MappingVariesByDestIP: {}",
        varies.map(|varies| varies.to_string()).unwrap_or_default()
    ))?;
    say("\t* PortMapping: not checked")?;
    let regions = &report["SamewireRegions"];
    let name = |id: &str| regions[id]["Name"].as_str().unwrap_or(id).to_owned();
    let home = report["PreferredDERP"].to_string();
    let latencies: BTreeMap<u64, String> = report["RegionLatency"]
        .as_object()
        .map(|map| map.iter().filter_map(|(id, nanos)| Some((nanos.as_u64()?, id.clone()))).collect())
        .unwrap_or_default();
    let nearest = if matches!(home.as_str(), "0" | "null") {
        "unknown (no response to latency probes)".to_owned()
    } else {
        name(&home)
    };
    say(format!("\t* Nearest DERP: {nearest}"))?;
    if !latencies.is_empty() {
        say("\t* DERP latency:")?;
        for (nanos, id) in &latencies {
            let code = regions[id]["Code"].as_str().unwrap_or(id);
            say(format!("\t\t- {code}: {:.1}ms  ({})", *nanos as f64 / 1e6, name(id)))?;
        }
    }
    if !context.terminal.is_pretty {
        return Ok(());
    }
    let words = match (yes("UDP"), varies) {
        (false, _) => {
            "UDP does not get through.\n  Direct connections will work not at all, everything is relayed."
        }
        (true, Some(true)) => {
            "UDP works. Your router is hard (a new port for every destination).\n  Direct connections will work only with machines that are easy to reach."
        }
        (true, Some(false) | None) => {
            "UDP works. Your router is easy (same port for every destination).\n  Direct connections will work with nearly everyone."
        }
    };
    say(format!("\n  In words: {words}"))?;
    match latencies.first_key_value() {
        Some((nanos, id)) => {
            say(format!("  Nearest relay: {}, {}.", name(id), delay(Duration::from_nanos(*nanos))))
        }
        None => Ok(()),
    }
}
