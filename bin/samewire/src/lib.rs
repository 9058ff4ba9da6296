//! The samewire library: its parts wired together.
