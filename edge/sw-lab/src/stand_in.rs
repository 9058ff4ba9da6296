//! Files of `/etc` that a machine may lack. `ip netns exec` mounts a room's own over them, which needs something to
//! mount over; without it the room's programs would read, and daemons write, what all rooms share.

use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind, Write as _};
use std::path::{Path, PathBuf};

use crate::leftovers::names_in;
use crate::namespace::{NETNS_ETC_DIR, PREFIX};

/// The files that rooms have of their own.
const NAMES: [&str; 3] = ["hosts", "nsswitch.conf", "resolv.conf"];

/// To a resolver the same as no file.
const TEXT: &str = "# Empty: a samewire lab mounts the files of its rooms over this one.\n";

/// What stands in a room's `resolv.conf`. An official node that ends after its lab finds nothing mounted any more and
/// puts this back into the machine's own file.
pub(crate) const ROOM_TEXT: &str = "# samewire lab: this room has no resolver\n";

/// Makes the files that are missing. The lab's own directories stand already, so no other lab removes them.
pub(crate) fn put() -> io::Result<()> {
    let _one_at_a_time = lock()?;
    for path in paths() {
        match OpenOptions::new().write(true).create_new(true).open(path) {
            Ok(mut file) => file.write_all(TEXT.as_bytes())?,
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Removes them again once no lab is there.
pub(crate) fn remove() -> io::Result<()> {
    let _one_at_a_time = lock()?;
    if names_in(NETNS_ETC_DIR).iter().any(|name| name.starts_with(PREFIX)) {
        return Ok(());
    }
    let mut ours = paths()
        .filter(|path| std::fs::read_to_string(path).is_ok_and(|text| text == TEXT || text == ROOM_TEXT));
    ours.try_for_each(std::fs::remove_file)
}

fn paths() -> impl Iterator<Item = PathBuf> {
    NAMES.iter().map(|name| Path::new("/etc").join(name))
}

/// Holds off the other labs of this machine until it is dropped.
fn lock() -> io::Result<File> {
    let directory = File::open("/etc")?;
    directory.lock()?;
    Ok(directory)
}
