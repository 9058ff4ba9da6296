//! The store on a thread of its own, since it blocks on disks.

use std::thread::JoinHandle;

use sw_store::{Store, StoreError};
use tokio::sync::{mpsc, oneshot};

type Work = Box<dyn FnOnce(&mut dyn Store) + Send>;

/// Calls a store from async code. Work is done in order; at most 64 pieces wait, then callers do.
#[derive(Debug)]
pub(crate) struct StoreThread {
    work: Option<mpsc::Sender<Work>>,
    thread: Option<JoinHandle<()>>,
}

impl StoreThread {
    pub(crate) fn start(mut store: Box<dyn Store>) -> std::io::Result<Self> {
        let (work, mut inbox) = mpsc::channel::<Work>(64);
        let run = move || {
            while let Some(work) = inbox.blocking_recv() {
                work(&mut *store);
            }
        };
        let thread = std::thread::Builder::new().name("sw-store".to_owned()).spawn(run)?;
        Ok(Self { work: Some(work), thread: Some(thread) })
    }

    /// Runs `work` and waits for its result.
    pub(crate) async fn call<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut dyn Store) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let (done, result) = oneshot::channel();
        let work: Work = Box::new(move |store| drop(done.send(work(store))));
        let sent = match &self.work {
            Some(sender) => sender.send(work).await.is_ok(),
            None => false,
        };
        if !sent {
            return Err(stopped());
        }
        result.await.unwrap_or_else(|_| Err(stopped()))
    }

    /// Ends the thread after what was asked before.
    pub(crate) async fn stop(mut self) {
        drop(self.work.take());
        if let Some(thread) = self.thread.take() {
            drop(tokio::task::spawn_blocking(move || thread.join()).await);
        }
    }
}

fn stopped() -> StoreError {
    let source = std::io::Error::other("the storage thread has ended");
    StoreError::Io { action: "writing to", file: "control.db".into(), source }
}
