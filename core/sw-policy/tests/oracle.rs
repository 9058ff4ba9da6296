//! The slow compiler which is right by inspection: policy.md §7 to §11 followed word by word, on JSON and text, for packet
//! filters with capabilities, for who sees whom, and for the routes that are seen; without postures and via. The real one
//! must agree.

mod world;

use std::collections::BTreeSet;
use std::sync::Arc;

use arbitrary::Unstructured;
use serde_json::{Value, json};
use sw_policy::{Compiled, Context, IpRange, Node, Policy, World};
use sw_types::Rng;

const WILDCARD: [&str; 3] =
    ["100.115.94.0-100.127.255.255", "100.64.0.0-100.115.91.255", "fd7a:115c:a1e0::/48"];
const INTERNET: [&str; 7] = [
    "0.0.0.0-9.255.255.255",
    "11.0.0.0-100.63.255.255",
    "100.128.0.0-169.253.255.255",
    "169.255.0.0-172.15.255.255",
    "172.32.0.0-192.167.255.255",
    "192.169.0.0-255.255.255.255",
    "2000::-3fff:ffff:ffff:ffff:ffff:ffff:ffff:ffff",
];

struct Oracle<'o> {
    policy: &'o Value,
    world: &'o World,
}

/// First and last port of each range.
type Ports = Vec<(u64, u64)>;

fn texts(value: &Value) -> Vec<String> {
    value.as_array().into_iter().flatten().filter_map(|text| text.as_str().map(str::to_owned)).collect()
}

fn addresses(node: &Node) -> Vec<String> {
    node.addresses.iter().map(ToString::to_string).collect()
}

impl Oracle<'_> {
    /// Whether a word for people, tags or autogroups means a machine.
    fn is(&self, word: &str, node: &Node) -> bool {
        let user = node.owner().and_then(|id| self.world.users.get(&id));
        let named = |word: &str| {
            user.is_some_and(|user| match word.strip_prefix("user:*@") {
                Some(domain) => user.login().ends_with(&format!("@{domain}")),
                None => word == user.email || word == format!("{}@", user.name),
            })
        };
        match word {
            "autogroup:member" => node.owner().is_some(),
            "autogroup:tagged" => !node.tags.is_empty(),
            "autogroup:admin" => {
                user.is_some_and(|user| matches!(user.role, sw_policy::Role::Admin | sw_policy::Role::Owner))
            }
            group if group.starts_with("group:") => {
                texts(&self.policy["groups"][group]).iter().any(|one| named(one))
            }
            tag if tag.starts_with("tag:") => node.tags.contains(&tag.to_owned()),
            person if person.contains('@') => named(person),
            _ => false,
        }
    }

    /// The address texts that a word of addresses stands for; `None` for words that mean machines.
    fn literal(&self, word: &str) -> Option<Vec<String>> {
        match word {
            "autogroup:internet" => Some(INTERNET.map(str::to_owned).to_vec()),
            // The world's generator defines these.
            "lan" => Some(vec!["10.0.1.0/24".to_owned()]),
            "ipset:two" => Some(
                ["10.0.0.0-10.0.0.255", "10.0.2.0-10.0.255.255", "100.64.0.5"].map(str::to_owned).to_vec(),
            ),
            word => IpRange::parse(word).map(|range| vec![range.to_string()]),
        }
    }

    fn sources(&self, words: &[String]) -> Vec<String> {
        self.from(words, true)
    }

    /// The sources' texts; `*` names the subnet routes with it if `with_routes`.
    fn from(&self, words: &[String], with_routes: bool) -> Vec<String> {
        let mut found = BTreeSet::new();
        let mut others = Vec::new();
        for word in words {
            if word == "*" {
                found.extend(WILDCARD.map(str::to_owned));
                let nodes = self.world.nodes.values().filter(|_| with_routes);
                let routes = nodes.flat_map(|node| node.subnet_routes());
                found.extend(routes.map(|net| net.to_string()));
                continue;
            }
            match self.literal(word) {
                Some(texts) => others.extend(texts),
                None => others.extend(
                    self.world.nodes.values().filter(|n| self.is(word, n)).flat_map(|n| addresses(n)),
                ),
            }
        }
        if words.iter().any(|word| word == "*") {
            let ranges: sw_policy::RangeSet = others.iter().filter_map(|text| IpRange::parse(text)).collect();
            found.extend(ranges.ranges().iter().map(ToString::to_string));
        }
        found.extend(others);
        found.into_iter().collect()
    }

    /// The texts of a destination other than `*`.
    fn places(&self, word: &str) -> Vec<String> {
        let meant =
            || self.world.nodes.values().filter(|n| self.is(word, n)).flat_map(|n| addresses(n)).collect();
        self.literal(word).unwrap_or_else(meant)
    }

    fn entries(&self, word: &str, ports: &[(u64, u64)]) -> Vec<Value> {
        let places = if word == "*" { vec!["*".to_owned()] } else { self.places(word) };
        cross(&places, ports)
    }

    /// Appends what one single rule gives for `node`: the other destinations, then one's own machines.
    fn expand(
        &self,
        node: &Node,
        src: &[String],
        dst: &[String],
        net: (Option<u64>, &[(u64, u64)]),
        out: &mut Vec<Value>,
    ) {
        let (protocol, ports) = net;
        let rule = |sources: Vec<String>, entries: Vec<Value>| {
            let mut rule = json!({"SrcIPs": sources, "DstPorts": entries});
            if let Some(protocol) = protocol {
                rule["IPProto"] = json!([protocol]);
            }
            rule
        };
        let others = dst.iter().filter(|word| *word != "autogroup:self");
        let entries: Vec<Value> = others.flat_map(|word| self.entries(word, ports)).collect();
        let sources = self.sources(src);
        if !entries.is_empty() && !sources.is_empty() {
            out.push(rule(sources, entries));
        }
        if dst.iter().any(|word| word == "autogroup:self")
            && let Some(owner) = node.owner()
        {
            let own: Vec<_> =
                self.world.nodes.values().filter(|other| other.owner() == Some(owner)).collect();
            let is_source = |other: &Node| src.iter().any(|word| word == "*" || self.is(word, other));
            let from: BTreeSet<String> =
                own.iter().filter(|other| is_source(other)).flat_map(|other| addresses(other)).collect();
            if !from.is_empty() {
                let places: Vec<String> = own.iter().flat_map(|other| addresses(other)).collect();
                out.push(rule(from.into_iter().collect(), cross(&places, ports)));
            }
        }
    }

    /// Appends the capability rule of a grant and its reverse ones (policy.md §8.4); `own` is the part for one's own
    /// machines.
    fn expand_app(&self, node: &Node, grant: &Value, dst: &[String], own: bool, out: &mut Vec<Value>) {
        let (src, app) = (texts(&grant["src"]), &grant["app"]);
        if app.is_null() || dst.is_empty() {
            return;
        }
        let cap = |dsts: Vec<String>| json!({"Dsts": dsts, "CapMap": app});
        let joined = |texts: &[String]| -> BTreeSet<String> {
            let ranges: sw_policy::RangeSet = texts.iter().filter_map(|text| IpRange::parse(text)).collect();
            ranges.ranges().iter().map(ToString::to_string).collect()
        };
        let (from, entries, reverse): (Vec<String>, Vec<Value>, BTreeSet<String>) = if own {
            let Some(owner) = node.owner() else { return };
            let all: Vec<_> =
                self.world.nodes.values().filter(|other| other.owner() == Some(owner)).collect();
            let is_source = |other: &Node| src.iter().any(|word| word == "*" || self.is(word, other));
            let from: BTreeSet<String> =
                all.iter().filter(|other| is_source(other)).flat_map(|other| addresses(other)).collect();
            if from.is_empty() {
                return;
            }
            let to: Vec<String> = all.iter().flat_map(|other| addresses(other)).collect();
            let entries = all.iter().map(|other| cap(addresses(other))).collect();
            (from.into_iter().collect(), entries, joined(&to))
        } else {
            let of = |word: &String| match word.as_str() {
                "*" => WILDCARD.map(str::to_owned).to_vec(),
                _ => self.places(word),
            };
            let named: Vec<String> = dst.iter().filter(|word| *word != "*").flat_map(of).collect();
            let mut reverse = joined(&named);
            if dst.iter().any(|word| word == "*") {
                reverse.extend(self.sources(&["*".to_owned()]));
            }
            (self.sources(&src), dst.iter().map(|word| cap(of(word))).collect(), reverse)
        };
        out.push(json!({"SrcIPs": from, "CapGrant": entries}));
        for (cap, companion) in [("drive", "drive-sharer"), ("relay", "relay-target")] {
            if app.get(format!("tailscale.com/cap/{cap}")).is_some()
                && !from.is_empty()
                && !reverse.is_empty()
            {
                let caps = json!({format!("tailscale.com/cap/{companion}"): null});
                let from = if own { from.clone() } else { self.from(&src, false) };
                out.push(json!({"SrcIPs": reverse, "CapGrant": [{"Dsts": from, "CapMap": caps}]}));
            }
        }
    }

    /// All rules of the network as they are for `node`, merged and not yet reduced.
    fn rules(&self, node: &Node) -> Vec<Value> {
        let mut rules = Vec::new();
        for grant in self.policy["grants"].as_array().into_iter().flatten() {
            let mut nets: Vec<(Option<u64>, Ports)> = Vec::new();
            for item in texts(&grant["ip"]) {
                let (protocol, ports) = match item.split_once(':') {
                    Some((name, ports)) => (Some(protocol(name)), ports.to_owned()),
                    None => (None, item.clone()),
                };
                match nets.iter_mut().find(|net| net.0 == protocol) {
                    Some(net) => net.1.extend(parse_ports(&ports)),
                    None => nets.push((protocol, parse_ports(&ports))),
                }
            }
            let (src, dst) = (texts(&grant["src"]), texts(&grant["dst"]));
            let others: Vec<String> = dst.iter().filter(|word| *word != "autogroup:self").cloned().collect();
            let own: Vec<String> = dst.iter().filter(|word| *word == "autogroup:self").cloned().collect();
            for (part, is_own) in [(others, false), (own, true)] {
                for (protocol, ports) in &nets {
                    self.expand(node, &src, &part, (*protocol, ports), &mut rules);
                }
                self.expand_app(node, grant, &part, is_own, &mut rules);
            }
        }
        for acl in self.policy["acls"].as_array().into_iter().flatten() {
            let mut groups: Vec<(String, Ports)> = Vec::new();
            for dst in texts(&acl["dst"]) {
                let (word, ports) = dst.rsplit_once(':').expect("a destination has ports");
                match groups.iter_mut().find(|group| group.0 == word) {
                    Some(group) => group.1.extend(parse_ports(ports)),
                    None => groups.push((word.to_owned(), parse_ports(ports))),
                }
            }
            let all_autogroups = groups.iter().all(|group| group.0.starts_with("autogroup:"));
            groups.sort_by_key(|group| match group.0.as_str() {
                "*" => 0,
                word if word.contains('@') => 1,
                "autogroup:self" if !all_autogroups => 3,
                _ => 2,
            });
            let protocol = acl["proto"].as_str().map(protocol);
            for (word, ports) in groups {
                self.expand(node, &texts(&acl["src"]), &[word], (protocol, &ports), &mut rules);
            }
        }
        merge(rules)
    }

    fn filter(&self, node: &Node) -> Vec<Value> {
        reduce(node, self.rules(node))
    }
}

fn cross(places: &[String], ports: &[(u64, u64)]) -> Vec<Value> {
    let one = |place: &String| -> Vec<Value> {
        ports
            .iter()
            .map(|(first, last)| json!({"IP": place, "Ports": {"First": first, "Last": last}}))
            .collect()
    };
    places.iter().flat_map(one).collect()
}

fn protocol(name: &str) -> u64 {
    match name {
        "tcp" => 6,
        "udp" | "17" => 17,
        "icmp" => 1,
        other => panic!("the generator writes no {other}"),
    }
}

fn parse_ports(text: &str) -> Ports {
    let number = |text: &str| text.parse::<u64>().expect("a port");
    let one = |item: &str| match item.split_once('-') {
        Some((first, last)) => (number(first), number(last)),
        None if item == "*" => (0, 65_535),
        None => (number(item), number(item)),
    };
    text.split(',').map(one).collect()
}

fn merge(rules: Vec<Value>) -> Vec<Value> {
    let mut merged: Vec<Value> = Vec::new();
    for rule in rules {
        if rule.get("DstPorts").is_none() {
            merged.push(rule);
            continue;
        }
        let same = |known: &&mut Value| {
            known.get("DstPorts").is_some()
                && known["SrcIPs"] == rule["SrcIPs"]
                && known["IPProto"] == rule["IPProto"]
        };
        match merged.iter_mut().find(same) {
            Some(known) => {
                let more = rule["DstPorts"].as_array().expect("destinations").clone();
                known["DstPorts"].as_array_mut().expect("destinations").extend(more);
            }
            None => merged.push(rule),
        }
    }
    merged
}

fn reduce(node: &Node, rules: Vec<Value>) -> Vec<Value> {
    let internet: Vec<IpRange> = INTERNET.iter().filter_map(|text| IpRange::parse(text)).collect();
    let keeps = |entry: &Value| {
        let place = entry["IP"].as_str().expect("a place");
        let Some(range) = IpRange::parse(place) else { return place == "*" };
        node.addresses.iter().any(|addr| range.contains(*addr))
            || node.subnet_routes().iter().any(|net| IpRange::prefix(*net).overlaps(range))
            || (!node.exit_routes().is_empty() && internet.iter().any(|public| public.covers(range)))
    };
    let mut kept = Vec::new();
    for mut rule in rules {
        if let Some(grants) = rule.get_mut("CapGrant").and_then(Value::as_array_mut) {
            for grant in grants.iter_mut() {
                grant["Dsts"] = json!(reduced_dsts(node, &texts(&grant["Dsts"])));
            }
            grants.retain(|grant| !texts(&grant["Dsts"]).is_empty());
            if !grants.is_empty() {
                kept.push(rule);
            }
            continue;
        }
        let entries = rule["DstPorts"].as_array_mut().expect("destinations");
        entries.retain(keeps);
        if !entries.is_empty() {
            kept.push(rule);
        }
    }
    kept
}

/// Narrows the destinations of a capability to a machine (policy.md §9).
fn reduced_dsts(node: &Node, dsts: &[String]) -> Vec<String> {
    let mut kept = BTreeSet::new();
    for range in dsts.iter().filter_map(|text| IpRange::parse(text)) {
        let own = node.addresses.iter().filter(|addr| range.contains(**addr));
        kept.extend(own.map(|addr| ipnet::IpNet::from(*addr)));
        let routed = |net: &ipnet::IpNet| {
            node.subnet_routes().iter().any(|route| IpRange::prefix(*route).overlaps(IpRange::prefix(*net)))
        };
        kept.extend(range.prefixes().into_iter().filter(routed));
    }
    let mut kept: Vec<ipnet::IpNet> = kept.into_iter().collect();
    kept.sort_by_key(|net| (net.addr().is_ipv6(), net.addr(), net.prefix_len()));
    kept.iter().map(ToString::to_string).collect()
}

/// Sources and destinations of a rule (policy.md §11.1); `is_net` for packets.
struct Match {
    from: Vec<IpRange>,
    to: Vec<IpRange>,
    is_net: bool,
}

fn ranges(texts: impl Iterator<Item = String>) -> Vec<IpRange> {
    let of = |text: String| match text.as_str() {
        "*" => vec![IpRange::ALL_V4, IpRange::ALL_V6],
        text => IpRange::parse(text).into_iter().collect(),
    };
    texts.flat_map(of).collect()
}

fn matches(rules: &[Value]) -> Vec<Match> {
    let one = |rule: &Value| {
        let ports = rule["DstPorts"].as_array().into_iter().flatten().map(|entry| entry["IP"].clone());
        let caps = rule["CapGrant"].as_array().into_iter().flatten().flat_map(|grant| texts(&grant["Dsts"]));
        let ports = ports.filter_map(|text| text.as_str().map(str::to_owned));
        Match {
            from: ranges(texts(&rule["SrcIPs"]).into_iter()),
            to: ranges(ports.chain(caps)),
            is_net: rule.get("DstPorts").is_some(),
        }
    };
    rules.iter().map(one).collect()
}

fn meets(node: &Node, ranges: &[IpRange]) -> bool {
    let own = node.addresses.iter().map(|addr| IpRange::host(*addr));
    let routed = node.subnet_routes().into_iter().map(IpRange::prefix);
    own.chain(routed).any(|own| ranges.iter().any(|range| range.overlaps(own)))
}

fn holds_internet(to: &[IpRange]) -> bool {
    let all: sw_policy::RangeSet = to.iter().copied().collect();
    to.contains(&IpRange::ALL_V4)
        || to.contains(&IpRange::ALL_V6)
        || INTERNET.iter().filter_map(|text| IpRange::parse(text)).all(|range| all.covers(range))
}

fn reaches(one: &Match, from: &Node, to: &Node) -> bool {
    let by_exit = || !to.exit_routes().is_empty() && holds_internet(&one.to);
    meets(from, &one.from) && (meets(to, &one.to) || by_exit())
}

/// Whether the viewer sees a route that the peer serves (policy.md §11.2).
fn sees_route(matches: &[&Match], viewer: &Node, net: ipnet::IpNet) -> bool {
    let route = IpRange::prefix(net);
    let is_exit = net.prefix_len() == 0;
    matches.iter().any(|one| {
        if is_exit {
            return one.is_net && meets(viewer, &one.from) && holds_internet(&one.to);
        }
        let over = |ranges: &[IpRange]| ranges.iter().any(|range| range.overlaps(route));
        (meets(viewer, &one.from) && over(&one.to))
            || (over(&one.from)
                && (meets(viewer, &one.to) || (!viewer.exit_routes().is_empty() && holds_internet(&one.to))))
    }) || (!is_exit && viewer.subnet_routes().contains(&net))
}

#[test]
fn filters_peers_and_routes_equal_those_of_the_slow_compiler() {
    let mut rng = Rng::new([9; 32]);
    let (mut machines, mut rules, mut seen) = (0, 0, 0);
    for _ in 0..1_000 {
        let mut noise = vec![0; 8_192];
        rng.fill(&mut noise);
        let u = &mut Unstructured::new(&noise);
        let mut world = world::World::default();
        let mut policy: Value = serde_json::from_str(&world::policy(u).unwrap()).unwrap();
        // What the slow compiler does not know; and a policy that has rules.
        for section in ["grants", "acls"] {
            let rules = policy[section].as_array().cloned().unwrap_or_default();
            let plain = rules.into_iter().filter_map(|mut rule| {
                let fields = rule.as_object_mut()?;
                fields.remove("srcPosture");
                fields.remove("via").is_none().then_some(rule)
            });
            policy[section] = plain.collect();
        }
        for _ in 0..20 {
            world.change(u).unwrap();
        }
        let parsed =
            Policy::parse(&policy.to_string(), Context { world: &world.now, domains: None }).unwrap();
        let compiled = Compiled::new(&Arc::new(parsed), &world.now);
        let oracle = Oracle { policy: &policy, world: &world.now };
        for node in world.now.nodes.values() {
            let fast = serde_json::to_value(compiled.filter(node.id)).unwrap();
            let slow = Value::Array(oracle.filter(node));
            assert_eq!(fast, slow, "machine {}\n{policy:#}\n{:#?}", node.name, world.now);
            machines += 1;
            rules += slow.as_array().map_or(0, Vec::len);
        }
        let all: Vec<(&Arc<Node>, Vec<Match>)> =
            world.now.nodes.values().map(|node| (node, matches(&oracle.rules(node)))).collect();
        for (node, own) in &all {
            let others = all.iter().filter(|(other, _)| other.id != node.id);
            let is_peer = |(other, theirs): &&(&Arc<Node>, Vec<Match>)| {
                own.iter().chain(theirs).any(|one| reaches(one, node, other) || reaches(one, other, node))
            };
            let peers: Vec<_> = others.clone().filter(is_peer).map(|(other, _)| other.id).collect();
            let context = || format!("machine {}\n{policy:#}\n{:#?}", node.name, world.now);
            assert_eq!(compiled.peers(node.id), peers, "{}", context());
            for (other, theirs) in others {
                let both: Vec<&Match> = own.iter().chain(theirs).collect();
                let mut serving = other.subnet_routes();
                serving.extend(other.exit_routes());
                let routes: BTreeSet<_> =
                    serving.iter().copied().filter(|net| sees_route(&both, node, *net)).collect();
                let fast: BTreeSet<_> =
                    compiled.routes_seen(compiled.class(node.id), other.id, &serving).into_iter().collect();
                assert_eq!(fast, routes, "routes of {} for {}", other.name, context());
                seen += routes.len();
            }
        }
    }
    assert!(rules > 4_000, "the policies say something: {rules}");
    assert!(seen > 1_000, "routes are seen: {seen}");
    println!("{machines} filters with {rules} rules, {seen} routes seen");
}
