//! Whose software runs on a machine: the same words start ours and the official one, so tests take it as a parameter.

use std::path::Path;
use std::process::Command;

use serde::{Deserialize, Serialize};

use crate::LabError;
use crate::namespace::command_in;
use crate::programs::Programs;

/// UDP port of every node, that of official clients.
const NODE_PORT: &str = "41641";

/// Whose programs run on a machine of the lab.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Software {
    /// This program.
    #[default]
    Samewire,
    /// `tailscaled` and `tailscale`; as a server Headscale with `derper`.
    Official,
    /// Nothing: a plain machine.
    None,
}

impl Software {
    /// Returns the word used in files, tables and JSON.
    pub fn word(self) -> &'static str {
        match self {
            Self::Samewire => "samewire",
            Self::Official => "official",
            Self::None => "none",
        }
    }

    /// Returns the name of the node's TUN device.
    pub fn tun(self) -> &'static str {
        match self {
            Self::Samewire => "samewire0",
            Self::Official => "tailscale0",
            Self::None => "",
        }
    }

    /// Returns the command that runs the node's daemon in `namespace` with its files in `dir`.
    pub(crate) fn daemon(
        self,
        programs: &Programs,
        namespace: &str,
        dir: &Path,
    ) -> Result<Command, LabError> {
        let (state, socket) = (dir.join("state"), dir.join("daemon.sock"));
        let mut command = match self {
            Self::Samewire => {
                let mut command = command_in(namespace, &programs.samewire)?;
                command.arg("daemon");
                command
            }
            Self::Official => {
                let mut command = command_in(namespace, programs.official_node()?.0)?;
                command.arg("--no-logs-no-support");
                command
            }
            Self::None => return Err(runs_nothing()),
        };
        command.arg("--statedir").arg(state).arg("--socket").arg(socket);
        command.args(["--tun", self.tun(), "--port", NODE_PORT]);
        // nft is what the lab needs anyway; iptables may not be there.
        command.env("TS_DEBUG_FIREWALL_MODE", "nftables").env("HOME", dir);
        // The one word of the environment that daemons of a lab should hear.
        if let Some(filter) = std::env::var_os("SAMEWIRE_LOG") {
            command.env("SAMEWIRE_LOG", filter);
        }
        Ok(command)
    }

    /// Returns the command line program, talking to the daemon whose files are in `dir`.
    pub(crate) fn command_line(
        self,
        programs: &Programs,
        namespace: &str,
        dir: &Path,
    ) -> Result<Command, LabError> {
        let program = match self {
            Self::Samewire => programs.samewire.as_path(),
            Self::Official => programs.official_node()?.1,
            Self::None => return Err(runs_nothing()),
        };
        let mut command = command_in(namespace, program)?;
        command.arg("--socket").arg(dir.join("daemon.sock")).env("HOME", dir);
        Ok(command)
    }
}

fn runs_nothing() -> LabError {
    LabError::new("lab-no-software", "nothing runs on this machine.")
        .fix("give it software = \"samewire\" in the lab's file")
}
