//! systemd-resolved, by its own command `resolvectl`, which speaks to it over the system bus.

use std::net::IpAddr;
use std::path::Path;

use super::{DnsConfig, DnsError, ResolvConf, is_installed, run};

/// Whether the resolver is really the one that answers: all nameservers are its stub address.
pub(super) fn is_in_use(file: &ResolvConf) -> bool {
    let stub: IpAddr = [127, 0, 0, 53].into();
    !file.nameservers.is_empty()
        && file.nameservers.iter().all(|address| *address == stub)
        && is_installed("resolvectl")
        && Path::new("/run/systemd/resolve").exists()
}

pub(super) fn apply(interface: &str, config: &DnsConfig) -> Result<(), DnsError> {
    let addresses: Vec<String> = config.nameservers.iter().map(IpAddr::to_string).collect();
    let mut arguments = vec!["dns", interface];
    arguments.extend(addresses.iter().map(String::as_str));
    run("resolvectl", &arguments, "")?;

    let matched = config.match_domains.iter().map(|domain| format!("~{domain}"));
    let mut domains: Vec<String> = config.search_domains.iter().cloned().chain(matched).collect();
    if config.match_domains.is_empty() && !config.nameservers.is_empty() {
        domains.push("~.".to_owned());
    }
    let mut arguments = vec!["domain", interface];
    arguments.extend(domains.iter().map(String::as_str));
    run("resolvectl", &arguments, "")?;

    let is_default = if config.match_domains.is_empty() { "yes" } else { "no" };
    // Older releases know only some of these; names resolve all the same.
    for arguments in [
        ["default-route", interface, is_default],
        ["llmnr", interface, "no"],
        ["mdns", interface, "no"],
        ["dnssec", interface, "no"],
        ["dnsovertls", interface, "no"],
    ] {
        let _tolerated = run("resolvectl", &arguments, "");
    }
    let _tolerated = run("resolvectl", &["flush-caches"], "");
    Ok(())
}

pub(super) fn restore(interface: &str) -> Result<(), DnsError> {
    if Path::new("/sys/class/net").join(interface).exists() {
        return run("resolvectl", &["revert", interface], "");
    }
    Ok(()) // the settings went with the interface
}
