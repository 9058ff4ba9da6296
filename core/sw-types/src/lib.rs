//! Keys, ids, times, names and prefixes that every part speaks in.
