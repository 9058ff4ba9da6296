//! Where inner packets come from and go to: a TUN device, or a pair of queues.

use std::io::{ErrorKind, IoSlice, Read, Write};
use std::sync::Mutex;
use sw_os::tun::{Offload, Tun, VNET_HEADER_LEN};
use tokio::sync::mpsc;

/// Packets that may wait in each direction of a [`PacketChannel`].
const CHANNEL_LEN: usize = 512;

/// The inner side of a device.
#[derive(Debug)]
pub enum PacketIo {
    /// The operating system's network stack.
    Tun(Tun),
    /// A network stack in this process, or a test.
    Channel(ChannelEnd),
}

/// The device's end of a pair of packet queues.
#[derive(Debug)]
pub struct ChannelEnd {
    outbound: Mutex<Option<mpsc::Receiver<Vec<u8>>>>,
    wake: mpsc::Sender<Vec<u8>>,
    inbound: mpsc::Sender<Vec<u8>>,
}

/// The other end: what a userspace network stack holds.
#[derive(Debug)]
pub struct PacketChannel {
    /// Packets to peers. A full queue makes the sender wait or drop, as it likes.
    pub to_network: mpsc::Sender<Vec<u8>>,
    /// Packets from peers. When it is full, new ones are dropped and counted.
    pub from_network: mpsc::Receiver<Vec<u8>>,
}

impl PacketIo {
    /// Makes a pair of queues in place of a TUN device.
    pub fn channel() -> (Self, PacketChannel) {
        let (to_network, outbound) = mpsc::channel(CHANNEL_LEN);
        let (inbound, from_network) = mpsc::channel(CHANNEL_LEN);
        let wake = to_network.clone();
        let end = ChannelEnd { outbound: Mutex::new(Some(outbound)), wake, inbound };
        (Self::Channel(end), PacketChannel { to_network, from_network })
    }

    pub(crate) fn offload(&self) -> Offload {
        match self {
            Self::Tun(tun) => tun.offload(),
            Self::Channel(_) => Offload::None,
        }
    }

    /// Bytes in front of every packet that `read` gives.
    pub(crate) fn header_len(&self) -> usize {
        match self.offload() {
            Offload::Superpackets { .. } => VNET_HEADER_LEN,
            Offload::None => 0,
        }
    }

    /// Writes one packet, with the virtio header if the device has one; false when it did not go.
    pub(crate) fn write(&self, slices: &[IoSlice<'_>]) -> bool {
        match self {
            Self::Tun(tun) => loop {
                match tun.file().write_vectored(slices) {
                    Ok(_) => return true,
                    Err(error) if error.kind() == ErrorKind::Interrupted => {}
                    Err(_) => return false,
                }
            },
            Self::Channel(end) => {
                let packet = slices.iter().flat_map(|slice| slice.iter().copied()).collect();
                end.inbound.try_send(packet).is_ok()
            }
        }
    }
}

impl ChannelEnd {
    /// The queue of packets to peers, for the one outbound thread.
    pub(crate) fn take_outbound(&self) -> Option<mpsc::Receiver<Vec<u8>>> {
        crate::slot::lock(&self.outbound).take()
    }

    /// Makes the outbound thread look around.
    pub(crate) fn wake(&self) {
        // A full queue wakes it as well.
        let _is_awake_anyway = self.wake.try_send(Vec::new());
    }
}

/// Reads one packet from a TUN; `None` when there is none at the moment.
pub(crate) fn read_tun(tun: &Tun, buffer: &mut [u8]) -> std::io::Result<Option<usize>> {
    loop {
        match tun.file().read(buffer) {
            Ok(len) => return Ok(Some(len)),
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(None),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}
