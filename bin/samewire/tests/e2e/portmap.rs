//! Machines behind routers that give ports on request.

use sw_lab::{MachineSpec, Nat, PortMapping, SiteSpec};

use crate::scene::{SAMEWIRE, SOON, missing, scene};

/// Two machines behind hard NATs never meet by themselves; with a port of one router they do.
fn a_port_opens_a_hard_nat(lab: &str, service: PortMapping) {
    if missing(lab, &[SAMEWIRE], SAMEWIRE) {
        return;
    }
    let mut home = SiteSpec::new("home", Nat::Hard);
    home.port_mapping = vec![service];
    let sites = vec![home, SiteSpec::new("office", Nat::Hard)];
    let machines =
        vec![MachineSpec::new("alder", "home", SAMEWIRE), MachineSpec::new("birch", "office", SAMEWIRE)];
    let mut scene = scene(lab, SAMEWIRE, sites, machines);
    scene.join("alder");
    scene.join("birch");
    scene.until_direct(SOON, "alder", "birch");
    scene.until_direct(SOON, "birch", "alder");
}

#[test]
fn hard_with_hard_is_direct_by_pcp() {
    a_port_opens_a_hard_nat("pcp", PortMapping::Pcp);
}

#[test]
fn hard_with_hard_is_direct_by_nat_pmp() {
    a_port_opens_a_hard_nat("pmp", PortMapping::NatPmp);
}

#[test]
fn hard_with_hard_is_direct_by_upnp() {
    a_port_opens_a_hard_nat("upnp", PortMapping::Upnp);
}
