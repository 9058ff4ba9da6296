//! The tailnet core: state as a fold of changes, per-node views and deltas.
