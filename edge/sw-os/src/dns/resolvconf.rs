//! The program `resolvconf`, in its two flavours.

use std::fs;

use super::resolv_conf::render;
use super::{DnsConfig, DnsError, is_installed, run};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Flavour {
    Debian,
    Openresolv,
}

/// The record's name; Debian's program orders records by such names, tunnels first.
const DEBIAN_RECORD: &str = "tun-samewire.inet";
const OPENRESOLV_RECORD: &str = "samewire";

/// Returns the flavour that is installed.
pub(super) fn installed_flavour() -> Option<Flavour> {
    if !is_installed("resolvconf") {
        return None;
    }
    // Debian's program is a script that knows /etc/resolvconf/run; openresolv has its configuration in one file.
    let is_openresolv = fs::metadata("/etc/resolvconf.conf").is_ok();
    Some(if is_openresolv { Flavour::Openresolv } else { Flavour::Debian })
}

pub(super) fn apply(flavour: Flavour, config: &DnsConfig) -> Result<(), DnsError> {
    let text = render(config);
    match flavour {
        Flavour::Debian => run("resolvconf", &["-a", DEBIAN_RECORD], &text),
        Flavour::Openresolv => run("resolvconf", &["-m", "0", "-x", "-a", OPENRESOLV_RECORD], &text),
    }
}

pub(super) fn restore(flavour: Flavour) -> Result<(), DnsError> {
    match flavour {
        Flavour::Debian => run("resolvconf", &["-d", DEBIAN_RECORD], ""),
        Flavour::Openresolv => run("resolvconf", &["-f", "-d", OPENRESOLV_RECORD], ""),
    }
}
