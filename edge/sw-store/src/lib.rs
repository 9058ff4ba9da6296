//! Storage of the tailnet: the trait and the SQLite back end.
