//! The machine's name resolution: pointed at the node's own resolver while it runs, restored on every exit
//! (node-services.md §2.9).
//!
//! Three ways, in this order: systemd-resolved (per link, split DNS), a `resolvconf` program, a plain
//! `/etc/resolv.conf`. In a network namespace whose `resolv.conf` is the one of the whole machine nothing is
//! changed, since the names would not resolve for anybody outside.

mod direct;
mod resolv_conf;
mod resolvconf;
mod resolved;

use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use thiserror::Error;

pub use self::resolv_conf::ResolvConf;

/// What the machine shall use to resolve names. Names have no final dot.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct DnsConfig {
    pub nameservers: Vec<IpAddr>,
    pub search_domains: Vec<String>,
    /// Suffixes for which `nameservers` are asked; empty means all names.
    pub match_domains: Vec<String>,
}

impl DnsConfig {
    /// Whether nothing at all is wanted, so the machine keeps (or gets back) its own settings.
    pub fn is_empty(&self) -> bool {
        self.nameservers.is_empty() && self.search_domains.is_empty()
    }
}

/// How name resolution of this machine is set.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum DnsMode {
    SystemdResolved,
    DebianResolvconf,
    Openresolv,
    Direct,
    /// Not ours to change.
    Untouched,
}

/// Why the settings could not be changed.
#[derive(Debug, Error)]
pub enum DnsError {
    #[error("{path}: {source}")]
    File { path: PathBuf, source: io::Error },
    #[error("{program} could not be run: {source}")]
    Run { program: &'static str, source: io::Error },
    #[error("{program} {arguments}: {message}")]
    Refused { program: &'static str, arguments: String, message: String },
}

/// Applies [`DnsConfig`]s and undoes them.
#[derive(Debug)]
pub struct Dns {
    mode: DnsMode,
    interface: String,
    root: PathBuf,
    is_applied: bool,
}

impl Dns {
    /// Finds out how this machine resolves names. `interface` is the TUN's name.
    pub fn detect(interface: &str) -> Self {
        Self::with_root(interface, Path::new("/"))
    }

    fn with_root(interface: &str, root: &Path) -> Self {
        let mode = detect_mode(root);
        Self { mode, interface: interface.to_owned(), root: root.to_owned(), is_applied: false }
    }

    /// Returns the way that is used.
    pub fn mode(&self) -> DnsMode {
        self.mode
    }

    /// Whether names outside `match_domains` keep going to the machine's own resolvers.
    pub fn can_split(&self) -> bool {
        self.mode == DnsMode::SystemdResolved
    }

    /// Returns the nameservers and search domains that hold without us.
    pub fn base(&self) -> ResolvConf {
        let mut base = ResolvConf::parse(&direct::original(&self.root));
        base.nameservers.retain(|address| !is_own_resolver(*address));
        base
    }

    /// Brings the settings into the state of `config`; an empty one restores what was there before.
    pub fn apply(&mut self, config: &DnsConfig) -> Result<(), DnsError> {
        if config.is_empty() {
            return if self.is_applied { self.restore() } else { Ok(()) };
        }
        match self.mode {
            DnsMode::SystemdResolved => resolved::apply(&self.interface, config)?,
            DnsMode::DebianResolvconf => resolvconf::apply(resolvconf::Flavour::Debian, config)?,
            DnsMode::Openresolv => resolvconf::apply(resolvconf::Flavour::Openresolv, config)?,
            DnsMode::Direct => direct::apply(&self.root, config)?,
            DnsMode::Untouched => {}
        }
        self.is_applied = true;
        Ok(())
    }

    /// Undoes every change; also right after a crash of an earlier process.
    pub fn restore(&mut self) -> Result<(), DnsError> {
        match self.mode {
            DnsMode::SystemdResolved => resolved::restore(&self.interface)?,
            DnsMode::DebianResolvconf => resolvconf::restore(resolvconf::Flavour::Debian)?,
            DnsMode::Openresolv => resolvconf::restore(resolvconf::Flavour::Openresolv)?,
            DnsMode::Direct => direct::restore(&self.root)?,
            DnsMode::Untouched => {}
        }
        self.is_applied = false;
        Ok(())
    }

    /// Whether somebody else replaced our settings since they were applied.
    pub fn was_overwritten(&self) -> bool {
        self.is_applied && self.mode == DnsMode::Direct && !direct::is_ours(&self.root)
    }
}

/// Whether `address` is the node's own resolver.
pub fn is_own_resolver(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => address.octets() == [100, 100, 100, 100],
        IpAddr::V6(address) => address.segments() == [0xfd7a, 0x115c, 0xa1e0, 0, 0, 0, 0, 0x53],
    }
}

fn detect_mode(root: &Path) -> DnsMode {
    if shares_resolv_conf_with_another_network(root) {
        return DnsMode::Untouched;
    }
    let Ok(text) = std::fs::read_to_string(direct::path(root)) else { return DnsMode::Direct };
    match resolv_conf::manager_named_in(&text) {
        Some(resolv_conf::Writer::Resolved | resolv_conf::Writer::NetworkManager)
            if resolved::is_in_use(&ResolvConf::parse(&text)) =>
        {
            DnsMode::SystemdResolved
        }
        Some(resolv_conf::Writer::Resolvconf) => match resolvconf::installed_flavour() {
            Some(resolvconf::Flavour::Debian) => DnsMode::DebianResolvconf,
            Some(resolvconf::Flavour::Openresolv) => DnsMode::Openresolv,
            None => DnsMode::Direct,
        },
        Some(_) | None => DnsMode::Direct,
    }
}

/// Whether this process lives in a network namespace of its own while `resolv.conf` is that of process 1.
fn shares_resolv_conf_with_another_network(root: &Path) -> bool {
    let own_network = identity(Path::new("/proc/self/ns/net"));
    let first_network = identity(Path::new("/proc/1/ns/net"));
    if own_network.is_none() || first_network.is_none() || own_network == first_network {
        return false;
    }
    is_one_file(root, Path::new("/proc/1/root"))
}

/// Whether `resolv.conf` is one file under both roots, or would be: where none has it, it is one as soon as one
/// of them writes it.
fn is_one_file(own: &Path, other: &Path) -> bool {
    let identities = [own, other].map(|root| {
        let path = direct::path(root);
        identity(&path).or_else(|| identity(path.parent()?))
    });
    identities[0].is_some() && identities[0] == identities[1]
}

/// Returns what tells one file from all others.
fn identity(path: &Path) -> Option<(u64, u64)> {
    use std::os::unix::fs::MetadataExt as _;
    std::fs::metadata(path).map(|meta| (meta.dev(), meta.ino())).ok()
}

/// Runs a program of the system with `input` on its standard input.
fn run(program: &'static str, arguments: &[&str], input: &str) -> Result<(), DnsError> {
    use std::io::Write as _;
    use std::process::{Command, Stdio};
    let failed = |source| DnsError::Run { program, source };
    let mut child = Command::new(program)
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(failed)?;
    if let Some(mut stdin) = child.stdin.take() {
        // A program that does not read its input may close it first.
        let _unread = stdin.write_all(input.as_bytes());
    }
    let output = child.wait_with_output().map_err(failed)?;
    if output.status.success() {
        return Ok(());
    }
    let message = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    Err(DnsError::Refused { program, arguments: arguments.join(" "), message })
}

/// Whether a program of this name is in one of the usual directories.
fn is_installed(program: &str) -> bool {
    ["/usr/bin", "/usr/sbin", "/bin", "/sbin", "/usr/local/bin", "/usr/local/sbin"]
        .iter()
        .any(|directory| Path::new(directory).join(program).exists())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config() -> DnsConfig {
        DnsConfig {
            nameservers: vec!["100.100.100.100".parse().expect("an address")],
            search_domains: vec!["home.internal".to_owned()],
            match_domains: Vec::new(),
        }
    }

    /// A directory of this test with an `etc/resolv.conf`, removed at the end.
    struct Root(PathBuf);

    impl Root {
        fn new(name: &str, text: &str) -> Self {
            let root = std::env::temp_dir().join(format!("sw-os-dns-{name}-{}", std::process::id()));
            std::fs::create_dir_all(root.join("etc")).expect("a writable temporary directory");
            std::fs::write(root.join("etc/resolv.conf"), text).expect("a writable file");
            Self(root)
        }

        fn text(&self) -> String {
            std::fs::read_to_string(self.0.join("etc/resolv.conf")).expect("a readable file")
        }
    }

    impl Drop for Root {
        fn drop(&mut self) {
            std::fs::remove_dir_all(&self.0).expect("our own directory");
        }
    }

    #[test]
    fn a_plain_resolv_conf_is_restored() {
        let before = "nameserver 192.0.2.53\nsearch lan\n";
        let root = Root::new("restored", before);
        let mut dns = Dns::with_root("samewire0", &root.0);
        assert_eq!(dns.mode(), DnsMode::Direct);
        dns.apply(&config()).expect("writable");
        assert!(root.text().contains("nameserver 100.100.100.100"));
        assert_eq!(dns.base().nameservers, ["192.0.2.53".parse::<IpAddr>().expect("an address")]);
        dns.apply(&config()).expect("a second time");
        dns.apply(&DnsConfig::default()).expect("restorable");
        assert_eq!(root.text(), before);
    }

    #[test]
    fn a_crash_is_repaired_by_the_next_process() {
        let before = "nameserver 192.0.2.53\n";
        let root = Root::new("crash", before);
        Dns::with_root("samewire0", &root.0).apply(&config()).expect("writable");
        Dns::with_root("samewire0", &root.0).restore().expect("restorable");
        assert_eq!(root.text(), before);
    }

    #[test]
    fn what_a_mount_point_said_stays_in_it() {
        let before = "nameserver 192.0.2.53\nsearch lan\n";
        let root = Root::new("mounted", before);
        // Like a mount point, a file that cannot be renamed over: its backup's name is taken by a directory.
        std::fs::create_dir_all(root.0.join("etc/resolv.pre-samewire-backup.conf/full")).expect("writable");
        let mut dns = Dns::with_root("samewire0", &root.0);
        for _again in 0..2 {
            dns.apply(&config()).expect("writable");
            assert_eq!(dns.base().nameservers, ["192.0.2.53".parse::<IpAddr>().expect("an address")]);
            assert_eq!(ResolvConf::parse(&root.text()).nameservers, config().nameservers);
        }
        dns.restore().expect("restorable");
        assert_eq!(root.text(), before);
    }

    #[test]
    fn a_missing_file_is_shared_where_its_directory_is() {
        let (one, two) = (Root::new("one", ""), Root::new("two", ""));
        assert!(is_one_file(&one.0, &one.0));
        assert!(!is_one_file(&one.0, &two.0));
        for root in [&one, &two] {
            std::fs::remove_file(root.0.join("etc/resolv.conf")).expect("our own file");
        }
        assert!(is_one_file(&one.0, &one.0));
        assert!(!is_one_file(&one.0, &two.0));
    }

    #[test]
    fn a_machine_without_the_file_is_without_it_again() {
        let root = Root::new("none", "");
        std::fs::remove_file(root.0.join("etc/resolv.conf")).expect("our own file");
        let mut dns = Dns::with_root("samewire0", &root.0);
        dns.apply(&config()).expect("writable");
        assert!(root.text().contains("nameserver 100.100.100.100"));
        dns.restore().expect("restorable");
        assert!(!root.0.join("etc/resolv.conf").exists());
    }

    #[test]
    fn a_file_written_by_somebody_else_meanwhile_is_kept() {
        let root = Root::new("foreign", "nameserver 192.0.2.53\n");
        let mut dns = Dns::with_root("samewire0", &root.0);
        dns.apply(&config()).expect("writable");
        std::fs::write(root.0.join("etc/resolv.conf"), "nameserver 192.0.2.54\n").expect("writable");
        assert!(dns.was_overwritten());
        dns.restore().expect("restorable");
        assert_eq!(root.text(), "nameserver 192.0.2.54\n");
    }
}
