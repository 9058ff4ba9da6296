//! The cipher of the data path: the fastest this machine has.

use sw_wg::{BatchCipher, Library};

/// Chooses once, at start.
pub(crate) fn best() -> &'static dyn BatchCipher {
    &Library
}
