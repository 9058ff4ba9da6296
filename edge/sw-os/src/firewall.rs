//! Rules of a subnet router or exit node: packets out of the network are marked, let through and given this machine's
//! address (node-services.md §10.2).
//!
//! They live in one nftables table of our own, `inet samewire`, so that removing them is one act and nothing of
//! others is ever touched. `nft` loads them; a machine that offers no routes needs neither rules nor `nft`.

use std::io::{self, Write as _};
use std::path::Path;
use std::process::{Command, Stdio};

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
    /// Whether forwarded packets leave with this machine's address.
    pub masquerade: bool,
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

/// Keeps our table in the wanted state.
#[derive(Debug)]
pub(crate) struct Firewall {
    /// What was loaded last; `None` while that is not known.
    loaded: Option<Option<FirewallConfig>>,
}

impl Firewall {
    /// `has_leftovers`: a crashed process may have left rules behind.
    pub(crate) fn new(has_leftovers: bool) -> Self {
        Self { loaded: (!has_leftovers).then_some(None) }
    }

    pub(crate) fn apply(&mut self, config: Option<&FirewallConfig>) -> Result<(), FirewallError> {
        if self.loaded.as_ref().is_some_and(|loaded| loaded.as_ref() == config) {
            return Ok(());
        }
        match run(&script(config)) {
            // Without nft there cannot be rules of ours either.
            Err(FirewallError::NoNft) if config.is_none() => {}
            result => result?,
        }
        self.loaded = Some(config.cloned());
        Ok(())
    }
}

/// The whole table, in place of what is there. Deleting needs it to be there, hence the line before.
fn script(config: Option<&FirewallConfig>) -> String {
    let mut script = format!("table {TABLE} {{}}\ndelete table {TABLE}\n");
    let Some(FirewallConfig { interface, masquerade }) = config else { return script };
    let others = !MARK_MASK;
    let postrouting = if *masquerade {
        format!("meta mark and {MARK_MASK:#x} == {MARK_SUBNET:#x} masquerade")
    } else {
        String::new()
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

fn run(script: &str) -> Result<(), FirewallError> {
    let nft = NFT.into_iter().find(|path| Path::new(path).exists()).ok_or(FirewallError::NoNft)?;
    let mut child = Command::new(nft)
        .args(["-f", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(FirewallError::Run)?;
    if let Some(mut input) = child.stdin.take() {
        input.write_all(script.as_bytes()).map_err(FirewallError::Run)?;
    }
    let output = child.wait_with_output().map_err(FirewallError::Run)?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
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
    fn the_rules_stand_in_one_table_of_ours() {
        assert_eq!(script(None), "table inet samewire {}\ndelete table inet samewire\n");
        let config = FirewallConfig { interface: "samewire0".to_owned(), masquerade: true };
        let text = script(Some(&config));
        assert!(text.contains("meta mark set meta mark and 0xff00ffff or 0x40000 accept"), "{text}");
        assert!(text.contains("meta mark and 0xff0000 == 0x40000 masquerade"), "{text}");
        let unchanged = script(Some(&FirewallConfig { masquerade: false, ..config }));
        assert!(!unchanged.contains("masquerade"), "{unchanged}");
    }
}
