//! Accept rules of ours in the chains of others.

use std::fmt::Write as _;

use serde::Deserialize;

use super::{FirewallConfig, FirewallError, nft};

/// Begins the comment by which our rules are known again.
const COMMENT: &str = "samewire: ";
/// Chains beside the filter's place of the hook; marks and the like are set farther away, and need every packet.
const PRIORITY_MAX: i64 = 50;

/// Where a base chain takes part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Hook {
    Input,
    Forward,
}

/// A base chain of somebody else that may drop packets of the network.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Chain {
    /// Family, table and name, as `nft` reads them.
    place: String,
    hook: Hook,
    /// Handles of our rules in it.
    ours: Vec<u64>,
}

/// What `nft --json` prints, of what we need.
#[derive(Debug, Deserialize)]
struct Listing {
    nftables: Vec<Item>,
}

#[derive(Debug, Deserialize)]
struct Item {
    chain: Option<ListedChain>,
    rule: Option<ListedRule>,
}

#[derive(Debug, Deserialize)]
struct ListedChain {
    family: String,
    table: String,
    name: String,
    #[serde(rename = "type", default)]
    kind: String,
    #[serde(default)]
    hook: String,
    #[serde(default)]
    prio: i64,
    #[serde(default)]
    policy: String,
}

#[derive(Debug, Deserialize)]
struct ListedRule {
    handle: u64,
    #[serde(default)]
    comment: String,
}

/// Asks for the chains of others that drop, or may drop, packets to and through this machine.
pub(super) fn chains(interface: &str) -> Result<Vec<Chain>, FirewallError> {
    let listed = parse(&nft(&["--json", "list", "chains"], "")?);
    let mut found = Vec::new();
    for chain in listed.nftables.into_iter().filter_map(|item| item.chain) {
        let Some((place, hook)) = foreign(&chain) else { continue };
        let words = ["--json", "--handle", "list", "chain", &chain.family, &chain.table, &chain.name];
        let rules = parse(&nft(&words, "")?);
        found.extend(with_rules(place, hook, &chain.policy, (&rules, interface)));
    }
    Ok(found)
}

fn parse(json: &[u8]) -> Listing {
    serde_json::from_slice(json).unwrap_or_else(|error| {
        tracing::debug!(%error, "nft's listing");
        Listing { nftables: Vec::new() }
    })
}

/// Tells whether a chain is a filter of somebody else, and where it stands.
fn foreign(chain: &ListedChain) -> Option<(String, Hook)> {
    let hook = match chain.hook.as_str() {
        "input" => Hook::Input,
        "forward" => Hook::Forward,
        _ => return None,
    };
    let is_ip = ["ip", "ip6", "inet"].contains(&chain.family.as_str());
    let is_filter = chain.kind == "filter" && chain.prio.abs() <= PRIORITY_MAX;
    let is_plain = |name: &str| name.bytes().all(|b| b.is_ascii_alphanumeric() || b"_-./".contains(&b));
    let is_ours = chain.family == "inet" && chain.table == "samewire";
    (is_ip && is_filter && !is_ours && is_plain(&chain.table) && is_plain(&chain.name))
        .then(|| (format!("{} {} {}", chain.family, chain.table, chain.name), hook))
}

/// A chain that drops nothing, by policy or by a rule, is left alone. The rules are those of one interface.
fn with_rules(
    place: String,
    hook: Hook,
    policy: &str,
    (listed, interface): (&Listing, &str),
) -> Option<Chain> {
    let rules: Vec<&ListedRule> = listed.nftables.iter().filter_map(|item| item.rule.as_ref()).collect();
    let comment = format!("{COMMENT}{interface}");
    let ours: Vec<u64> =
        rules.iter().filter(|rule| rule.comment == comment).map(|rule| rule.handle).collect();
    let may_drop = policy == "drop" || rules.len() > ours.len();
    (may_drop || !ours.is_empty()).then_some(Chain { place, hook, ours })
}

/// The steps from what is there to what is wanted; empty when nothing is to be done. `is_loaded`: the rules that
/// are there were made from this config.
pub(super) fn script(chains: &[Chain], config: Option<&FirewallConfig>, is_loaded: bool) -> String {
    let mut script = String::new();
    for Chain { place, hook, ours } in chains {
        let wanted = config.map(|config| rules(*hook, config)).unwrap_or_default();
        // A rule set that somebody loaded anew has none of ours.
        if is_loaded && ours.len() == wanted.len() {
            continue;
        }
        for handle in ours {
            // Writing to a string cannot fail.
            let _ = writeln!(script, "delete rule {place} handle {handle}");
        }
        for rule in wanted {
            let _ = writeln!(script, "insert rule {place} {rule}");
        }
    }
    script
}

/// What is let in, or through, at a hook.
fn rules(hook: Hook, config: &FirewallConfig) -> Vec<String> {
    let FirewallConfig { interface, port, forwarding, diverts } = config;
    let conditions = match hook {
        Hook::Input if *diverts => vec![format!("iifname \"{interface}\""), format!("udp dport {port}")],
        Hook::Forward if *diverts && forwarding.is_some() => {
            vec![format!("iifname \"{interface}\""), format!("oifname \"{interface}\"")]
        }
        Hook::Input | Hook::Forward => Vec::new(),
    };
    conditions.iter().map(|when| format!("{when} accept comment \"{COMMENT}{interface}\"")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::firewall::Forwarded;

    const CHAINS: &str = r#"{"nftables":[
        {"metainfo":{"version":"1.0.6","json_schema_version":1}},
        {"chain":{"family":"ip","table":"filter","name":"INPUT","handle":1,"type":"filter","hook":"input","prio":0,"policy":"drop"}},
        {"chain":{"family":"ip","table":"filter","name":"DOCKER","handle":2}},
        {"chain":{"family":"inet","table":"firewalld","name":"filter_FORWARD","handle":3,"type":"filter","hook":"forward","prio":10,"policy":"accept"}},
        {"chain":{"family":"inet","table":"samewire","name":"forward","handle":4,"type":"filter","hook":"forward","prio":0,"policy":"accept"}},
        {"chain":{"family":"ip","table":"mangle","name":"FORWARD","handle":5,"type":"filter","hook":"forward","prio":-150,"policy":"accept"}},
        {"chain":{"family":"ip","table":"nat","name":"POSTROUTING","handle":6,"type":"nat","hook":"postrouting","prio":100,"policy":"accept"}},
        {"chain":{"family":"bridge","table":"b","name":"in","handle":7,"type":"filter","hook":"input","prio":0,"policy":"drop"}},
        {"chain":{"family":"ip6","table":"odd\" name","name":"in","handle":8,"type":"filter","hook":"input","prio":0,"policy":"drop"}}
    ]}"#;
    const RULES: &str = r#"{"nftables":[
        {"rule":{"family":"ip","table":"filter","chain":"INPUT","handle":9,"comment":"samewire: samewire0","expr":[]}},
        {"rule":{"family":"ip","table":"filter","chain":"INPUT","handle":10,"expr":[{"xt":null}]}}
    ]}"#;

    fn config(forwarding: Option<Forwarded>) -> FirewallConfig {
        FirewallConfig { interface: "samewire0".to_owned(), port: 41641, forwarding, diverts: true }
    }

    #[test]
    fn only_filters_of_others_count() {
        let found: Vec<_> =
            parse(CHAINS.as_bytes()).nftables.into_iter().filter_map(|i| foreign(&i.chain?)).collect();
        assert_eq!(
            found,
            [
                ("ip filter INPUT".to_owned(), Hook::Input),
                ("inet firewalld filter_FORWARD".to_owned(), Hook::Forward)
            ]
        );
    }

    #[test]
    fn a_chain_without_rules_that_accepts_is_left_alone() {
        let none = Listing { nftables: Vec::new() };
        assert_eq!(with_rules("ip t c".to_owned(), Hook::Input, "accept", (&none, "samewire0")), None);
        assert!(with_rules("ip t c".to_owned(), Hook::Input, "drop", (&none, "samewire0")).is_some());
        let ours = |interface| {
            let rules = parse(RULES.as_bytes());
            with_rules("ip t c".to_owned(), Hook::Input, "accept", (&rules, interface))
                .map(|chain| chain.ours)
        };
        assert_eq!(ours("samewire0"), Some(vec![9]));
        assert_eq!(ours("samewire1"), Some(vec![]), "another daemon's");
        assert!(parse(b"JSON support not compiled-in").nftables.is_empty());
    }

    #[test]
    fn rules_are_put_first_and_exactly_they_are_removed() {
        let chain = |hook, ours: &[u64]| [Chain { place: "ip f c".to_owned(), hook, ours: ours.to_vec() }];
        let input = script(&chain(Hook::Input, &[]), Some(&config(None)), false);
        assert_eq!(
            input,
            "insert rule ip f c iifname \"samewire0\" accept comment \"samewire: samewire0\"\n\
             insert rule ip f c udp dport 41641 accept comment \"samewire: samewire0\"\n"
        );
        assert_eq!(script(&chain(Hook::Forward, &[]), Some(&config(None)), false), "");
        let routed = script(&chain(Hook::Forward, &[]), Some(&config(Some(Forwarded::Unchanged))), true);
        assert!(routed.contains("insert rule ip f c oifname \"samewire0\" accept"), "{routed}");
        assert_eq!(script(&chain(Hook::Input, &[3, 4]), Some(&config(None)), true), "", "they are there");
        let removed = "delete rule ip f c handle 3\ndelete rule ip f c handle 4\n";
        assert_eq!(script(&chain(Hook::Input, &[3, 4]), None, false), removed);
        let moved =
            script(&chain(Hook::Input, &[3, 4]), Some(&FirewallConfig { port: 5, ..config(None) }), false);
        assert!(moved.starts_with(removed) && moved.contains("udp dport 5 accept"), "{moved}");
        let off = FirewallConfig { diverts: false, ..config(None) };
        assert_eq!(script(&chain(Hook::Input, &[3, 4]), Some(&off), true), removed);
    }
}
