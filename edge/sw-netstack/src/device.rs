//! The stack's network card: two queues of whole IP packets.

use smoltcp::phy::{Device, DeviceCapabilities, Medium, RxToken, TxToken};
use smoltcp::time::Instant;
use std::collections::VecDeque;

/// Packets that wait to be taken out; beyond it the stack is told that the card is busy.
const TX_MAX: usize = 256;

#[derive(Debug)]
pub(crate) struct QueueDevice {
    pub(crate) rx: VecDeque<Vec<u8>>,
    pub(crate) tx: Vec<Vec<u8>>,
    mtu: usize,
}

impl QueueDevice {
    pub(crate) fn new(mtu: usize) -> Self {
        Self { rx: VecDeque::new(), tx: Vec::new(), mtu }
    }
}

#[derive(Debug)]
pub(crate) struct Received(Vec<u8>);

#[derive(Debug)]
pub(crate) struct Sending<'a>(&'a mut Vec<Vec<u8>>);

impl RxToken for Received {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, read: F) -> R {
        read(&self.0)
    }
}

impl TxToken for Sending<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, len: usize, write: F) -> R {
        let mut packet = vec![0; len];
        let result = write(&mut packet);
        self.0.push(packet);
        result
    }
}

impl Device for QueueDevice {
    type RxToken<'a> = Received;
    type TxToken<'a> = Sending<'a>;

    fn receive(&mut self, _now: Instant) -> Option<(Received, Sending<'_>)> {
        if self.tx.len() >= TX_MAX {
            return None;
        }
        self.rx.pop_front().map(|packet| (Received(packet), Sending(&mut self.tx)))
    }

    fn transmit(&mut self, _now: Instant) -> Option<Sending<'_>> {
        (self.tx.len() < TX_MAX).then_some(Sending(&mut self.tx))
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ip;
        capabilities.max_transmission_unit = self.mtu;
        capabilities
    }
}
