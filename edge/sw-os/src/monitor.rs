//! Watches links, addresses, routes and rules, and tells when the network has changed.

use std::io;
use std::os::fd::OwnedFd;
use std::time::Duration;

use tokio::io::unix::AsyncFd;
use tokio::sync::mpsc;

use crate::link::Interfaces;
use crate::netlink::{Netlink, RTM_DELRULE};

/// Changes come in bursts (a Wi-Fi join is some 20 messages): wait until it has been quiet this long.
const QUIET: Duration = Duration::from_millis(100);
/// But report at the latest after this time.
const DELAY_MAX: Duration = Duration::from_millis(800);

/// What happened.
#[derive(Debug)]
pub enum LinkEvent {
    /// Interfaces, addresses or default routes differ from the last report.
    Changed(Interfaces),
    /// A policy rule was deleted, perhaps one of ours.
    RuleDeleted,
}

/// Follows the network until the receiver is dropped. `own_tun` is left out of the comparison.
///
/// The channel holds few entries: a slow reader makes the monitor wait, and sees the newest state then.
pub async fn watch(own_tun: String, events: mpsc::Sender<LinkEvent>) -> io::Result<()> {
    let mut netlink = AsyncNetlink::open()?;
    let mut last = Interfaces::read()?.without(&own_tun);
    loop {
        let mut rule_deleted = netlink.changed().await?;
        let burst = async {
            while let Ok(more) = tokio::time::timeout(QUIET, netlink.changed()).await {
                rule_deleted |= more?;
            }
            io::Result::Ok(())
        };
        if let Ok(result) = tokio::time::timeout(DELAY_MAX, burst).await {
            result?;
        }
        if rule_deleted && events.send(LinkEvent::RuleDeleted).await.is_err() {
            return Ok(());
        }
        let present = Interfaces::read()?.without(&own_tun);
        if present != last {
            last = present.clone();
            if events.send(LinkEvent::Changed(present)).await.is_err() {
                return Ok(());
            }
        }
        if events.is_closed() {
            return Ok(());
        }
    }
}

/// The monitor socket, waited for without blocking.
struct AsyncNetlink {
    /// A second descriptor of the socket, owned by the reactor.
    ready: AsyncFd<OwnedFd>,
    netlink: Netlink,
}

impl AsyncNetlink {
    fn open() -> io::Result<Self> {
        let netlink = Netlink::open_monitor()?;
        let descriptor = netlink.descriptor().try_clone_to_owned()?;
        // SAFETY: an `OwnedFd` always returns the same descriptor, and keeps it open as long as it lives.
        let ready = unsafe { AsyncFd::register(descriptor)? };
        Ok(Self { ready, netlink })
    }

    /// Waits for notifications; returns whether a rule was deleted. Cancel safe: nothing is read before it is counted.
    async fn changed(&mut self) -> io::Result<bool> {
        loop {
            let mut guard = self.ready.readable().await?;
            guard.clear_ready();
            match self.netlink.read_notifications()? {
                None => return Ok(true),
                Some(kinds) if kinds.is_empty() => {}
                Some(kinds) => return Ok(kinds.contains(&RTM_DELRULE)),
            }
        }
    }
}
