//! Flags in the style of the official client: one dash or two, booleans with `=false` (localapi-cli.md §B1).

use std::ffi::OsString;

use clap::Args;
use ipnet::IpNet;
use serde_json::{Value, json};
use sw_types::local::{MaskedPrefs, Prefs};
use sw_types::problem::quoted;

/// Flags that are only there or not; as the official ones they may be written with `=true` and `=false`.
const SWITCHES: [&str; 19] = [
    "--json",
    "--reset",
    "--force-reauth",
    "--list",
    "--icmp",
    "--tsmp",
    "--peerapi",
    "--verbose",
    "--daemon",
    "--set-flags",
    "--all",
    "--pretty",
    "--initial",
    "--diagnose",
    "--record",
    "--upstream",
    "--wait",
    "--loop",
    "--targets",
];

/// Rewrites `-flag` to `--flag`, for flags of more than one letter, and leaves out the values of switches. Words after
/// `--` are left alone.
pub fn normalize(arguments: impl IntoIterator<Item = OsString>) -> Vec<OsString> {
    let mut is_past_flags = false;
    arguments
        .into_iter()
        .map(|argument| {
            let Some(text) = argument.to_str() else { return argument };
            is_past_flags |= text == "--";
            let name = text.strip_prefix('-').unwrap_or_default();
            let is_long = name.len() > 1
                && name.starts_with(|c: char| c.is_ascii_lowercase())
                && name.split('=').next().is_some_and(|name| name.len() > 1);
            if is_long && !is_past_flags { format!("-{text}").into() } else { argument }
        })
        .filter_map(switch)
        .collect()
}

/// `--json=true` is `--json`, `--json=false` is nothing.
fn switch(argument: OsString) -> Option<OsString> {
    let split = argument.to_str().and_then(|text| text.split_once('='));
    let Some((flag, value)) = split.filter(|(flag, _)| SWITCHES.contains(flag)) else {
        return Some(argument);
    };
    match parse_bool(value) {
        Ok(true) => Some(flag.into()),
        Ok(false) => None,
        Err(_) => Some(argument),
    }
}

/// Reads a boolean as Go does.
pub(super) fn parse_bool(text: &str) -> Result<bool, String> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(false),
        _ => Err("write true or false".to_owned()),
    }
}

/// Flags that map to preferences; those not mentioned are `None`.
#[derive(Args, Clone, Debug, Default)]
pub(super) struct PrefFlags {
    /// Use the subnet routes that others offer
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true", value_parser = parse_bool)]
    accept_routes: Option<bool>,
    /// Use the network's DNS settings
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true", value_parser = parse_bool)]
    accept_dns: Option<bool>,
    /// Send Internet traffic through this machine (name, address, auto:any, empty for none)
    #[arg(long, value_name = "MACHINE")]
    exit_node: Option<String>,
    /// Reach the own LAN directly while an exit node is used
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true", value_parser = parse_bool)]
    exit_node_allow_lan_access: Option<bool>,
    /// Take no connections from others
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true", value_parser = parse_bool)]
    shields_up: Option<bool>,
    /// Known for scripts' sake: there is no SSH server in this version, and switching it on is refused
    #[arg(long, hide = true, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true", value_parser = parse_bool)]
    ssh: Option<bool>,
    /// Name to use instead of the machine's own
    #[arg(long, value_name = "NAME")]
    hostname: Option<String>,
    /// Subnets to offer to others, separated by commas
    #[arg(long, value_name = "PREFIXES")]
    advertise_routes: Option<String>,
    /// Offer to carry others' Internet traffic
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true", value_parser = parse_bool)]
    advertise_exit_node: Option<bool>,
    /// Kept and told on for scripts' sake; nothing follows from it in this version
    #[arg(long, hide = true, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true", value_parser = parse_bool)]
    advertise_connector: Option<bool>,
    /// Kept for scripts' sake; nothing follows from it in this version
    #[arg(long, hide = true, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true", value_parser = parse_bool)]
    report_posture: Option<bool>,
    /// User who may change settings without root
    #[arg(long, value_name = "USER")]
    operator: Option<String>,
    /// Hide the source address of traffic into advertised subnets
    #[arg(long, hide_short_help = true, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true", value_parser = parse_bool)]
    snat_subnet_routes: Option<bool>,
    /// Kept for scripts' sake; nothing follows from it in this version
    #[arg(long, hide = true, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true", value_parser = parse_bool)]
    stateful_filtering: Option<bool>,
    /// How much of the firewall is managed: on, nodivert or off
    #[arg(long, hide_short_help = true, value_name = "MODE", value_parser = ["on", "nodivert", "off"])]
    netfilter_mode: Option<String>,
}

impl PrefFlags {
    /// Whether no flag was mentioned.
    pub(super) fn is_empty(&self) -> bool {
        self.mentioned().is_empty()
    }

    /// The names of the flags that were mentioned.
    pub(super) fn mentioned(&self) -> Vec<&'static str> {
        [
            ("accept-routes", self.accept_routes.is_some()),
            ("accept-dns", self.accept_dns.is_some()),
            ("exit-node", self.exit_node.is_some()),
            ("exit-node-allow-lan-access", self.exit_node_allow_lan_access.is_some()),
            ("shields-up", self.shields_up.is_some()),
            ("ssh", self.ssh.is_some()),
            ("hostname", self.hostname.is_some()),
            ("advertise-routes", self.advertise_routes.is_some()),
            ("advertise-exit-node", self.advertise_exit_node.is_some()),
            ("advertise-connector", self.advertise_connector.is_some()),
            ("report-posture", self.report_posture.is_some()),
            ("operator", self.operator.is_some()),
            ("snat-subnet-routes", self.snat_subnet_routes.is_some()),
            ("stateful-filtering", self.stateful_filtering.is_some()),
            ("netfilter-mode", self.netfilter_mode.is_some()),
        ]
        .into_iter()
        .filter_map(|(name, is_mentioned)| is_mentioned.then_some(name))
        .collect()
    }

    /// The change of preferences that the mentioned flags ask for. `current` supplies the half of
    /// `AdvertiseRoutes` that is not mentioned; `resolve` turns an exit node's name into its id.
    pub(super) fn to_masked(
        &self,
        current: &Prefs,
        resolve: impl Fn(&str) -> Result<String, String>,
    ) -> Result<MaskedPrefs, String> {
        let mut masked = MaskedPrefs::default();
        let booleans = [
            ("RouteAll", self.accept_routes),
            ("CorpDNS", self.accept_dns),
            ("ExitNodeAllowLANAccess", self.exit_node_allow_lan_access),
            ("ShieldsUp", self.shields_up),
            ("RunSSH", self.ssh),
            ("PostureChecking", self.report_posture),
            ("NoSNAT", self.snat_subnet_routes.map(|is_on| !is_on)),
            ("NoStatefulFiltering", self.stateful_filtering.map(|is_on| !is_on)),
        ];
        for (field, value) in booleans {
            if let Some(value) = value {
                masked.set(field, value);
            }
        }
        if let Some(advertise) = self.advertise_connector {
            masked.set("AppConnector", json!({ "Advertise": advertise }));
        }
        if let Some(name) = &self.hostname {
            check_hostname(name)?;
            masked.set("Hostname", name.as_str());
        }
        if let Some(user) = &self.operator {
            masked.set("OperatorUser", user.as_str());
        }
        if let Some(mode) = &self.netfilter_mode {
            masked.set(
                "NetfilterMode",
                match mode.as_str() {
                    "off" => 0,
                    "nodivert" => 1,
                    _ => 2,
                },
            );
        }
        if self.advertise_routes.is_some() || self.advertise_exit_node.is_some() {
            masked.set("AdvertiseRoutes", self.routes(current)?);
        }
        if let Some(words) = &self.exit_node {
            set_exit_node(&mut masked, words, resolve)?;
        }
        Ok(masked)
    }

    fn routes(&self, current: &Prefs) -> Result<Value, String> {
        let present = current.advertise_routes.clone().unwrap_or_default();
        let is_default = |net: &IpNet| net.prefix_len() == 0;
        let mut routes = match &self.advertise_routes {
            Some(text) => parse_routes(text)?,
            None => present.into_iter().filter(|net| !is_default(net)).collect(),
        };
        let offers_exit = self
            .advertise_exit_node
            .unwrap_or_else(|| self.advertise_routes.is_none() && current.advertises_exit_node());
        if offers_exit {
            routes.retain(|net| !is_default(net));
            for text in ["0.0.0.0/0", "::/0"] {
                routes.push(text.parse().map_err(|_| "the default routes are prefixes".to_owned())?);
            }
        }
        routes.sort_by_key(|net| (net.addr().is_ipv6(), *net));
        routes.dedup();
        if routes.is_empty() {
            return Ok(Value::Null);
        }
        serde_json::to_value(routes).map_err(|error| error.to_string())
    }
}

fn parse_routes(text: &str) -> Result<Vec<IpNet>, String> {
    let mut routes = Vec::new();
    for word in text.split(',').map(str::trim).filter(|word| !word.is_empty()) {
        let net: IpNet = word
            .parse()
            .map_err(|_| format!("{} is no prefix; write for example 192.168.8.0/24", quoted(word)))?;
        if net != net.trunc() {
            return Err(format!("{word} has bits set behind the prefix; the subnet is {}", net.trunc()));
        }
        routes.push(net);
    }
    let has = |is_v4: bool| routes.iter().any(|net| net.prefix_len() == 0 && net.addr().is_ipv4() == is_v4);
    if has(true) != has(false) {
        return Err("0.0.0.0/0 and ::/0 go only together; or use --advertise-exit-node".to_owned());
    }
    Ok(routes)
}

fn set_exit_node(
    masked: &mut MaskedPrefs,
    words: &str,
    resolve: impl Fn(&str) -> Result<String, String>,
) -> Result<(), String> {
    if let Some(choice) = words.strip_prefix("auto:") {
        masked.set("AutoExitNode", choice).set("ExitNodeID", "").set("ExitNodeIP", "");
    } else if words.is_empty() {
        masked.set("ExitNodeID", "").set("ExitNodeIP", "").set("AutoExitNode", "");
    } else if words.parse::<std::net::IpAddr>().is_ok() {
        resolve(words)?;
        masked.set("ExitNodeIP", words).set("ExitNodeID", "");
    } else {
        masked.set("ExitNodeID", resolve(words)?).set("ExitNodeIP", "");
    }
    Ok(())
}

fn check_hostname(name: &str) -> Result<(), String> {
    let is_label = |label: &str| {
        (1..=63).contains(&label.len())
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label.chars().all(|c| c.is_ascii_alphanumeric() || c == '-')
    };
    if name.is_empty() || (name.len() <= 253 && name.split('.').all(is_label)) {
        return Ok(());
    }
    Err(format!("{} cannot be a host name: letters, digits and - only", quoted(name)))
}

/// The preferences as flags of `up`: (flag, value), defaults included, sorted by flag.
pub(super) fn as_flags(prefs: &Prefs) -> Vec<(&'static str, String)> {
    let routes = prefs.advertise_routes.as_deref().unwrap_or_default();
    let subnets: Vec<String> =
        routes.iter().filter(|net| net.prefix_len() != 0).map(ToString::to_string).collect();
    let exit_node = if !prefs.auto_exit_node.is_empty() {
        format!("auto:{}", prefs.auto_exit_node)
    } else if !prefs.exit_node_id.is_empty() {
        prefs.exit_node_id.clone()
    } else {
        prefs.exit_node_ip.clone()
    };
    let netfilter = match prefs.netfilter_mode {
        sw_types::local::NetfilterMode::Off => "off",
        sw_types::local::NetfilterMode::NoDivert => "nodivert",
        sw_types::local::NetfilterMode::On => "on",
    };
    vec![
        ("accept-dns", prefs.corp_dns.to_string()),
        ("accept-routes", prefs.route_all.to_string()),
        ("advertise-connector", prefs.app_connector.advertise.to_string()),
        ("advertise-exit-node", prefs.advertises_exit_node().to_string()),
        ("advertise-routes", subnets.join(",")),
        ("advertise-tags", prefs.advertise_tags.as_deref().unwrap_or_default().join(",")),
        ("exit-node", exit_node),
        ("exit-node-allow-lan-access", prefs.exit_node_allow_lan_access.to_string()),
        ("hostname", prefs.hostname.clone()),
        ("login-server", prefs.control_url.clone()),
        ("netfilter-mode", netfilter.to_owned()),
        ("operator", prefs.operator_user.clone()),
        ("report-posture", prefs.posture_checking.to_string()),
        ("shields-up", prefs.shields_up.to_string()),
        ("snat-subnet-routes", (!prefs.no_snat).to_string()),
        ("ssh", prefs.run_ssh.to_string()),
        ("stateful-filtering", (prefs.no_stateful_filtering == Some(false)).to_string()),
    ]
}

/// One flag as it is typed: `--ssh`, `--hostname=x`, quoted for a shell.
pub(super) fn as_typed(flag: &str, value: &str) -> String {
    if value == "true" {
        return format!("--{flag}");
    }
    let is_plain = value.chars().all(|c| c.is_ascii_alphanumeric() || "-_./:,@%+=".contains(c));
    if is_plain {
        format!("--{flag}={value}")
    } else {
        format!("--{flag}='{}'", value.replace('\'', "'\\''"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn masked(flags: &PrefFlags, current: &Prefs) -> Prefs {
        flags
            .to_masked(current, |name| Ok(name.to_owned()))
            .expect("good flags")
            .apply_to(current)
            .expect("good prefs")
    }

    #[test]
    fn one_dash_is_as_good_as_two() {
        let words = ["samewire", "up", "-auth-key=x", "-c", "-1", "--", "-long"].map(OsString::from);
        let expected = ["samewire", "up", "--auth-key=x", "-c", "-1", "--", "-long"].map(OsString::from);
        assert_eq!(normalize(words), expected);
    }

    #[test]
    fn switches_take_the_values_of_go() {
        let words =
            ["samewire", "status", "-json=true", "--peers=false", "--reset=false"].map(OsString::from);
        let expected = ["samewire", "status", "--json", "--peers=false"].map(OsString::from);
        assert_eq!(normalize(words), expected);
    }

    #[test]
    fn subnets_and_exit_node_are_set_independently() {
        let subnet =
            PrefFlags { advertise_routes: Some("192.168.8.0/24".to_owned()), ..PrefFlags::default() };
        let exit = PrefFlags { advertise_exit_node: Some(true), ..PrefFlags::default() };
        let prefs = masked(&subnet, &Prefs::default());
        let prefs = masked(&exit, &prefs);
        assert!(prefs.advertises_exit_node());
        assert_eq!(prefs.advertise_routes.as_ref().map(Vec::len), Some(3));
        let prefs = masked(&PrefFlags { advertise_exit_node: Some(false), ..PrefFlags::default() }, &prefs);
        assert_eq!(prefs.advertise_routes.as_ref().map(Vec::len), Some(1));
    }

    #[test]
    fn host_names_are_those_of_dns() {
        for name in ["", "a", "a-1.b", "X"] {
            assert!(check_hostname(name).is_ok(), "{name}");
        }
        for name in ["a b", "a_b", "-a", "a-", "a..b", "ä"] {
            assert!(check_hostname(name).is_err(), "{name}");
        }
    }

    #[test]
    fn wrong_routes_are_explained() {
        for (text, words) in [("10.0.0.1/8", "10.0.0.0/8"), ("0.0.0.0/0", "together"), ("x", "no prefix")] {
            assert!(parse_routes(text).expect_err("wrong").contains(words), "{text}");
        }
    }

    #[test]
    fn flags_are_typed_so_that_a_shell_reads_them() {
        assert_eq!(as_typed("ssh", "true"), "--ssh");
        assert_eq!(as_typed("hostname", "a b'c"), r"--hostname='a b'\''c'");
        assert_eq!(as_typed("exit-node", ""), "--exit-node=");
    }
}
