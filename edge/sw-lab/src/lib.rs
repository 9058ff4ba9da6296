//! The Internet on one machine: namespaces, NATs, topologies.
