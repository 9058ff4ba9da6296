//! The notify bus: what programs on this machine hear (localapi-cli.md §A3).

use std::collections::BTreeSet;
use std::sync::Arc;

use sw_types::NodeId;
use sw_types::local::Notify;
use tokio::sync::broadcast;

/// A watcher that falls this many messages behind is disconnected.
const BACKLOG_MAX: usize = 128;

/// One thing that happened.
#[derive(Clone, Debug)]
pub(crate) enum BusMessage {
    Notify(Arc<Notify>),
    /// The network changed; each watcher fetches as much of it as it asked for.
    Netmap {
        peers: Arc<BTreeSet<NodeId>>,
        removed: Arc<Vec<NodeId>>,
        is_whole: bool,
    },
}

/// Tells all watchers.
#[derive(Clone, Debug)]
pub(crate) struct Bus(broadcast::Sender<BusMessage>);

impl Bus {
    pub(crate) fn new() -> Self {
        Self(broadcast::channel(BACKLOG_MAX).0)
    }

    /// Tells what `notify` says; nobody may be listening.
    pub(crate) fn notify(&self, mut notify: Notify) {
        notify.version = crate::VERSION_LONG.to_owned();
        self.send(BusMessage::Notify(Arc::new(notify)));
    }

    pub(crate) fn send(&self, message: BusMessage) {
        let _nobody_listens = self.0.send(message);
    }

    /// Hears everything from now on.
    pub(crate) fn subscribe(&self) -> broadcast::Receiver<BusMessage> {
        self.0.subscribe()
    }
}
