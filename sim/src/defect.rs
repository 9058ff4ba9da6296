//! Planted defects: each must be caught by the invariant that guards against
//! its kind, or the invariant is worth nothing.

/// Something a broken node, server or engine would do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Defect {
    /// A node wants to be woken at once, always.
    WakesAlways,
    /// A node goes on talking to a peer that it may not talk to.
    KeepsRevoked,
    /// The server's messages lose their end.
    CutsMessages,
    /// The store loses a person when it is read.
    LosesRecord,
    /// Relays never forget a connection.
    HoardsConnections,
    /// Relays never drop a frame.
    HoardsFrames,
    /// A node overlooks one change of each delta.
    LosesDelta,
    /// Pongs are not understood, so no direct path is ever found.
    DropsPongs,
    /// Data over a relay goes nowhere.
    LosesFrames,
    /// A direct path is claimed where there is none.
    ClaimsDirect,
    /// Candidates of peers are never dropped.
    HoardsCandidates,
    /// An idle node wakes twenty times a second.
    NeverIdle,
}
