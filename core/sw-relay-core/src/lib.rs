//! The relay core: client registry, queues, drop policy, mesh.
