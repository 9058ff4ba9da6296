//! Who may start a handshake now: a fair queue, in all and per source address.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::FrontLimits;

/// An IPv4 address or the /64 of an IPv6 address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Source([u8; 8], bool);

impl Source {
    fn of(ip: IpAddr) -> Self {
        match ip.to_canonical() {
            IpAddr::V4(ip) => {
                let [a, b, c, d] = ip.octets();
                Self([a, b, c, d, 0, 0, 0, 0], false)
            }
            IpAddr::V6(ip) => {
                let [a, b, c, d, e, f, g, h, ..] = ip.octets();
                Self([a, b, c, d, e, f, g, h], true)
            }
        }
    }
}

/// Hands out places. Both semaphores serve first come, first served; a source waits in its own queue first, so that
/// a flood from one address leaves the common queue to the others.
#[derive(Debug)]
pub(super) struct Gate {
    limits: FrontLimits,
    handshakes: Arc<Semaphore>,
    sources: Arc<Mutex<Sources>>,
    waiting: AtomicUsize,
}

type Sources = HashMap<Source, Weak<Semaphore>>;

impl Gate {
    pub(super) fn new(limits: FrontLimits) -> Self {
        Self {
            limits,
            handshakes: Arc::new(Semaphore::new(limits.handshakes)),
            sources: Arc::default(),
            waiting: AtomicUsize::new(0),
        }
    }

    /// Waits for a place; `None` when it did not come in time or too many wait already.
    pub(super) async fn enter(&self, ip: IpAddr) -> Option<Admission> {
        struct Waiting<'a>(&'a AtomicUsize);
        impl Drop for Waiting<'_> {
            fn drop(&mut self) {
                self.0.fetch_sub(1, Ordering::Relaxed);
            }
        }
        let waiting = self.waiting.fetch_add(1, Ordering::Relaxed);
        let _waiting = Waiting(&self.waiting);
        if waiting >= self.limits.queue_len {
            return None;
        }
        let source = Source::of(ip);
        let semaphore = self.semaphore_of(source);
        let places = async {
            let of_source = semaphore.acquire_owned().await.ok()?;
            let handshake = Arc::clone(&self.handshakes).acquire_owned().await.ok()?;
            Some((of_source, handshake))
        };
        let (of_source, handshake) = tokio::time::timeout(self.limits.queue_wait, places).await.ok()??;
        let of_source = SourcePlace { permit: Some(of_source), source, sources: Arc::clone(&self.sources) };
        Some(Admission { of_source: Mutex::new(Some(of_source)), handshake: Mutex::new(Some(handshake)) })
    }

    fn semaphore_of(&self, source: Source) -> Arc<Semaphore> {
        let mut sources = lock(&self.sources);
        if let Some(semaphore) = sources.get(&source).and_then(Weak::upgrade) {
            return semaphore;
        }
        let semaphore = Arc::new(Semaphore::new(self.limits.unauthenticated_per_source));
        sources.insert(source, Arc::downgrade(&semaphore));
        semaphore
    }
}

/// The places that one connection holds.
#[derive(Debug)]
pub(super) struct Admission {
    of_source: Mutex<Option<SourcePlace>>,
    handshake: Mutex<Option<OwnedSemaphorePermit>>,
}

impl Admission {
    /// The first request is there.
    pub(super) fn handshake_done(&self) {
        drop(lock(&self.handshake).take());
    }

    /// The other side is known.
    pub(super) fn release(&self) {
        self.handshake_done();
        drop(lock(&self.of_source).take());
    }
}

/// A place of a source; the last one to go takes the source's entry with it.
#[derive(Debug)]
struct SourcePlace {
    permit: Option<OwnedSemaphorePermit>,
    source: Source,
    sources: Arc<Mutex<Sources>>,
}

impl Drop for SourcePlace {
    fn drop(&mut self) {
        let mut sources = lock(&self.sources);
        drop(self.permit.take());
        if sources.get(&self.source).is_some_and(|semaphore| semaphore.strong_count() == 0) {
            sources.remove(&self.source);
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn gate(per_source: usize, handshakes: usize) -> Gate {
        Gate::new(FrontLimits {
            unauthenticated_per_source: per_source,
            handshakes,
            queue_wait: Duration::from_millis(20),
            ..FrontLimits::default()
        })
    }

    #[tokio::test]
    async fn a_source_at_its_limit_waits_and_others_do_not() {
        let gate = gate(2, 100);
        let (a, b) = (IpAddr::from([192, 0, 2, 1]), IpAddr::from([192, 0, 2, 2]));
        let (first, _second) = (gate.enter(a).await.unwrap(), gate.enter(a).await.unwrap());
        assert!(gate.enter(a).await.is_none(), "the third waits in vain");
        assert!(gate.enter(b).await.is_some());
        first.release();
        assert!(gate.enter(a).await.is_some());
    }

    #[tokio::test]
    async fn addresses_of_one_64_are_one_source_and_entries_do_not_stay() {
        let gate = gate(1, 100);
        let place = gate.enter("2001:db8::1".parse().unwrap()).await.unwrap();
        assert!(gate.enter("2001:db8::2".parse().unwrap()).await.is_none());
        assert!(gate.enter("2001:db8:0:1::2".parse().unwrap()).await.is_some());
        drop(place);
        assert_eq!(lock(&gate.sources).len(), 0);
    }

    #[tokio::test]
    async fn handshakes_are_bounded_in_all() {
        let gate = gate(100, 2);
        let first = gate.enter([192, 0, 2, 1].into()).await.unwrap();
        let _second = gate.enter([192, 0, 2, 2].into()).await.unwrap();
        assert!(gate.enter([192, 0, 2, 3].into()).await.is_none());
        first.handshake_done();
        assert!(gate.enter([192, 0, 2, 3].into()).await.is_some());
    }
}
