//! The cipher of the data path: the fastest this machine has.

#[cfg(target_arch = "x86_64")]
mod avx512;

use sw_wg::{BatchCipher, Library};

/// With the value `library` in it, the multi-buffer cipher is not used.
const SWITCH: &str = "SAMEWIRE_CIPHER";

/// Chooses once, at start.
pub(crate) fn best() -> &'static dyn BatchCipher {
    if std::env::var_os(SWITCH).is_some_and(|value| value == "library") {
        return &Library;
    }
    multi_buffer().unwrap_or(&Library)
}

/// The cipher that works on many packets at once, where the processor has the instructions for it.
pub fn multi_buffer() -> Option<&'static dyn BatchCipher> {
    #[cfg(target_arch = "x86_64")]
    {
        avx512::Avx512::detect()
    }
    #[cfg(not(target_arch = "x86_64"))]
    {
        None
    }
}

#[cfg(test)]
mod tests;
