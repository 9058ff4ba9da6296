//! The node core: login and run states, netmap, name resolution, desired system state.
