//! Packet threads: TUN to wire and back.
