//! Packet filter rules: packets of the network are let in; those that a subnet router or exit node passes on are
//! marked and given this machine's address (node-services.md §10.2).
//!
//! Marks, masquerade and drops live in one nftables table of our own, `inet samewire`, so that removing them is one
//! act. An accept there does not overrule a drop in a chain of somebody else (ufw, docker, firewalld): into such
//! chains go accept rules with our comment, and only those are ever removed. `nft` loads everything in one
//! transaction; a machine without it that offers no routes goes without rules.

mod foreign;

use std::io::{self, Write as _};
use std::path::Path;
use std::process::{Command, Output, Stdio};

use thiserror::Error;

use crate::router::{MARK_MASK, MARK_SUBNET};

const TABLE: &str = "inet samewire";
/// Where packet filters of a distribution live; `PATH` of a service may leave them out.
const NFT: [&str; 3] = ["/usr/sbin/nft", "/sbin/nft", "/usr/bin/nft"];

/// What the rules shall do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FirewallConfig {
    /// The TUN interface.
    pub interface: String,
    /// UDP port at which peers reach this machine.
    pub port: u16,
    /// Set on a machine that passes packets on.
    pub forwarding: Option<Forwarded>,
    /// Whether rules may go into the chains of others (`NetfilterMode` on).
    pub diverts: bool,
}

/// How forwarded packets leave this machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Forwarded {
    /// With its own address.
    Masqueraded,
    /// With the sender's.
    Unchanged,
}

/// Why the rules could not be brought into the wanted state.
#[derive(Debug, Error)]
pub enum FirewallError {
    #[error("nft is not installed; it keeps the rules of subnet routers and exit nodes")]
    NoNft,
    #[error("nft could not be run")]
    Run(#[source] io::Error),
    #[error("nft refused the rules: {0}")]
    Refused(String),
}

/// Keeps our rules in the wanted state.
#[derive(Debug)]
pub(crate) struct Firewall {
    /// Names the daemon whose rules these are.
    interface: String,
    /// What was loaded last; `None` while that is not known.
    loaded: Option<Option<FirewallConfig>>,
}

impl Firewall {
    /// `has_leftovers`: a crashed process may have left rules behind.
    pub(crate) fn new(interface: &str, has_leftovers: bool) -> Self {
        Self { interface: interface.to_owned(), loaded: (!has_leftovers).then_some(None) }
    }

    /// Brings the rules about. Called again with the same, it looks whether somebody loaded their own anew.
    pub(crate) fn apply(&mut self, config: Option<&FirewallConfig>) -> Result<(), FirewallError> {
        let is_loaded = self.loaded.as_ref().is_some_and(|loaded| loaded.as_ref() == config);
        if is_loaded && config.is_none_or(|config| !config.diverts) {
            return Ok(());
        }
        let is_needed = config.is_some_and(|config| config.forwarding.is_some());
        let others = match foreign::chains(&self.interface) {
            Ok(chains) => chains,
            Err(error) => {
                tracing::debug!(%error, "chains of others");
                Vec::new()
            }
        };
        let mut script = foreign::script(&others, config, is_loaded);
        if !is_loaded {
            script.push_str(&own_table(config));
        }
        match run(&script) {
            Err(error) if !is_needed => tracing::debug!(%error, "packet filter rules"),
            result => result?,
        }
        self.loaded = Some(config.cloned());
        Ok(())
    }
}

/// The whole table, in place of what is there. Deleting needs it to be there, hence the line before.
fn own_table(config: Option<&FirewallConfig>) -> String {
    let mut script = format!("table {TABLE} {{}}\ndelete table {TABLE}\n");
    let Some(FirewallConfig { interface, forwarding: Some(forwarded), .. }) = config else { return script };
    let others = !MARK_MASK;
    let postrouting = match forwarded {
        Forwarded::Masqueraded => format!("meta mark and {MARK_MASK:#x} == {MARK_SUBNET:#x} masquerade"),
        Forwarded::Unchanged => String::new(),
    };
    script.push_str(&format!(
        "table {TABLE} {{\n\
         chain forward {{\n\
         type filter hook forward priority filter; policy accept;\n\
         iifname \"{interface}\" meta mark set meta mark and {others:#x} or {MARK_SUBNET:#x} accept\n\
         oifname \"{interface}\" ip saddr 100.64.0.0/10 drop\n\
         }}\n\
         chain postrouting {{\n\
         type nat hook postrouting priority srcnat; policy accept;\n\
         {postrouting}\n\
         }}\n\
         }}\n"
    ));
    script
}

/// Loads a script in one transaction; an empty one is nothing to do.
fn run(script: &str) -> Result<(), FirewallError> {
    if script.is_empty() {
        return Ok(());
    }
    nft(&["-f", "-"], script).map(drop)
}

/// Runs `nft` and returns what it printed.
fn nft(arguments: &[&str], input: &str) -> Result<Vec<u8>, FirewallError> {
    let path = NFT.into_iter().find(|path| Path::new(path).exists()).ok_or(FirewallError::NoNft)?;
    let mut child = Command::new(path)
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(FirewallError::Run)?;
    if let Some(mut stdin) = child.stdin.take() {
        stdin.write_all(input.as_bytes()).map_err(FirewallError::Run)?;
    }
    let Output { status, stdout, stderr } = child.wait_with_output().map_err(FirewallError::Run)?;
    if status.success() {
        return Ok(stdout);
    }
    let said = String::from_utf8_lossy(&stderr);
    Err(FirewallError::Refused(said.lines().next().unwrap_or_default().to_owned()))
}

/// Whether the kernel passes packets on, for IPv4 and IPv6; `None` where that cannot be read.
pub fn forwards_packets() -> [Option<bool>; 2] {
    ["/proc/sys/net/ipv4/ip_forward", "/proc/sys/net/ipv6/conf/all/forwarding"]
        .map(|path| std::fs::read_to_string(path).ok().map(|text| text.trim() == "1"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks_and_masquerade_stand_in_one_table_of_ours() {
        let empty = "table inet samewire {}\ndelete table inet samewire\n";
        assert_eq!(own_table(None), empty);
        let config = FirewallConfig {
            interface: "samewire0".to_owned(),
            port: 41641,
            forwarding: Some(Forwarded::Masqueraded),
            diverts: true,
        };
        let text = own_table(Some(&config));
        assert!(text.contains("meta mark set meta mark and 0xff00ffff or 0x40000 accept"), "{text}");
        assert!(text.contains("meta mark and 0xff0000 == 0x40000 masquerade"), "{text}");
        let unchanged =
            own_table(Some(&FirewallConfig { forwarding: Some(Forwarded::Unchanged), ..config.clone() }));
        assert!(!unchanged.contains("masquerade"), "{unchanged}");
        assert_eq!(own_table(Some(&FirewallConfig { forwarding: None, ..config })), empty);
    }
}
