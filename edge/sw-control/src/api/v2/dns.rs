//! DNS of the network.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use sw_tailnet::{Dns, Nameserver};

use super::Act;
use crate::api::{Answer, Ask, ok, settings};

type Split = BTreeMap<String, Option<Vec<String>>>;

#[derive(Deserialize, Default)]
#[serde(default, rename_all = "camelCase")]
struct Input {
    dns: Vec<String>,
    search_paths: Vec<String>,
    #[serde(rename = "magicDNS")]
    magic_dns: Option<bool>,
}

#[derive(Serialize, Deserialize, Default)]
#[serde(default, rename_all = "camelCase")]
struct Configuration {
    nameservers: Vec<Server>,
    #[serde(rename = "splitDNS")]
    split_dns: BTreeMap<String, Vec<Server>>,
    search_paths: Vec<String>,
    preferences: Preferences,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Server {
    address: String,
    #[serde(default)]
    use_with_exit_node: bool,
}

#[derive(Serialize, Deserialize, Default)]
#[serde(default)]
struct Preferences {
    #[serde(rename = "overrideLocalDNS")]
    override_local_dns: bool,
    #[serde(rename = "magicDNS")]
    magic_dns: bool,
}

#[expect(clippy::wildcard_enum_match_arm, reason = "the table of routes sends only these acts here")]
pub(super) async fn handle(ask: &Ask<'_>, act: Act) -> Answer {
    let mut settings = settings::current(ask).await?;
    let before = settings.dns.clone();
    let dns = &mut settings.dns;
    let answer = match act {
        Act::NameserversSet => {
            dns.nameservers = servers(ask.input::<Input>()?.dns);
            json!({ "dns": addresses(&dns.nameservers), "magicDNS": dns.magic_dns })
        }
        Act::SearchPaths => json!({ "searchPaths": dns.search }),
        Act::SearchPathsSet => {
            dns.search = ask.input::<Input>()?.search_paths;
            json!({ "searchPaths": dns.search })
        }
        Act::DnsPreferences => json!({ "magicDNS": dns.magic_dns }),
        Act::DnsPreferencesSet => {
            dns.magic_dns = ask.input::<Input>()?.magic_dns.unwrap_or(dns.magic_dns);
            json!({ "magicDNS": dns.magic_dns })
        }
        Act::SplitDns => split(dns),
        Act::SplitDnsPatch => {
            change_split(dns, ask.input()?);
            split(dns)
        }
        Act::SplitDnsPut => {
            dns.split.clear();
            change_split(dns, ask.input()?);
            split(dns)
        }
        Act::DnsConfiguration => configuration(dns),
        Act::DnsConfigurationSet => {
            let Configuration { nameservers, split_dns, search_paths, preferences } = ask.input()?;
            let plain = |list: Vec<Server>| -> Vec<Nameserver> { list.into_iter().map(into_ours).collect() };
            dns.nameservers = plain(nameservers);
            dns.split = split_dns.into_iter().map(|(domain, list)| (domain, plain(list))).collect();
            dns.search = search_paths;
            (dns.override_local, dns.magic_dns) = (preferences.override_local_dns, preferences.magic_dns);
            configuration(dns)
        }
        _ => json!({ "dns": addresses(&dns.nameservers) }),
    };
    if settings.dns != before {
        settings::store(ask, settings).await?;
    }
    ok(&answer)
}

fn servers(addresses: Vec<String>) -> Vec<Nameserver> {
    addresses.into_iter().map(|address| Nameserver { address, use_with_exit_node: false }).collect()
}

fn addresses(servers: &[Nameserver]) -> Vec<&str> {
    servers.iter().map(|server| server.address.as_str()).collect()
}

/// `null` removes a domain.
fn change_split(dns: &mut Dns, changes: Split) {
    for (domain, list) in changes {
        match list {
            Some(list) => drop(dns.split.insert(domain, servers(list))),
            None => drop(dns.split.remove(&domain)),
        }
    }
}

fn split(dns: &Dns) -> Value {
    let split: BTreeMap<&String, Vec<&str>> =
        dns.split.iter().map(|(domain, list)| (domain, addresses(list))).collect();
    json!(split)
}

fn into_ours(server: Server) -> Nameserver {
    Nameserver { address: server.address, use_with_exit_node: server.use_with_exit_node }
}

fn configuration(dns: &Dns) -> Value {
    let theirs = |list: &Vec<Nameserver>| -> Vec<Server> {
        let one = |ours: &Nameserver| Server {
            address: ours.address.clone(),
            use_with_exit_node: ours.use_with_exit_node,
        };
        list.iter().map(one).collect()
    };
    json!(Configuration {
        nameservers: theirs(&dns.nameservers),
        split_dns: dns.split.iter().map(|(domain, list)| (domain.clone(), theirs(list))).collect(),
        search_paths: dns.search.clone(),
        preferences: Preferences { override_local_dns: dns.override_local, magic_dns: dns.magic_dns },
    })
}
