//! Further UDP sockets: for the many mappings that one hard NAT needs, and for the path that one of them found
//! (nat-traversal-beyond.md §4 item 4).
//!
//! One thread reads them all in turn; it lives while there are any. Such a path carries less than the data socket,
//! whose thread waits in the receive call itself.

use crate::clock;
use crate::inbound::{Inbound, canonical};
use crate::shared::Shared;
use crate::slot::lock;
use crate::udp::{RECEIVE_LEN, SocketOptions, UdpSock};
use arc_swap::ArcSwap;
use rustix::event::{EventfdFlags, PollFd, PollFlags, eventfd, poll};
use std::collections::BTreeMap;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex};
use sw_wg::Source;

/// Most sockets open at once: those of one port spray and some that its like found before.
const SOCKETS_MAX: usize = 320;
/// Datagrams taken from one socket before the others have their turn.
const TURN_MAX: usize = 32;

/// Names one of our UDP sockets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SocketNumber(pub u16);

impl SocketNumber {
    /// The data socket (one of each family).
    pub const MAIN: Self = Self(0);
}

type Open = BTreeMap<SocketNumber, Arc<UdpSock>>;

/// The sockets that are open now.
#[derive(Debug)]
pub(crate) struct ExtraSockets {
    open: ArcSwap<Open>,
    /// Makes the reader look at the list again.
    changed: OwnedFd,
    writer: Mutex<Writer>,
}

/// What only those who open and close hold.
#[derive(Debug, Default)]
struct Writer {
    last_number: u16,
    /// INVARIANT: true while the reader's thread will look at `open` again before it ends.
    has_reader: bool,
}

impl ExtraSockets {
    pub(crate) fn new() -> io::Result<Self> {
        Ok(Self {
            open: ArcSwap::default(),
            changed: eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?,
            writer: Mutex::default(),
        })
    }

    pub(crate) fn get(&self, number: SocketNumber) -> Option<Arc<UdpSock>> {
        self.open.load().get(&number).cloned()
    }

    pub(crate) fn close(&self, number: SocketNumber) {
        let _writer = lock(&self.writer);
        self.change(|open| drop(open.remove(&number)));
    }

    pub(crate) fn close_all(&self) {
        let _writer = lock(&self.writer);
        self.change(Open::clear);
    }

    /// Called under the writer's lock.
    fn change(&self, change: impl FnOnce(&mut Open)) {
        let mut open = self.open.load().as_ref().clone();
        change(&mut open);
        self.open.store(Arc::new(open));
        // A full counter wakes the reader as well.
        let _is_awake_anyway = rustix::io::write(&self.changed, &1u64.to_ne_bytes());
    }
}

/// Opens one more socket, and the reader with the first.
pub(crate) fn open(shared: &Arc<Shared>, options: &SocketOptions) -> io::Result<SocketNumber> {
    let extra = &shared.extra;
    let mut writer = lock(&extra.writer);
    if extra.open.load().len() >= SOCKETS_MAX {
        return Err(io::Error::other("too many sockets are open"));
    }
    let socket = Arc::new(UdpSock::open_extra(options)?);
    let number = loop {
        // Numbers come again late, so that a name of a closed socket means nothing for long.
        writer.last_number = writer.last_number.checked_add(1).unwrap_or(1);
        let number = SocketNumber(writer.last_number);
        if !extra.open.load().contains_key(&number) {
            break number;
        }
    };
    if !writer.has_reader {
        let shared = shared.clone();
        std::thread::Builder::new().name("sw-data-extra".to_owned()).spawn(move || run(&shared))?;
        writer.has_reader = true;
    }
    extra.change(|open| drop(open.insert(number, socket)));
    Ok(number)
}

/// The reader: until no socket is open.
fn run(shared: &Shared) {
    let extra = &shared.extra;
    let mut inbound = Inbound::new(shared);
    let mut buffer = vec![0; RECEIVE_LEN];
    loop {
        // Before the list is read: a change after that sets it again.
        let _nothing_new = rustix::io::read(&extra.changed, &mut [0; 8]);
        let open = extra.open.load_full();
        if open.is_empty() {
            let mut writer = lock(&extra.writer);
            if extra.open.load().is_empty() {
                writer.has_reader = false;
                return;
            }
            continue;
        }
        serve(shared, &open, &mut inbound, &mut buffer);
    }
}

/// Reads until the list changes.
fn serve(shared: &Shared, open: &Open, inbound: &mut Inbound, buffer: &mut [u8]) {
    let mut fds: Vec<PollFd<'_>> = vec![PollFd::new(&shared.extra.changed, PollFlags::IN)];
    fds.extend(open.values().map(|socket| PollFd::new(socket.as_ref(), PollFlags::IN)));
    loop {
        for fd in &mut fds {
            fd.clear_revents();
        }
        // An interrupted wait only means one more look.
        let _ready = poll(&mut fds, None);
        let (changed, sockets) = fds.split_first().expect("it holds the event first");
        if !changed.revents().is_empty() {
            return;
        }
        for (fd, (number, socket)) in sockets.iter().zip(open) {
            if fd.revents().is_empty() {
                continue;
            }
            inbound.socket = *number;
            for _ in 0..TURN_MAX {
                let Some(received) = socket.try_receive(buffer) else { break };
                let from = Source::Udp(canonical(received.from));
                let bytes = &mut buffer[..received.len];
                inbound.on_datagrams(shared, bytes, received.segment, from, clock::mono());
            }
        }
    }
}
