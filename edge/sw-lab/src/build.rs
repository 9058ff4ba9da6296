//! Makes a plan real: namespaces, cables, addresses, NATs and the helpers that serve them.

use std::fmt::Write as _;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Command, Stdio};

use crate::leftovers::run_dir;
use crate::namespace::{NETNS_ETC_DIR, command_in, ip_batch, name_of, nft, sysctl};
use crate::plan::{Plan, Responder, Room, UPNP_PORT};
use crate::server::host_name;
use crate::{Interrupt, LabError, cable, stand_in};

/// Builds the rooms of `plan`. What was made before an error is removed by the caller.
///
/// # Errors
/// No root, a missing program, a kernel that lacks a part, or the interrupt.
pub(crate) fn build(
    (lab, server): (&str, Option<&str>),
    plan: &Plan,
    samewire: &Path,
    interrupt: &Interrupt,
) -> Result<(), LabError> {
    check_root()?;
    write_etc_files(lab, plan, server)?;
    let spaces: Vec<String> =
        plan.rooms.iter().map(|r| format!("netns add {}", name_of(lab, &r.name))).collect();
    ip_batch(None, &spaces)?;
    for room in &plan.rooms {
        interrupt.check()?;
        sysctl(&name_of(lab, &room.name), &kernel_settings(room))?;
    }
    let (delayed, plain): (Vec<_>, Vec<_>) = plan.cables.iter().partition(|c| c.quality.needs_delay());
    let mut lines = Vec::new();
    for cable in plain {
        let [a, b] = &cable.ends;
        let (space_a, space_b) = (name_of(lab, &a.room), name_of(lab, &b.room));
        lines.push(format!(
            "link add {} netns {space_a} type veth peer name {} netns {space_b}",
            a.interface, b.interface
        ));
    }
    ip_batch(None, &lines)?;
    cable::start(samewire, lab, &delayed)?;
    for room in &plan.rooms {
        interrupt.check()?;
        configure(lab, room)?;
        if let Some(responder) = &room.responder {
            start_responder(samewire, lab, &room.name, responder)?;
        }
    }
    Ok(())
}

/// Applies addresses, routes and rules of one room.
pub(crate) fn configure(lab: &str, room: &Room) -> Result<(), LabError> {
    let space = name_of(lab, &room.name);
    let mut lines = vec!["link set lo up".to_owned()];
    lines.extend(room.ip_lines.iter().cloned());
    ip_batch(Some(&space), &lines)?;
    nft(&space, &room.nft)
}

/// Forgets all that the NAT of a room has learnt, mapped ports included.
pub(crate) fn reset_nat(lab: &str, room: &Room) -> Result<(), LabError> {
    let space = name_of(lab, &room.name);
    if room.forwards && !room.nft.is_empty() {
        nft(&space, &format!("flush ruleset\n{}", room.nft))?;
        crate::conntrack::flush(&space)?;
    }
    Ok(())
}

fn check_root() -> Result<(), LabError> {
    if rustix::process::geteuid().is_root() {
        return Ok(());
    }
    Err(LabError::new("no-permission", "the lab needs root, to make network namespaces.")
        .why(format!("this is the user with number {}", rustix::process::geteuid().as_raw()))
        .fix("sudo samewire lab, with the same words")
        .exit_code(4))
}

/// Settings of every room: no addresses by themselves, no filtering inside bridges.
fn kernel_settings(room: &Room) -> Vec<(&'static str, &'static str)> {
    let mut settings = vec![
        ("net.ipv6.conf.all.accept_ra", "0"),
        ("net.ipv6.conf.default.accept_ra", "0"),
        ("net.ipv6.conf.default.accept_dad", "0"),
        ("net.bridge.bridge-nf-call-iptables", "0"),
        ("net.bridge.bridge-nf-call-ip6tables", "0"),
        ("net.ipv4.ping_group_range", "0 2147483647"),
    ];
    if room.forwards {
        settings.push(("net.ipv4.ip_forward", "1"));
        settings.push(("net.ipv6.conf.all.forwarding", "1"));
        // Fast refusals matter in a lab, where everybody is one hop away.
        settings.push(("net.ipv4.icmp_ratelimit", "0"));
    }
    settings
}

/// Gives every room its own resolver files, so that no machine of the lab writes those of the host.
fn write_etc_files(lab: &str, plan: &Plan, server: Option<&str>) -> Result<(), LabError> {
    let failed = |e: std::io::Error| {
        LabError::new("lab-files", "the files of the lab cannot be written.").why(e.to_string())
    };
    std::fs::create_dir_all(run_dir(lab)).map_err(failed)?;
    let mut hosts = String::from("127.0.0.1 localhost\n::1 localhost\n");
    for address in server.map(|s| plan.addresses(s)).unwrap_or_default() {
        let _ = writeln!(hosts, "{address} {}", host_name(server.unwrap_or_default()));
    }
    for room in &plan.rooms {
        let dir = Path::new(NETNS_ETC_DIR).join(name_of(lab, &room.name));
        std::fs::create_dir_all(&dir).map_err(failed)?;
        std::fs::write(dir.join("resolv.conf"), stand_in::ROOM_TEXT).map_err(failed)?;
        std::fs::write(dir.join("hosts"), &hosts).map_err(failed)?;
        std::fs::write(dir.join("nsswitch.conf"), "hosts: files dns\n").map_err(failed)?;
    }
    stand_in::put().map_err(failed)
}

fn start_responder(samewire: &Path, lab: &str, room: &str, responder: &Responder) -> Result<(), LabError> {
    let mut command = command_in(&name_of(lab, room), samewire)?;
    command.args(["lab", "port-mapper", "--outside", &responder.outside.to_string()]);
    command.args(["--inside", &responder.inside.to_string(), "--upnp-port", &UPNP_PORT.to_string()]);
    for protocol in &responder.protocols {
        command.args(["--protocol", protocol.word()]);
    }
    spawn_in_background(&mut command, &run_dir(lab).join(format!("{room}.port-mapper.log"))).map(drop)
}

/// Starts a program of the lab with its output in a file, out of reach of the terminal's Ctrl-C.
///
/// # Errors
/// The file or the program could not be made.
pub(crate) fn spawn_in_background(
    command: &mut Command,
    log: &Path,
) -> Result<std::process::Child, LabError> {
    let failed = |e: std::io::Error| {
        LabError::new("lab-program-failed", format!("\"{}\" could not be started.", command_line(command)))
            .why(e.to_string())
    };
    let file = std::fs::File::options().create(true).append(true).open(log).map_err(failed)?;
    let copy = file.try_clone().map_err(failed)?;
    command.stdin(Stdio::null()).stdout(file).stderr(copy).process_group(0);
    command.spawn().map_err(|e| {
        LabError::new("lab-program-failed", format!("\"{}\" could not be started.", command_line(command)))
            .why(e.to_string())
    })
}

fn command_line(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words.map(|w| w.to_string_lossy().into_owned()).collect::<Vec<_>>().join(" ")
}
