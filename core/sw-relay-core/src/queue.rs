//! What waits for one client: disco and other packets apart, so that bulk traffic never pushes path discovery out.

use std::collections::VecDeque;

use bytes::Bytes;

/// Which queue a packet waits in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Path discovery.
    Disco,
    /// Everything else.
    Data,
}

/// Whole frames, ready to be written: one, or several of one sender in a row.
#[derive(Clone, Debug)]
pub struct Chunk {
    /// The frames.
    pub bytes: Bytes,
    /// How many packets.
    pub packets: u32,
}

/// How much may wait. The data queue takes a packet as long as one of its two limits allows it: so there is always room
/// for what the official relay queues, and more as long as packets are small.
#[derive(Clone, Copy, Debug)]
pub struct QueueLimits {
    /// Bytes in the data queue.
    pub data_bytes: usize,
    /// Packets in the data queue (derp.md §7.1).
    pub data_packets: u32,
    /// Packets in the disco queue (derp.md §7.1).
    pub disco_packets: u32,
}

impl Default for QueueLimits {
    fn default() -> Self {
        // The official 32 packets are far too few for long fat paths; bytes bound the memory. 32 of the largest are 2 MiB.
        Self { data_bytes: 512 << 10, data_packets: 32, disco_packets: 32 }
    }
}

impl QueueLimits {
    /// What is left of them when the relay as a whole holds too much: about 32 packets of an ordinary path.
    #[must_use]
    pub fn pressed(self) -> Self {
        Self { data_bytes: self.data_bytes.min(48 << 10), data_packets: 0, ..self }
    }

    fn has_room(self, bytes: usize, packets: u32) -> bool {
        bytes <= self.data_bytes || packets <= self.data_packets
    }
}

/// What a push cost.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Dropped {
    /// Packets dropped from the front to make room.
    pub head_packets: u32,
    /// Their bytes.
    pub head_bytes: usize,
    /// Packets dropped because there was no room even so.
    pub tail_packets: u32,
    /// Their bytes.
    pub tail_bytes: usize,
}

/// The queues of one client. Nobody ever waits for room: the oldest are dropped, up to three, then the new one
/// (derp.md §7.1).
#[derive(Debug, Default)]
pub struct SendQueue {
    data: VecDeque<Chunk>,
    data_bytes: usize,
    data_packets: u32,
    disco: VecDeque<Chunk>,
    disco_packets: u32,
    disco_bytes: usize,
}

/// Chunks dropped from the front for one new one.
const HEAD_DROPS_MAX: usize = 3;

/// A disco packet over this length counts as data, so that the disco queue is bounded in bytes as well.
const DISCO_BYTES_MAX: usize = 16 << 10;

impl SendQueue {
    /// Empty queues, without memory of their own.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Queues a chunk.
    pub fn push(&mut self, kind: Kind, chunk: Chunk, limits: QueueLimits) -> Dropped {
        let mut dropped = Dropped::default();
        match kind {
            Kind::Disco if chunk.bytes.len() <= DISCO_BYTES_MAX => {
                self.push_disco(chunk, limits, &mut dropped);
            }
            Kind::Disco | Kind::Data => self.push_data(chunk, limits, &mut dropped),
        }
        dropped
    }

    fn push_data(&mut self, chunk: Chunk, limits: QueueLimits, dropped: &mut Dropped) {
        for _ in 0..HEAD_DROPS_MAX {
            if limits.has_room(self.data_bytes + chunk.bytes.len(), self.data_packets + chunk.packets) {
                break;
            }
            let Some(oldest) = self.data.pop_front() else { break };
            self.data_bytes -= oldest.bytes.len();
            self.data_packets -= oldest.packets;
            dropped.head_packets += oldest.packets;
            dropped.head_bytes += oldest.bytes.len();
        }
        // A chunk longer than the whole limit still passes an empty queue: it is at most one read of the sender.
        let has_room =
            limits.has_room(self.data_bytes + chunk.bytes.len(), self.data_packets + chunk.packets);
        if has_room || self.data.is_empty() {
            self.data_bytes += chunk.bytes.len();
            self.data_packets += chunk.packets;
            self.data.push_back(chunk);
        } else {
            dropped.tail_packets += chunk.packets;
            dropped.tail_bytes += chunk.bytes.len();
        }
    }

    fn push_disco(&mut self, chunk: Chunk, limits: QueueLimits, dropped: &mut Dropped) {
        for _ in 0..HEAD_DROPS_MAX {
            if self.disco_packets + chunk.packets <= limits.disco_packets {
                break;
            }
            let Some(oldest) = self.disco.pop_front() else { break };
            self.disco_packets -= oldest.packets;
            self.disco_bytes -= oldest.bytes.len();
            dropped.head_packets += oldest.packets;
            dropped.head_bytes += oldest.bytes.len();
        }
        if self.disco_packets + chunk.packets <= limits.disco_packets || self.disco.is_empty() {
            self.disco_packets += chunk.packets;
            self.disco_bytes += chunk.bytes.len();
            self.disco.push_back(chunk);
        } else {
            dropped.tail_packets += chunk.packets;
            dropped.tail_bytes += chunk.bytes.len();
        }
    }

    /// Takes the next chunk; the queues take turns, so neither can hold up the other.
    pub fn pop_into(&mut self, budget_bytes: usize, mut take: impl FnMut(Chunk)) -> usize {
        let mut taken = 0;
        while taken < budget_bytes && !self.is_empty() {
            if let Some(chunk) = self.disco.pop_front() {
                self.disco_packets -= chunk.packets;
                self.disco_bytes -= chunk.bytes.len();
                taken += chunk.bytes.len();
                take(chunk);
            }
            if let Some(chunk) = self.data.pop_front() {
                self.data_bytes -= chunk.bytes.len();
                self.data_packets -= chunk.packets;
                taken += chunk.bytes.len();
                take(chunk);
            }
        }
        if self.is_empty() {
            // An idle client keeps no capacity of a past burst.
            if self.data.capacity() > 64 {
                self.data = VecDeque::new();
            }
            if self.disco.capacity() > 64 {
                self.disco = VecDeque::new();
            }
        }
        taken
    }

    /// Whether nothing waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.data.is_empty() && self.disco.is_empty()
    }

    /// Packets and bytes that wait, disco first: what is lost when the client goes.
    #[must_use]
    pub fn waiting(&self) -> [(u64, u64); 2] {
        let of = |packets: u32, bytes: usize| (u64::from(packets), bytes as u64);
        [of(self.disco_packets, self.disco_bytes), of(self.data_packets, self.data_bytes)]
    }

    /// Bytes that wait.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.data_bytes + self.disco_bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chunk(len: usize, mark: u8) -> Chunk {
        Chunk { bytes: vec![mark; len].into(), packets: 1 }
    }

    fn drain(queue: &mut SendQueue) -> Vec<u8> {
        let mut marks = Vec::new();
        queue.pop_into(usize::MAX, |chunk| marks.push(chunk.bytes[0]));
        marks
    }

    const LIMITS: QueueLimits = QueueLimits { data_bytes: 1000, data_packets: 0, disco_packets: 4 };

    #[test]
    fn packets_of_the_largest_size_have_the_official_queue() {
        let mut queue = SendQueue::new();
        let limits = QueueLimits::default();
        for _ in 0..32 {
            assert_eq!(queue.push(Kind::Data, chunk(65_573, 0), limits), Dropped::default());
        }
        assert_eq!(queue.push(Kind::Data, chunk(65_573, 0), limits).head_packets, 1);
        let mut queue = SendQueue::new();
        for _ in 0..4_000 {
            assert_eq!(queue.push(Kind::Data, chunk(131, 0), limits), Dropped::default());
        }
        assert!(queue.push(Kind::Data, chunk(131, 0), limits.pressed()).head_packets > 0);
    }

    #[test]
    fn at_the_limit_nothing_is_dropped_and_past_it_the_oldest() {
        let mut queue = SendQueue::new();
        for mark in 0..10 {
            assert_eq!(queue.push(Kind::Data, chunk(100, mark), LIMITS), Dropped::default());
        }
        assert_eq!(queue.bytes(), 1000);
        let dropped = queue.push(Kind::Data, chunk(100, 10), LIMITS);
        assert_eq!((dropped.head_packets, dropped.tail_packets), (1, 0));
        assert_eq!(drain(&mut queue), (1..=10).collect::<Vec<u8>>());
    }

    #[test]
    fn after_three_oldest_the_new_one_goes() {
        let mut queue = SendQueue::new();
        for mark in 0..10 {
            queue.push(Kind::Data, chunk(100, mark), LIMITS);
        }
        let dropped = queue.push(Kind::Data, chunk(400, 99), LIMITS);
        assert_eq!((dropped.head_packets, dropped.tail_packets), (3, 1));
        assert_eq!(queue.bytes(), 700);
    }

    #[test]
    fn disco_has_its_own_limit_and_its_own_turn() {
        let mut queue = SendQueue::new();
        for mark in 0..10 {
            queue.push(Kind::Data, chunk(100, mark), LIMITS);
        }
        for mark in 100..105 {
            queue.push(Kind::Disco, chunk(100, mark), LIMITS);
        }
        assert_eq!(drain(&mut queue)[..6], [101, 0, 102, 1, 103, 2], "the oldest disco packet was dropped");
    }

    #[test]
    fn memory_stays_below_the_limits_whatever_comes() {
        arbtest::arbtest(|u| {
            let mut queue = SendQueue::new();
            let mut in_queue = 0i64;
            for _ in 0..u.int_in_range(1..=200)? {
                let kind = if u.arbitrary()? { Kind::Disco } else { Kind::Data };
                let len = u.int_in_range(1..=600)?;
                let dropped = queue.push(kind, chunk(len, 0), LIMITS);
                in_queue += len as i64 - dropped.head_bytes as i64 - dropped.tail_bytes as i64;
                if u.ratio(1, 10)? {
                    in_queue -= queue.pop_into(u.int_in_range(1..=2000)?, drop) as i64;
                }
                assert_eq!(queue.bytes() as i64, in_queue);
                assert!(queue.bytes() <= LIMITS.data_bytes + LIMITS.disco_packets as usize * 600);
            }
            Ok(())
        });
    }
}
