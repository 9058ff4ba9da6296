//! Finds and keeps the best path to each peer: endpoints, netcheck, disco, peer relay.
