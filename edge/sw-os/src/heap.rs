//! What the C library's allocator keeps of memory that the program has freed.
//!
//! glibc gives each thread an arena of its own and returns only the end of an arena to the kernel: after one
//! large message, freed here and made there, a third of a node's memory was free and still resident. Other C libraries
//! keep little; there these functions do nothing.

/// Arenas of the whole process. One would make packet threads and tasks wait for each other.
#[cfg(target_env = "gnu")]
const ARENAS_MAX: libc::c_int = 2;
/// Blocks from this size on are mappings of their own, which go back to the kernel when they are freed. Without a
/// value of ours glibc raises it to the largest block that was ever freed, up to 32 MiB.
#[cfg(target_env = "gnu")]
const MAPPED_FROM_BYTES: libc::c_int = 256 * 1024;

/// Sets the allocator up for a process that rests most of the time; to be called before threads are started.
#[cfg_attr(target_env = "gnu", expect(unsafe_code, reason = "the allocator has no safe face"))]
pub fn prefer_small() {
    #[cfg(target_env = "gnu")]
    // SAFETY: `mallopt` takes the allocator's own lock, and only changes where later blocks come from. A value that
    // it refuses changes nothing.
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, ARENAS_MAX);
        libc::mallopt(libc::M_MMAP_THRESHOLD, MAPPED_FROM_BYTES);
    }
}

/// Returns the whole pages that are free to the kernel.
///
/// Takes the allocator's locks for as long as it looks at what is free: some milliseconds after many small blocks
/// were freed. For moments without work.
#[cfg_attr(target_env = "gnu", expect(unsafe_code, reason = "the allocator has no safe face"))]
pub fn give_back() {
    #[cfg(target_env = "gnu")]
    // SAFETY: `malloc_trim` locks each arena and touches free memory alone.
    unsafe {
        libc::malloc_trim(0);
    }
}

#[cfg(all(test, target_env = "gnu"))]
mod tests {
    use super::*;

    fn own_kib() -> usize {
        let status = std::fs::read_to_string("/proc/self/status").expect("this process has a status");
        let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).expect("own memory");
        line.trim().trim_end_matches(" kB").parse().expect("a number")
    }

    #[test]
    fn what_was_freed_between_what_stays_is_given_back() {
        let mut blocks: Vec<Option<Box<[u8; 1000]>>> =
            (0..40_000).map(|_| Some(Box::new([1; 1000]))).collect();
        // Every hundredth stays: no arena has an end that is free.
        for block in blocks.iter_mut().enumerate().filter(|(at, _)| at % 100 != 0) {
            *block.1 = None;
        }
        let before = own_kib();
        give_back();
        let after = own_kib();
        assert!(after + 20_000 < before, "{before} KiB, then {after} KiB");
        assert_eq!(blocks.iter().flatten().map(|block| usize::from(block[999])).sum::<usize>(), 400);
    }
}
