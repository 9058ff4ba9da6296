//! `whois` and `whoami` (localapi-cli.md §B8).

use std::net::{IpAddr, SocketAddr};

use clap::Args;
use serde_json::Value;
use sw_types::local::Problem;
use sw_types::problem::quoted;

use super::client::escape;
use super::ip::no_address;
use super::{Context, Outcome, find_machine, misuse, not_connected, say, say_json};

#[derive(Args, Clone, Debug, Default)]
pub struct WhoisArgs {
    /// Print the JSON of the API
    #[arg(long)]
    pub(super) json: bool,
    /// tcp or udp, for an address with port
    #[arg(long, value_name = "PROTO")]
    proto: Option<String>,
    /// Address, address:port, or a machine's name
    address: String,
}

#[derive(Args, Clone, Debug, Default)]
pub struct WhoamiArgs {
    /// Print the JSON of the API
    #[arg(long)]
    pub(super) json: bool,
}

pub(super) fn whois(context: &Context, args: &WhoisArgs) -> Outcome {
    let proto = args.proto.as_deref().unwrap_or_default();
    if !matches!(proto, "" | "tcp" | "udp") {
        return Err(misuse(format!("{} is no protocol.", quoted(proto)), "write tcp or udp"));
    }
    let words = &args.address;
    let is_address = words.parse::<IpAddr>().is_ok() || words.parse::<SocketAddr>().is_ok();
    // A name is what people have at hand; the API wants an address.
    let address = if is_address || words.starts_with("nodekey:") {
        words.clone()
    } else {
        let machine = find_machine(&context.status()?, words)?;
        machine.addresses.first().map(ToString::to_string).unwrap_or_default()
    };
    let path = format!("/localapi/v0/whois?addr={}&proto={}", escape(&address), escape(proto));
    let response = context.client.send("GET", &path, None)?;
    if response.status() == 404 {
        if let Some(problem) = not_connected(&context.status()?) {
            return Err(problem.into());
        }
        return Err(Problem::other(
            format!("no machine has the address {address}."),
            "neither this machine nor one that is visible from here",
            "samewire status lists all",
        )
        .into());
    }
    let answer: Value = response.ok()?.json()?;
    if args.json { say_json(&answer) } else { show(&answer) }
}

pub(super) fn whoami(context: &Context, args: &WhoamiArgs) -> Outcome {
    let status = context.status()?;
    let address = status.tailscale_ips.iter().flatten().next();
    let address = address.ok_or_else(|| no_address(&status))?;
    let mut answer: Value =
        context.client.get(&format!("/localapi/v0/whois?addr={}", escape(&address.to_string())))?;
    let tailnet = serde_json::to_value(&status.current_tailnet).unwrap_or_default();
    if let Some(fields) = answer.as_object_mut() {
        fields.insert("CurrentTailnet".to_owned(), tailnet);
    }
    if args.json {
        return say_json(&answer);
    }
    show(&answer)?;
    let suffix = &status.magic_dns_suffix;
    let name = status.current_tailnet.map(|tailnet| tailnet.name).unwrap_or_default();
    say(format!("Tailnet:\n  Name:              {name}\n  MagicDNS Suffix:   {suffix}"))
}

fn show(answer: &Value) -> Outcome {
    let (node, user) = (&answer["Node"], &answer["UserProfile"]);
    let list = |value: &Value, separator: &str| -> String {
        let items = value.as_array().map(Vec::as_slice).unwrap_or_default();
        items.iter().filter_map(Value::as_str).collect::<Vec<_>>().join(separator)
    };
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    say("Machine:")?;
    say(format!("  Name:          {}", text(&node["Name"]).trim_end_matches('.')))?;
    say(format!("  ID:            {}", text(&node["StableID"])))?;
    say(format!("  Addresses:     [{}]", list(&node["Addresses"], " ")))?;
    let allowed = node["AllowedIPs"].as_array().map(Vec::len).unwrap_or_default();
    if allowed > 2 {
        say(format!("  AllowedIPs:    [{}]", list(&node["AllowedIPs"], " ")))?;
    }
    let tags = list(&node["Tags"], ", ");
    if tags.is_empty() {
        say(format!("User:\n  Name:          {}\n  ID:            {}", text(&user["LoginName"]), user["ID"]))
    } else {
        say(format!("  Tags:          {tags}"))
    }
}
