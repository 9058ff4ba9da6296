//! `dns` (localapi-cli.md §B2).

use base64::Engine as _;
use clap::{Args, Subcommand};
use serde_json::{Value, json};
use sw_types::local::{DNS_TYPES, Prefs, Problem, Status};
use sw_types::problem::quoted;

use super::client::escape;
use super::terminal::pad;
use super::{Context, Outcome, misuse, not_connected, say, say_json};

#[derive(Args, Clone, Debug)]
pub struct DnsArgs {
    #[command(subcommand)]
    action: DnsAction,
}

#[derive(Subcommand, Clone, Debug)]
enum DnsAction {
    /// Show how names are resolved
    Status {
        /// Also what is used rarely
        #[arg(long)]
        all: bool,
        /// Print one JSON object
        #[arg(long)]
        json: bool,
    },
    /// Ask the resolver of this machine's daemon
    Query {
        /// Print one JSON object
        #[arg(long)]
        json: bool,
        /// The name
        name: String,
        /// A, AAAA, CNAME, MX, NS, PTR, SOA, SRV or TXT
        #[arg(value_name = "TYPE", default_value = "A")]
        kind: String,
    },
}

impl DnsArgs {
    pub(super) fn wants_json(&self) -> bool {
        match &self.action {
            DnsAction::Status { json, .. } | DnsAction::Query { json, .. } => *json,
        }
    }
}

pub(super) fn dns(context: &Context, args: &DnsArgs) -> Outcome {
    let status = context.status()?;
    if let Some(problem) = not_connected(&status) {
        return Err(problem.into());
    }
    match &args.action {
        DnsAction::Status { all, json } => show_status(context, &status, *all, *json),
        DnsAction::Query { json, name, kind } => query(context, name, kind, *json),
    }
}

fn addresses(list: &Value) -> Vec<String> {
    let items = list.as_array().into_iter().flatten();
    items.filter_map(|item| item["Addr"].as_str().or(item.as_str()).map(str::to_owned)).collect()
}

fn show_status(context: &Context, status: &Status, all: bool, as_json: bool) -> Outcome {
    let prefs: Prefs = context.client.get("/localapi/v0/prefs")?;
    let config: Value = context.client.get("/localapi/v0/dns-config")?;
    let tailnet = status.current_tailnet.clone().unwrap_or_default();
    let own = status.self_node.as_ref().map(|node| node.dns_name.clone()).unwrap_or_default();
    let routes: Vec<(String, Vec<String>)> = config["Routes"]
        .as_object()
        .into_iter()
        .flatten()
        .map(|(suffix, resolvers)| (suffix.clone(), addresses(resolvers)))
        .collect();
    if as_json {
        let split: serde_json::Map<String, Value> =
            routes.iter().map(|(suffix, to)| (suffix.clone(), json!(to))).collect();
        return say_json(&json!({
            "TailscaleDNS": prefs.corp_dns,
            "CurrentTailnet": {
                "MagicDNSEnabled": tailnet.magic_dns_enabled,
                "MagicDNSSuffix": tailnet.magic_dns_suffix,
                "SelfDNSName": own,
            },
            "Resolvers": addresses(&config["Resolvers"]),
            "SplitDNSRoutes": split,
            "FallbackResolvers": addresses(&config["FallbackResolvers"]),
            "SearchDomains": addresses(&config["Domains"]),
            "Nameservers": addresses(&config["Nameservers"]),
            "CertDomains": addresses(&config["CertDomains"]),
            "ExtraRecords": config["ExtraRecords"],
        }));
    }
    let list = |title: &str, items: &[String]| -> Outcome {
        say(format!("\n{title}:"))?;
        if items.is_empty() {
            return say("  (none)");
        }
        items.iter().try_for_each(|item| say(format!("  - {item}")))
    };
    let used = if prefs.corp_dns { "used" } else { "not used: samewire set --accept-dns" };
    say(format!("DNS of the network: {used}"))?;
    let names = if tailnet.magic_dns_enabled { "on" } else { "off" };
    say(format!("Names of machines: {names}, they end in {}", tailnet.magic_dns_suffix))?;
    say(format!("This machine: {}", own.trim_end_matches('.')))?;
    list("Resolvers", &addresses(&config["Resolvers"]))?;
    let split: Vec<String> = routes
        .iter()
        .map(|(suffix, to)| {
            let to = if to.is_empty() { "answered here".to_owned() } else { to.join(", ") };
            format!("{} -> {to}", pad(suffix, 30))
        })
        .collect();
    list("Zones with resolvers of their own", &split)?;
    list("Search domains", &addresses(&config["Domains"]))?;
    if all {
        list("Resolvers if nothing else is set", &addresses(&config["FallbackResolvers"]))?;
        let records = config["ExtraRecords"].as_array().into_iter().flatten();
        let records: Vec<String> = records
            .map(|record| {
                let text = |name: &str| record[name].as_str().unwrap_or_default().to_owned();
                format!("{} -> {}", pad(&text("Name"), 30), text("Value"))
            })
            .collect();
        list("Records of the network", &records)?;
    }
    Ok(())
}

/// One record of an answer.
struct Record {
    name: String,
    ttl: u32,
    kind: u16,
    body: String,
}

fn query(context: &Context, name: &str, kind: &str, as_json: bool) -> Outcome {
    let kind = kind.to_ascii_uppercase();
    if !DNS_TYPES.iter().any(|(word, _)| *word == kind) {
        let known: Vec<&str> = DNS_TYPES.iter().map(|(word, _)| *word).collect();
        return Err(misuse(format!("{} is no type of record.", quoted(&kind)), known.join(", ")));
    }
    let path = format!("/localapi/v0/dns-query?name={}&type={kind}", escape(name));
    let answer: Value = context.client.get(&path)?;
    let bytes =
        base64::engine::general_purpose::STANDARD.decode(answer["Bytes"].as_str().unwrap_or_default());
    let Some((code, records)) = bytes.ok().and_then(|bytes| read(&bytes)) else {
        return Err(Problem::other("the answer was not understood.", "", "samewire dns status").into());
    };
    let word = |kind: u16| {
        let known = DNS_TYPES.iter().find(|(_, number)| *number == kind);
        known.map_or_else(|| format!("TYPE{kind}"), |(word, _)| (*word).to_owned())
    };
    let code = match code {
        0 => "NOERROR",
        2 => "SERVFAIL",
        3 => "NXDOMAIN",
        5 => "REFUSED",
        _ => "another error",
    };
    let resolvers = addresses(&answer["Resolvers"]);
    if as_json {
        let records: Vec<Value> = records
            .iter()
            .map(|record| {
                json!({ "Name": record.name, "TTL": record.ttl, "Class": "IN", "Type": word(record.kind), "Body": record.body })
            })
            .collect();
        return say_json(
            &json!({ "Name": name, "QueryType": kind, "Resolvers": resolvers, "ResponseCode": code, "Answers": records }),
        );
    }
    let asked =
        if resolvers.is_empty() { "answered by samewire itself".to_owned() } else { resolvers.join(", ") };
    say(format!("Resolvers: {asked}\nResponse code: {code}\n"))?;
    if records.is_empty() {
        return say("No records.");
    }
    let width = records.iter().map(|record| record.name.len()).max().unwrap_or(4).max(4) + 2;
    let line = |name: &str, ttl: &str, class: &str, kind: &str, body: &str| {
        say(format!("{}{}{}{}{body}", pad(name, width), pad(ttl, 8), pad(class, 7), pad(kind, 8)))
    };
    line("Name", "TTL", "Class", "Type", "Body")?;
    line("----", "---", "-----", "----", "----")?;
    let mut records = records.iter();
    records.try_for_each(|r| line(&r.name, &r.ttl.to_string(), "IN", &word(r.kind), &r.body))
}

/// Reads a DNS answer (RFC 1035 §4.1): its code and its answer records.
fn read(message: &[u8]) -> Option<(u8, Vec<Record>)> {
    let code = message.get(3)? & 15;
    let (questions, answers) = (word_at(message, 4)?, word_at(message, 6)?);
    let mut at = 12;
    for _ in 0..questions {
        at = name_at(message, at)?.1 + 4;
    }
    let mut records = Vec::new();
    for _ in 0..answers {
        let (name, after) = name_at(message, at)?;
        let kind = word_at(message, after)?;
        let ttl = u32::from(word_at(message, after + 4)?) << 16 | u32::from(word_at(message, after + 6)?);
        let start = after + 10;
        let end = start + usize::from(word_at(message, after + 8)?);
        let body = body_at(message, kind, start, end)?;
        records.push(Record { name, ttl, kind, body });
        at = end;
    }
    Some((code, records))
}

fn word_at(message: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes(*message.get(at..)?.first_chunk()?))
}

/// A name and where it ends. Pointers may only lead back, so that reading ends.
fn name_at(message: &[u8], start: usize) -> Option<(String, usize)> {
    let (mut name, mut at, mut end, mut limit) = (String::new(), start, None, start);
    loop {
        let length = usize::from(*message.get(at)?);
        match length {
            0 => break,
            1..64 => {
                let label = message.get(at + 1..at + 1 + length)?;
                name.extend(String::from_utf8_lossy(label).chars().filter(|c| !c.is_control()));
                name.push('.');
                at += 1 + length;
            }
            192.. => {
                end = end.or(Some(at + 2));
                let to = usize::from(word_at(message, at)? & 0x3fff);
                if to >= limit {
                    return None;
                }
                (at, limit) = (to, to);
            }
            _ => return None,
        }
    }
    Some((if name.is_empty() { ".".to_owned() } else { name }, end.unwrap_or(at + 1)))
}

fn body_at(message: &[u8], kind: u16, start: usize, end: usize) -> Option<String> {
    let bytes = message.get(start..end)?;
    Some(match (kind, bytes.len()) {
        (1, 4) => std::net::Ipv4Addr::from(*bytes.first_chunk::<4>()?).to_string(),
        (28, 16) => std::net::Ipv6Addr::from(*bytes.first_chunk::<16>()?).to_string(),
        (2 | 5 | 6 | 12, _) => name_at(message, start)?.0,
        (15, _) => format!("{} {}", word_at(message, start)?, name_at(message, start + 2)?.0),
        (33, _) => {
            let [priority, weight, port] =
                [word_at(message, start)?, word_at(message, start + 2)?, word_at(message, start + 4)?];
            format!("{priority} {weight} {port} {}", name_at(message, start + 6)?.0)
        }
        (16, _) => {
            let (mut texts, mut rest) = (Vec::new(), bytes);
            while let Some((&length, after)) = rest.split_first() {
                let (text, after) = after.split_at_checked(usize::from(length))?;
                texts.push(quoted(&String::from_utf8_lossy(text)));
                rest = after;
            }
            texts.join(" ")
        }
        _ => bytes.iter().map(|byte| format!("{byte:02x}")).collect(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_read_and_rubbish_never_panics() {
        let message = b"\0\x01\x81\x80\0\x01\0\x02\0\0\0\0\x05birch\x04home\0\0\x01\0\x01\
            \xc0\x0c\0\x01\0\x01\0\0\0\x05\0\x04\x64\x40\0\x02\
            \xc0\x0c\0\x05\0\x01\0\0\0\x05\0\x06\x03oak\xc0\x12";
        let (code, records) = read(message).expect("an answer");
        let shown: Vec<_> = records.iter().map(|r| (r.name.as_str(), r.ttl, r.body.as_str())).collect();
        assert_eq!(code, 0);
        assert_eq!(shown, [("birch.home.", 5, "100.64.0.2"), ("birch.home.", 5, "oak.home.")]);
        for end in 0..message.len() {
            assert!(read(&message[..end]).is_none(), "{end}");
        }
        // A pointer to itself.
        assert!(read(b"\0\0\0\0\0\x01\0\0\0\0\0\0\xc0\x0c\0\x01\0\x01").is_none());
    }
}
