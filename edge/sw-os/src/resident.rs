//! What stays in memory of the program itself.
//!
//! The kernel maps whole folios of up to 2 MiB around each page of a program that is touched, so a start
//! leaves most of a large binary resident. Mapped program pages are the last that the kernel takes back;
//! given back, they are plain page cache and cost nobody anything. What is needed again is mapped again
//! by a minor fault.

use std::path::Path;

/// A part of the address space that the program file or a library backs and nobody has written to.
#[derive(Debug, PartialEq, Eq)]
struct Clean {
    start: usize,
    len: usize,
}

/// Gives back the mapped pages of program code and constants; returns how many bytes of them were resident.
///
/// A few hundred microseconds: for moments without work.
///
/// # Errors
/// `/proc` is not there or the kernel refuses.
pub fn release_program_pages() -> std::io::Result<usize> {
    let text = std::fs::read_to_string("/proc/self/smaps")?;
    let program = std::fs::read_link("/proc/self/exe")?;
    let mut released = 0;
    for (part, resident) in clean_parts(&text, &program) {
        release(&part)?;
        released += resident;
    }
    Ok(released)
}

#[expect(unsafe_code, reason = "madvise has no safe form: other advice, or other pages, would lose data")]
fn release(part: &Clean) -> std::io::Result<()> {
    let start = std::ptr::without_provenance_mut(part.start);
    // SAFETY: the range is a private, read-only mapping of a file without one page of its own
    // (`clean_parts`): whoever reads or runs it after this gets the same bytes from the file. Only executable
    // parts of libraries are taken, which the dynamic loader never writes to, so none can become written
    // between the look and the call.
    unsafe { rustix::mm::madvise(start, part.len, rustix::mm::Advice::LinuxDontNeed) }?;
    Ok(())
}

/// Finds what may be given back in the text of `/proc/self/smaps` (proc(5)), with the resident bytes of each.
fn clean_parts(smaps: &str, program: &Path) -> Vec<(Clean, usize)> {
    let mut found: Vec<(Clean, usize)> = Vec::new();
    let mut open: Option<(Clean, usize)> = None;
    for line in smaps.lines() {
        let mut words = line.split_ascii_whitespace();
        let Some(first) = words.next() else { continue };
        if let Some(field) = first.strip_suffix(':') {
            let kib: usize = words.next().and_then(|word| word.parse().ok()).unwrap_or(0);
            match (field, &mut open) {
                ("Rss", Some((_, resident))) => *resident = kib * 1024,
                // Pages of its own: relocated data, or code with a debugger's breakpoints.
                ("Anonymous" | "Swap", _) if kib > 0 => open = None,
                _ => {}
            }
        } else {
            found.extend(open.take());
            open = clean_part(first, words, program).map(|part| (part, 0));
        }
    }
    found.extend(open);
    found
}

/// Reads the head line of a mapping: `start-end rights offset device inode path`.
fn clean_part<'a>(range: &str, mut rest: impl Iterator<Item = &'a str>, program: &Path) -> Option<Clean> {
    let (start, end) = range.split_once('-')?;
    let (start, end) = (usize::from_str_radix(start, 16).ok()?, usize::from_str_radix(end, 16).ok()?);
    let (rights, offset, path) = (rest.next()?, rest.next()?, rest.nth(2)?);
    let is_ours = match rights {
        "r-xp" => path.starts_with('/'),
        // The head of the program, never what was relocated and then protected.
        "r--p" => Path::new(path) == program && offset.bytes().all(|digit| digit == b'0'),
        _ => false,
    };
    (is_ours && end > start).then(|| Clean { start, len: end - start })
}

#[cfg(test)]
mod tests {
    use super::*;

    const SMAPS: &str = "\
5600000000-5600002000 r--p 00000000 fe:00 77                    /usr/bin/samewire
Rss:                   8 kB
Anonymous:             0 kB
5600002000-5600009000 r-xp 00002000 fe:00 77                    /usr/bin/samewire
Rss:                  20 kB
Anonymous:             0 kB
VmFlags: rd ex mr mw me
5600009000-560000a000 r--p 00009000 fe:00 77                    /usr/bin/samewire
Rss:                   4 kB
Anonymous:             4 kB
560000a000-560000b000 rw-p 0000a000 fe:00 77                    /usr/bin/samewire
Rss:                   4 kB
Anonymous:             4 kB
5600100000-5600200000 rw-p 00000000 00:00 0                          [heap]
Rss:                 100 kB
Anonymous:           100 kB
7f00000000-7f00001000 r--p 00000000 fe:00 12                    /usr/lib/libc.so.6
Rss:                   4 kB
Anonymous:             0 kB
7f00001000-7f00003000 r-xp 00001000 fe:00 12                    /usr/lib/libc.so.6
Rss:                   8 kB
Anonymous:             0 kB
7f00003000-7f00005000 r-xp 00003000 fe:00 12                    /usr/lib/libpatched.so
Rss:                   4 kB
Anonymous:             0 kB
Swap:                  4 kB
7ffd000000-7ffd002000 r-xp 00000000 00:00 0                          [vdso]
Rss:                   8 kB
Anonymous:             0 kB
";

    #[test]
    fn only_what_nobody_wrote_to_is_given_back() {
        let parts = clean_parts(SMAPS, Path::new("/usr/bin/samewire"));
        let starts: Vec<(usize, usize, usize)> =
            parts.iter().map(|(part, resident)| (part.start, part.len, *resident)).collect();
        assert_eq!(
            starts,
            [
                (0x56_0000_0000, 0x2000, 8 * 1024),
                (0x56_0000_2000, 0x7000, 20 * 1024),
                (0x7f_0000_1000, 0x2000, 8 * 1024),
            ]
        );
    }

    #[test]
    fn the_program_goes_on_after_its_pages_are_given_back() {
        let released = release_program_pages().expect("this process has a map of itself");
        assert!(released > 0);
        // Code and constants come back from the file.
        assert_eq!(clean_parts(SMAPS, Path::new("/elsewhere")).len(), 2);
    }
}
