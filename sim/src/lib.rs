//! Deterministic simulator of nodes, servers, relays, links and NATs.
