//! Brings the system into the wanted state, and back to what it was (architecture.md §2).
//!
//! One thread owns everything the node changes on the machine. It is given whole desired states, never steps, so
//! the newest one replaces those not yet applied. Before the first change a journal is written; whoever finds one
//! at start knows that the last process did not clean up, and does.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread;

use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use tracing::{info, warn};

use crate::dns::{Dns, DnsConfig, DnsMode};
use crate::firewall::{Firewall, FirewallConfig};
use crate::router::{Router, RouterConfig};

/// Everything the node wants of the machine.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Desired {
    /// `None`: no routes, rules and addresses of ours.
    pub router: Option<RouterConfig>,
    /// `None`: no rules of ours.
    pub firewall: Option<FirewallConfig>,
    pub dns: DnsConfig,
}

/// What came of the newest desired state.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Applied {
    /// How many desired states have been handled, so that a waiter can tell its own.
    pub generation: u64,
    pub router_error: Option<String>,
    pub firewall_error: Option<String>,
    pub dns_error: Option<String>,
}

/// Handle of the thread. Dropping it undoes all changes.
#[derive(Debug)]
pub struct Reconciler {
    shared: Arc<Shared>,
    applied: watch::Receiver<Applied>,
    dns_mode: DnsMode,
    can_split_dns: bool,
    thread: Option<thread::JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Shared {
    inbox: Mutex<Inbox>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Inbox {
    desired: Desired,
    generation: u64,
    handled: u64,
    stop: bool,
}

/// The journal's content.
#[derive(Debug, Serialize, Deserialize)]
struct Journal {
    interface: String,
    dns: DnsMode,
}

impl Reconciler {
    /// Starts the thread; undoes first what a crashed process left behind.
    /// `journal` is a path in the state directory, `interface` the TUN's name.
    pub fn start(interface: &str, journal: PathBuf) -> io::Result<Self> {
        let mut dns = Dns::detect(interface);
        let mut router = Router::open()?;
        let left = read_journal(&journal);
        let mut firewall = Firewall::new(interface, left.is_some());
        if let Some(left) = left {
            info!(interface = left.interface, "undoing what the last process left behind");
            undo(&mut router, &mut Dns::detect(&left.interface), &left.interface, &journal);
        }
        let (dns_mode, can_split_dns) = (dns.mode(), dns.can_split());
        let shared = Arc::new(Shared::default());
        let (report, applied) = watch::channel(Applied::default());
        let thread = {
            let shared = Arc::clone(&shared);
            let interface = interface.to_owned();
            thread::Builder::new().name("sw-os".to_owned()).spawn(move || {
                while let Some((generation, desired)) = shared.next() {
                    let entry = Journal { interface: interface.clone(), dns: dns.mode() };
                    let system = System { router: &mut router, firewall: &mut firewall, dns: &mut dns };
                    apply(system, &desired, &journal, &entry, |applied| {
                        report.send_replace(Applied { generation, ..applied });
                    });
                }
                undo(&mut router, &mut dns, &interface, &journal);
                if let Err(error) = firewall.apply(None) {
                    warn!(%error, "packet filter rules could not be removed; the next start tries again");
                }
            })?
        };
        Ok(Self { shared, applied, dns_mode, can_split_dns, thread: Some(thread) })
    }

    /// Hands in a new desired state; returns its generation.
    pub fn set(&self, desired: Desired) -> u64 {
        let mut inbox = self.shared.lock();
        if inbox.desired != desired || inbox.generation == 0 {
            inbox.desired = desired;
            inbox.generation += 1;
            self.shared.changed.notify_one();
        }
        inbox.generation
    }

    /// Looks again at the system, since somebody else may have changed it.
    pub fn refresh(&self) {
        let mut inbox = self.shared.lock();
        if inbox.generation > 0 {
            inbox.generation += 1;
            self.shared.changed.notify_one();
        }
    }

    /// Returns the results as they come.
    pub fn results(&self) -> watch::Receiver<Applied> {
        self.applied.clone()
    }

    /// Returns how names are resolved on this machine.
    pub fn dns_mode(&self) -> DnsMode {
        self.dns_mode
    }

    /// Whether the machine can send only some suffixes to us.
    pub fn can_split_dns(&self) -> bool {
        self.can_split_dns
    }

    /// Undoes all changes and ends the thread.
    pub fn stop(&mut self) {
        self.shared.lock().stop = true;
        self.shared.changed.notify_one();
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            warn!("the thread that keeps routes and DNS has panicked");
        }
    }
}

impl Drop for Reconciler {
    fn drop(&mut self) {
        self.stop();
    }
}

impl Shared {
    fn lock(&self) -> std::sync::MutexGuard<'_, Inbox> {
        self.inbox.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for the next desired state; `None` means stop.
    fn next(&self) -> Option<(u64, Desired)> {
        let mut inbox = self.lock();
        loop {
            if inbox.stop {
                return None;
            }
            if inbox.handled != inbox.generation {
                inbox.handled = inbox.generation;
                return Some((inbox.generation, inbox.desired.clone()));
            }
            inbox = self.changed.wait(inbox).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

/// The parts of the machine that are changed.
struct System<'a> {
    router: &'a mut Router,
    firewall: &'a mut Firewall,
    dns: &'a mut Dns,
}

/// `report` hears twice: nobody who waits for addresses waits for the packet filter too.
fn apply(
    system: System<'_>,
    desired: &Desired,
    journal: &Path,
    entry: &Journal,
    mut report: impl FnMut(Applied),
) {
    let System { router, firewall, dns } = system;
    let mut applied = Applied::default();
    let changes_something = desired.router.is_some() || !desired.dns.is_empty();
    if changes_something && let Err(error) = write_journal(journal, entry) {
        warn!(%error, "the journal cannot be written");
    }
    let routed = match &desired.router {
        Some(config) => router.apply(config),
        None => router.remove_all(&entry.interface),
    };
    if let Err(error) = routed {
        warn!(%error, "routes");
        applied.router_error = Some(error_text(&error));
    }
    if let Err(error) = dns.apply(&desired.dns) {
        warn!(%error, "name resolution");
        applied.dns_error = Some(error_text(&error));
    }
    report(applied.clone());
    if let Err(error) = firewall.apply(desired.firewall.as_ref()) {
        warn!(%error, "packet filter rules");
        applied.firewall_error = Some(error_text(&error));
    }
    let is_clean =
        applied.router_error.is_none() && applied.firewall_error.is_none() && applied.dns_error.is_none();
    if desired.router.is_none() && desired.dns.is_empty() && is_clean {
        let _maybe_absent = fs::remove_file(journal);
    }
    report(applied);
}

fn undo(router: &mut Router, dns: &mut Dns, interface: &str, journal: &Path) {
    if !journal.exists() {
        return;
    }
    let routes = router.remove_all(interface);
    let names = dns.restore();
    match (routes, names) {
        (Ok(()), Ok(())) => {
            let _maybe_absent = fs::remove_file(journal);
        }
        (Err(error), _) => warn!(%error, "routes could not be removed; the next start tries again"),
        (_, Err(error)) => warn!(%error, "name resolution could not be restored; the next start tries again"),
    }
}

fn read_journal(path: &Path) -> Option<Journal> {
    serde_json::from_slice(&fs::read(path).ok()?).ok()
}

fn write_journal(path: &Path, entry: &Journal) -> io::Result<()> {
    if path.exists() {
        return Ok(());
    }
    let text = serde_json::to_vec(entry)?;
    crate::files::write_private(path, &text).map_err(io::Error::other)
}

fn error_text(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(inner) = source {
        text = format!("{text}: {inner}");
        source = inner.source();
    }
    text
}
