//! Ctrl-C as a value that every wait looks at, so that a stopped lab still cleans up after itself.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::LabError;

/// Tells whether the user asked the lab to stop.
#[derive(Clone, Debug, Default)]
pub struct Interrupt {
    asked: Arc<AtomicBool>,
}

impl Interrupt {
    /// Returns an interrupt that is raised by SIGINT, SIGTERM and SIGHUP.
    ///
    /// # Errors
    /// The signal handlers could not be installed.
    pub fn on_signals() -> Result<Self, LabError> {
        let this = Self::default();
        let asked = Arc::clone(&this.asked);
        let failed = |e: std::io::Error| {
            LabError::new("lab-signals", "the lab cannot listen for Ctrl-C.").why(e.to_string())
        };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build().map_err(failed)?;
        std::thread::Builder::new()
            .name("sw-lab-signals".into())
            .spawn(move || runtime.block_on(raise_on_signals(&asked)))
            .map_err(failed)?;
        Ok(this)
    }

    /// Returns an error once the user asked to stop.
    ///
    /// # Errors
    /// [`LabError::interrupted`], and nothing else.
    pub fn check(&self) -> Result<(), LabError> {
        if self.asked.load(Ordering::Relaxed) { Err(LabError::interrupted()) } else { Ok(()) }
    }

    /// Asks `ready` every 20 ms until it gives a value or `limit` is over (`Ok(None)`).
    ///
    /// # Errors
    /// What `ready` returns as an error, or the interrupt.
    pub fn wait_for<T>(
        &self,
        limit: Duration,
        mut ready: impl FnMut() -> Result<Option<T>, LabError>,
    ) -> Result<Option<T>, LabError> {
        let end = Instant::now() + limit;
        loop {
            self.check()?;
            if let Some(value) = ready()? {
                return Ok(Some(value));
            }
            if Instant::now() >= end {
                return Ok(None);
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

async fn raise_on_signals(asked: &AtomicBool) {
    use tokio::signal::unix::{SignalKind, signal};
    let kinds = [SignalKind::interrupt(), SignalKind::terminate(), SignalKind::hangup()];
    let mut streams: Vec<_> = kinds.into_iter().filter_map(|kind| signal(kind).ok()).collect();
    loop {
        let any = std::future::poll_fn(|cx| {
            let ready = streams.iter_mut().any(|s| s.poll_recv(cx).is_ready());
            if ready { std::task::Poll::Ready(()) } else { std::task::Poll::Pending }
        });
        any.await;
        asked.store(true, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wait_ends_with_the_value_the_limit_or_the_interrupt() {
        let interrupt = Interrupt::default();
        let mut left = 3;
        let counted = interrupt.wait_for(Duration::from_secs(5), || {
            left -= 1;
            Ok((left == 0).then_some("done"))
        });
        assert_eq!(counted, Ok(Some("done")));
        assert_eq!(interrupt.wait_for(Duration::ZERO, || Ok(None::<()>)), Ok(None));
        interrupt.asked.store(true, Ordering::Relaxed);
        assert_eq!(interrupt.wait_for(Duration::ZERO, || Ok(Some(()))), Err(LabError::interrupted()));
    }
}
