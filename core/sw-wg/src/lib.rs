//! WireGuard as a pure state machine.
