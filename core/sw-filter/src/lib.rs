//! Packet filter: compile, match, connection tracking.
