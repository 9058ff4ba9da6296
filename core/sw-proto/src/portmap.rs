//! What both port mapping protocols share.

/// The transport that a gateway forwards.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Transport {
    /// UDP: the data socket.
    Udp,
    /// TCP: the listener of a serving machine.
    Tcp,
}
