//! Facts about this machine that are told to the network (node-services.md §16).

use std::fs;
use std::net::SocketAddr;
use std::path::Path;

/// What `Hostinfo` says of the machine.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HostFacts {
    /// First label of the host name.
    pub hostname: String,
    /// Kernel release.
    pub os_version: String,
    pub distro: String,
    pub distro_version: String,
    pub distro_code_name: String,
    /// `uname -m`.
    pub machine: String,
    /// The same in the words of `GoArch`, which servers know.
    pub go_arch: &'static str,
    pub is_container: bool,
    pub device_model: String,
}

/// Reads the facts. What cannot be read stays empty.
pub fn facts() -> HostFacts {
    let uname = rustix::system::uname();
    let hostname = uname.nodename().to_string_lossy();
    let release = fs::read_to_string("/etc/os-release")
        .or_else(|_| fs::read_to_string("/usr/lib/os-release"))
        .unwrap_or_default();
    let model = fs::read_to_string("/sys/firmware/devicetree/base/model").unwrap_or_default();
    HostFacts {
        hostname: hostname.split('.').next().unwrap_or_default().to_owned(),
        os_version: uname.release().to_string_lossy().into_owned(),
        distro: os_release_value(&release, "ID"),
        distro_version: os_release_value(&release, "VERSION_ID"),
        distro_code_name: os_release_value(&release, "VERSION_CODENAME"),
        machine: uname.machine().to_string_lossy().into_owned(),
        go_arch: go_arch(std::env::consts::ARCH),
        is_container: is_container(),
        device_model: model.trim_matches(['\0', '\n']).to_owned(),
    }
}

fn os_release_value(text: &str, key: &str) -> String {
    text.lines()
        .find_map(|line| line.strip_prefix(key)?.strip_prefix('='))
        .unwrap_or_default()
        .trim_matches(['"', '\''])
        .to_owned()
}

fn go_arch(rust_arch: &str) -> &'static str {
    match rust_arch {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        "x86" => "386",
        "arm" => "arm",
        "riscv64" => "riscv64",
        "powerpc64" => "ppc64le",
        "s390x" => "s390x",
        _ => "",
    }
}

fn is_container() -> bool {
    Path::new("/.dockerenv").exists()
        || Path::new("/run/.containerenv").exists()
        || fs::read_to_string("/proc/1/cgroup")
            .is_ok_and(|text| text.contains("/docker/") || text.contains("/lxc/"))
}

/// A process that holds a resource which we wanted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Holder {
    pub pid: u32,
    pub program: String,
}

/// Finds the process that has a UDP or TCP socket bound to `port`, as far as we may look.
pub fn holder_of_port(port: u16) -> Option<Holder> {
    let inodes: Vec<String> = ["udp", "udp6", "tcp", "tcp6"]
        .iter()
        .filter_map(|table| fs::read_to_string(format!("/proc/net/{table}")).ok())
        .flat_map(|text| socket_inodes(&text, port))
        .collect();
    holder_where(|target| inodes.iter().any(|inode| target == format!("socket:[{inode}]")))
}

/// Finds a process with an open TUN of this name, as far as we may look.
pub fn holder_of_tun(name: &str) -> Option<Holder> {
    for process in processes() {
        let Ok(entries) = fs::read_dir(format!("/proc/{process}/fdinfo")) else { continue };
        for entry in entries.flatten() {
            let text = fs::read_to_string(entry.path()).unwrap_or_default();
            let is_holder = text
                .lines()
                .any(|line| line.strip_prefix("iff:").is_some_and(|interface| interface.trim() == name));
            if is_holder {
                return Some(Holder { pid: process, program: program_of(process) });
            }
        }
    }
    None
}

fn socket_inodes(table: &str, port: u16) -> Vec<String> {
    let suffix = format!(":{port:04X}");
    table
        .lines()
        .skip(1)
        .filter_map(|line| {
            let words: Vec<&str> = line.split_whitespace().collect();
            let (local, state, inode) = (words.get(1)?, words.get(3)?, words.get(9)?);
            // 07: unconnected UDP, 0A: listening TCP
            (local.ends_with(&suffix) && matches!(*state, "07" | "0A")).then(|| (*inode).to_owned())
        })
        .collect()
}

fn holder_where(matches: impl Fn(&str) -> bool) -> Option<Holder> {
    for process in processes() {
        let Ok(entries) = fs::read_dir(format!("/proc/{process}/fd")) else { continue };
        for entry in entries.flatten() {
            let Ok(target) = fs::read_link(entry.path()) else { continue };
            if matches(&target.to_string_lossy()) {
                return Some(Holder { pid: process, program: program_of(process) });
            }
        }
    }
    None
}

fn processes() -> Vec<u32> {
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect()
}

fn program_of(pid: u32) -> String {
    fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default().trim().to_owned()
}

/// Returns the user's name of a uid, from the system's user table.
pub fn user_name(uid: u32) -> Option<String> {
    let table = fs::read_to_string("/etc/passwd").ok()?;
    table.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (fields.nth(1)?.parse() == Ok(uid)).then(|| name.to_owned())
    })
}

/// Returns the uid of a user's name, from the system's user table.
pub fn user_id(name: &str) -> Option<u32> {
    let table = fs::read_to_string("/etc/passwd").ok()?;
    table.lines().find_map(|line| {
        let mut fields = line.split(':');
        (fields.next()? == name).then_some(())?;
        fields.nth(1)?.parse().ok()
    })
}

/// Returns the address from which this machine would talk to `target`, without sending anything.
pub fn source_address_for(target: SocketAddr) -> Option<std::net::IpAddr> {
    let any: SocketAddr = if target.is_ipv4() {
        (std::net::Ipv4Addr::UNSPECIFIED, 0).into()
    } else {
        (std::net::Ipv6Addr::UNSPECIFIED, 0).into()
    };
    let socket = std::net::UdpSocket::bind(any).ok()?;
    socket.connect(target).ok()?;
    Some(socket.local_addr().ok()?.ip())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_holder_of_a_port_is_found() {
        let socket = std::net::UdpSocket::bind("127.0.0.1:0").expect("a free port");
        let port = socket.local_addr().expect("bound").port();
        assert_eq!(holder_of_port(port).expect("we hold it").pid, std::process::id());
    }

    #[test]
    fn os_release_values_lose_their_quotes() {
        assert_eq!(os_release_value("NAME=x\nID=\"debian\"\n", "ID"), "debian");
        assert_eq!(os_release_value("VERSION_ID=12\n", "ID"), "");
    }

    #[test]
    fn root_is_found_both_ways() {
        assert_eq!(user_id("root"), Some(0));
        assert_eq!(user_name(0).as_deref(), Some("root"));
    }
}
