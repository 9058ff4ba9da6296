//! The description of a lab as people write it: a TOML file of sites, machines and a server.

use std::collections::BTreeSet;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::LabError;
use crate::nat::Nat;
use crate::software::Software;

/// The name by which machines and sites say that they hang on the Internet itself.
pub(crate) const INTERNET: &str = "internet";

/// Most sites, and most machines; each has a network of its own in a documentation range.
const PARTS_MAX: usize = 60;

/// Longest name of a machine or site.
const NAME_LEN_MAX: usize = 24;

/// A whole lab.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Topology {
    /// Name of the lab: lower-case letters and digits.
    pub name: String,
    /// The server of the network, on a public address.
    pub server: Option<ServerSpec>,
    /// Routers, each with the private network behind it.
    #[serde(default)]
    pub site: Vec<SiteSpec>,
    /// Machines.
    #[serde(default)]
    pub machine: Vec<MachineSpec>,
}

/// The machine that runs the server and a relay.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct ServerSpec {
    /// Name of the machine.
    pub name: String,
    /// Whose server runs there.
    #[serde(default)]
    pub software: Software,
    /// Where its relay runs.
    #[serde(default)]
    pub relay: RelayProcess,
    /// Also reachable over IPv6.
    #[serde(default)]
    pub ipv6: bool,
    /// Its cable to the Internet.
    #[serde(default)]
    pub link: LinkQuality,
}

/// Where the relay of our server runs; Headscale's is always a program of its own.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum RelayProcess {
    /// In the server, as for most people.
    #[default]
    BuiltIn,
    /// As `samewire relay` on the same machine, so that either can end without the other.
    Separate,
}

impl ServerSpec {
    /// Returns a server with IPv4 and its relay built in.
    pub fn new(name: &str, software: Software) -> Self {
        let (relay, link) = (RelayProcess::BuiltIn, LinkQuality::default());
        Self { name: name.to_owned(), software, relay, ipv6: false, link }
    }
}

/// Whether a site lets UDP out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Udp {
    /// UDP flows as the NAT allows.
    #[default]
    Open,
    /// No UDP in either direction.
    Blocked,
}

/// A protocol by which machines ask their router for an open port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum PortMapping {
    /// Port Control Protocol, RFC 6887.
    Pcp,
    /// NAT-PMP, RFC 6886.
    NatPmp,
    /// UPnP Internet Gateway Device, version 1.
    Upnp,
}

impl PortMapping {
    /// Returns the word used in files and on command lines.
    pub fn word(self) -> &'static str {
        match self {
            Self::Pcp => "pcp",
            Self::NatPmp => "nat-pmp",
            Self::Upnp => "upnp",
        }
    }
}

/// A router and the private network behind it.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct SiteSpec {
    /// Name of the site.
    pub name: String,
    /// What its router does to flows from the inside.
    #[serde(default)]
    pub nat: Nat,
    /// The site in whose network the router hangs; the Internet when absent. Two in a row are a carrier's NAT over a home's.
    pub upstream: Option<String>,
    /// Whether UDP gets out.
    #[serde(default)]
    pub udp: Udp,
    /// Port mapping protocols that the router answers.
    #[serde(default)]
    pub port_mapping: Vec<PortMapping>,
    /// Whether the outside address works from the inside.
    #[serde(default)]
    pub hairpin: bool,
    /// Whether the site has IPv6, with a firewall that lets only answers in.
    #[serde(default)]
    pub ipv6: bool,
    /// Its cable to the outside.
    #[serde(default)]
    pub link: LinkQuality,
}

/// A machine that joins the network.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct MachineSpec {
    /// Name of the machine, also its name in the network.
    pub name: String,
    /// The sites where it can be plugged in, or `internet`; it starts at the first.
    #[serde(default = "at_the_internet")]
    pub at: Vec<String>,
    /// What runs there.
    #[serde(default)]
    pub software: Software,
    /// Whether it has a firewall of its own that lets only answers in.
    #[serde(default)]
    pub firewall: bool,
    /// Whether it has IPv4.
    #[serde(default = "yes")]
    pub ipv4: bool,
    /// Whether it has IPv6 (the site must have it too).
    #[serde(default)]
    pub ipv6: bool,
    /// Its cable.
    #[serde(default)]
    pub link: LinkQuality,
}

fn yes() -> bool {
    true
}

fn at_the_internet() -> Vec<String> {
    vec![INTERNET.to_owned()]
}

/// What a cable does to packets, in each direction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct LinkQuality {
    /// Delay of every packet, milliseconds.
    pub delay_ms: u32,
    /// Most that is added to the delay at random, milliseconds. Order is kept.
    pub jitter_ms: u32,
    /// Packets lost, percent.
    pub loss_percent: f64,
    /// Packets that overtake the delay and so arrive early, percent.
    pub reorder_percent: f64,
}

impl LinkQuality {
    /// Tells whether the cable needs the userspace link, since the kernel alone cannot delay.
    pub(crate) fn needs_delay(self) -> bool {
        self.delay_ms > 0 || self.jitter_ms > 0
    }
}

impl MachineSpec {
    /// Returns a machine with IPv4 at `place` that runs `software`.
    pub fn new(name: &str, place: &str, software: Software) -> Self {
        Self {
            name: name.to_owned(),
            at: vec![place.to_owned()],
            software,
            firewall: false,
            ipv4: true,
            ipv6: false,
            link: LinkQuality::default(),
        }
    }
}

impl SiteSpec {
    /// Returns a site on the Internet with `nat`.
    pub fn new(name: &str, nat: Nat) -> Self {
        Self {
            name: name.to_owned(),
            nat,
            upstream: None,
            udp: Udp::Open,
            port_mapping: Vec::new(),
            hairpin: false,
            ipv6: false,
            link: LinkQuality::default(),
        }
    }
}

impl Topology {
    /// Reads a lab from a TOML file.
    ///
    /// # Errors
    /// The file cannot be read, is not TOML of this shape, or describes something impossible.
    pub fn read(path: &Path) -> Result<Self, LabError> {
        let unread = |why: String| {
            LabError::new("lab-topology", format!("the lab \"{}\" cannot be read.", path.display()))
                .why(why)
                .fix("samewire lab up --help shows a file that works")
                .exit_code(2)
        };
        let text = std::fs::read_to_string(path).map_err(|e| unread(e.to_string()))?;
        let topology: Self =
            toml::from_str(&text).map_err(|e| unread(e.to_string().trim_end().replace('\n', "\n       ")))?;
        topology.validate().map_err(unread)?;
        Ok(topology)
    }

    /// Checks names, places and numbers; the error says what is wrong in one sentence.
    pub(crate) fn validate(&self) -> Result<(), String> {
        if self.name.is_empty()
            || self.name.len() > 12
            || !self.name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit())
        {
            return Err(format!(
                "the name \"{}\" must be 1 to 12 lower-case letters and digits",
                self.name.escape_default()
            ));
        }
        if self.site.len() > PARTS_MAX || self.machine.len() > PARTS_MAX {
            return Err(format!("a lab has at most {PARTS_MAX} sites and {PARTS_MAX} machines"));
        }
        let mut names = BTreeSet::from([INTERNET]);
        let machines = self.machine.iter().map(|m| m.name.as_str());
        for name in self
            .server
            .iter()
            .map(|s| s.name.as_str())
            .chain(self.site.iter().map(|s| s.name.as_str()))
            .chain(machines)
        {
            check_name(name)?;
            if !names.insert(name) {
                return Err(format!("the name \"{name}\" is used twice"));
            }
        }
        self.site.iter().try_for_each(|site| self.validate_site(site))?;
        self.machine.iter().try_for_each(|machine| self.validate_machine(machine))
    }

    fn validate_site(&self, site: &SiteSpec) -> Result<(), String> {
        check_quality(&site.name, site.link)?;
        let Some(upstream) = &site.upstream else { return Ok(()) };
        let Some(outer) = self.site(upstream) else {
            return Err(format!("\"{}\" hangs at \"{upstream}\", which is no site", site.name));
        };
        if outer.upstream.is_some() {
            return Err(format!("\"{}\" would be the third router in a row; two are the most", site.name));
        }
        if site.ipv6 {
            return Err(format!("\"{}\" hangs behind another router and has no IPv6", site.name));
        }
        Ok(())
    }

    fn validate_machine(&self, machine: &MachineSpec) -> Result<(), String> {
        check_quality(&machine.name, machine.link)?;
        if machine.at.is_empty() || machine.at.len() > 4 {
            return Err(format!("\"{}\" must name one to four places under at", machine.name));
        }
        if !machine.ipv4 && !machine.ipv6 {
            return Err(format!("\"{}\" has neither IPv4 nor IPv6", machine.name));
        }
        for place in &machine.at {
            let site = self.site(place);
            if site.is_none() && place != INTERNET {
                return Err(format!("\"{}\" is at \"{place}\", which is no site", machine.name));
            }
            if machine.ipv6 && site.is_some_and(|s| !s.ipv6) {
                return Err(format!("\"{}\" has IPv6, but \"{place}\" has none", machine.name));
            }
        }
        Ok(())
    }

    /// Returns the site of that name.
    pub(crate) fn site(&self, name: &str) -> Option<&SiteSpec> {
        self.site.iter().find(|s| s.name == name)
    }
}

fn check_name(name: &str) -> Result<(), String> {
    let good = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    if name.is_empty() || name.len() > NAME_LEN_MAX || !name.bytes().all(good) || name.starts_with('-') {
        return Err(format!(
            "the name \"{}\" must be 1 to {NAME_LEN_MAX} lower-case letters, digits and hyphens",
            name.escape_default()
        ));
    }
    Ok(())
}

fn check_quality(name: &str, link: LinkQuality) -> Result<(), String> {
    if link.delay_ms > 10_000 || link.jitter_ms > 10_000 {
        return Err(format!("the link of \"{name}\" is slower than 10 s"));
    }
    for percent in [link.loss_percent, link.reorder_percent] {
        if !(0.0..=100.0).contains(&percent) {
            return Err(format!("the link of \"{name}\" has a percentage outside 0 to 100"));
        }
    }
    if link.reorder_percent > 0.0 && !link.needs_delay() {
        return Err(format!("the link of \"{name}\" can reorder only with delay-ms"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<(), String> {
        let topology: Topology = toml::from_str(text).map_err(|e| e.to_string())?;
        topology.validate()
    }

    #[test]
    fn a_file_with_every_key_is_read() {
        let text = r#"
            name = "trial"
            [server]
            name = "hub"
            software = "samewire"
            [[site]]
            name = "isp"
            nat = "easy-af"
            [[site]]
            name = "flat"
            nat = "hard"
            upstream = "isp"
            udp = "blocked"
            port-mapping = ["pcp", "nat-pmp", "upnp"]
            hairpin = true
            link = { delay-ms = 20, jitter-ms = 2, loss-percent = 0.5, reorder-percent = 1 }
            [[machine]]
            name = "alder"
            at = ["flat", "internet"]
            software = "official"
            firewall = true
        "#;
        assert_eq!(parse(text), Ok(()));
    }

    #[test]
    fn impossible_labs_are_refused_with_a_sentence() {
        let cases = [
            ("name = 'Big'", "must be 1 to 12"),
            ("name = 'x'\n[[machine]]\nname = 'a'\nat = ['moon']", "which is no site"),
            ("name = 'x'\n[[site]]\nname = 'a'\n[[machine]]\nname = 'a'", "used twice"),
            ("name = 'x'\n[[machine]]\nname = 'a'\nipv4 = false", "neither IPv4 nor IPv6"),
            ("name = 'x'\n[[machine]]\nname = 'a'\nlink = { loss-percent = 120 }", "outside 0 to 100"),
            ("name = 'x'\n[[machine]]\nname = 'a'\nlink = { reorder-percent = 1 }", "only with delay-ms"),
            ("name = 'x'\n[[machine]]\nname = '../a'", "must be 1 to 24"),
            ("name = 'x'\ncolour = 1", "unknown field"),
        ];
        for (text, sentence) in cases {
            let error = parse(text).expect_err(text);
            assert!(error.contains(sentence), "{text}: {error}");
        }
    }
}
