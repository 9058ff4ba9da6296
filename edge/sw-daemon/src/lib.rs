//! The node daemon: drives the node core, LocalAPI, control client.
