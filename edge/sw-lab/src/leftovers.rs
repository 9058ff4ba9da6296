//! Finding and removing what labs have made, also those that were killed half way.
//!
//! There is no register to go stale: a namespace is a lab's by its name, a process by the namespace it lives in.

use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use crate::namespace::{NETNS_DIR, NETNS_ETC_DIR, PREFIX, ip_batch};
use crate::{LabError, stand_in};

/// How long programs get to end by themselves.
const GRACE: Duration = Duration::from_secs(2);

/// What labs have on this machine.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Leftovers {
    /// Names of network namespaces.
    pub namespaces: Vec<String>,
    /// Numbers of processes that live in them.
    pub processes: Vec<i32>,
    /// Directories of state, sockets and resolver files.
    pub directories: Vec<PathBuf>,
    /// Interfaces of the host itself that carry the prefix; the lab makes none.
    pub links: Vec<String>,
}

impl Leftovers {
    /// Tells whether there is nothing.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// Returns the directory of a lab's state, sockets and logs.
pub(crate) fn run_dir(lab: &str) -> PathBuf {
    Path::new("/run").join(format!("{PREFIX}{lab}"))
}

/// Returns what the lab of that name, or any lab, has on this machine.
pub fn find_leftovers(lab: Option<&str>) -> Leftovers {
    let space_prefix = lab.map_or_else(|| PREFIX.to_owned(), |lab| format!("{PREFIX}{lab}."));
    // Without the point nothing is a lab's: other tools may share the beginning of the prefix.
    let is_ours = |name: &str| name.starts_with(&space_prefix) && name.contains('.');
    let namespaces: Vec<String> = names_in(NETNS_DIR).into_iter().filter(|n| is_ours(n)).collect();
    let mut directories: Vec<PathBuf> = names_in(NETNS_ETC_DIR)
        .into_iter()
        .filter(|n| is_ours(n))
        .map(|n| Path::new(NETNS_ETC_DIR).join(n))
        .collect();
    match lab {
        Some(lab) => directories.extend(Some(run_dir(lab)).filter(|d| d.exists())),
        None => directories.extend(
            names_in("/run").into_iter().filter(|n| n.starts_with(PREFIX)).map(|n| Path::new("/run").join(n)),
        ),
    }
    let links = if lab.is_some() {
        Vec::new()
    } else {
        names_in("/sys/class/net").into_iter().filter(|n| n.starts_with(PREFIX)).collect()
    };
    Leftovers { processes: processes_in(&namespaces), namespaces, directories, links }
}

/// Returns the names of the labs that exist.
pub(crate) fn lab_names() -> Vec<String> {
    let mut names: Vec<String> = names_in(NETNS_DIR)
        .iter()
        .filter_map(|n| Some(n.strip_prefix(PREFIX)?.split_once('.')?.0.to_owned()))
        .collect();
    names.dedup();
    names
}

/// Removes the lab of that name.
///
/// # Errors
/// Something could not be removed.
pub fn remove_lab(lab: &str) -> Result<(), LabError> {
    remove(Some(lab))
}

/// Removes every lab.
///
/// # Errors
/// Something could not be removed.
pub fn remove_all() -> Result<(), LabError> {
    remove(None)
}

fn remove(lab: Option<&str>) -> Result<(), LabError> {
    let found = find_leftovers(lab);
    end_processes(&found.namespaces);
    let lines: Vec<String> = found.namespaces.iter().map(|n| format!("netns del {n}")).collect();
    ip_batch(None, &lines)?;
    let mut lines: Vec<String> = found.links.iter().map(|n| format!("link del {n}")).collect();
    lines.sort_unstable();
    ip_batch(None, &lines)?;
    for directory in &found.directories {
        std::fs::remove_dir_all(directory).map_err(|e| {
            LabError::new("lab-files", format!("\"{}\" cannot be removed.", directory.display()))
                .why(e.to_string())
        })?;
    }
    // The directory of replaced files is ours only as long as it is empty; then it was we who made it.
    let _shared = std::fs::remove_dir(NETNS_ETC_DIR);
    stand_in::remove().map_err(|e| {
        LabError::new("lab-files", "a file that the lab put into \"/etc\" cannot be removed.")
            .why(e.to_string())
    })
}

/// Ends what runs in `namespaces`, first by asking.
fn end_processes(namespaces: &[String]) {
    let end = Instant::now() + GRACE;
    signal_all(namespaces, Signal::TERM);
    while !processes_in(namespaces).is_empty() {
        if Instant::now() > end {
            signal_all(namespaces, Signal::KILL);
        }
        std::thread::sleep(Duration::from_millis(20));
        if Instant::now() > end + GRACE {
            return;
        }
    }
}

fn signal_all(namespaces: &[String], signal: Signal) {
    for pid in processes_in(namespaces).into_iter().filter_map(Pid::from_raw) {
        // It may have ended meanwhile, which is what we want.
        let _gone = kill_process(pid, signal);
    }
}

/// Returns the processes whose network namespace is one of `namespaces`; those that have ended but were not yet
/// collected by their parent do not count.
fn processes_in(namespaces: &[String]) -> Vec<i32> {
    let inodes: Vec<u64> = namespaces
        .iter()
        .filter_map(|n| Some(std::fs::metadata(Path::new(NETNS_DIR).join(n)).ok()?.ino()))
        .collect();
    if inodes.is_empty() {
        return Vec::new();
    }
    let pids = names_in("/proc").into_iter().filter_map(|n| n.parse::<i32>().ok());
    pids.filter(|pid| {
        std::fs::metadata(format!("/proc/{pid}/ns/net")).is_ok_and(|m| inodes.contains(&m.ino()))
            && !is_zombie(*pid)
    })
    .collect()
}

fn is_zombie(pid: i32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(')').is_some_and(|(_, rest)| rest.trim_start().starts_with('Z'))
}

/// Returns the sorted names of what is in `directory`; none where it is not there.
pub(crate) fn names_in(directory: &str) -> Vec<String> {
    let Ok(entries) = std::fs::read_dir(directory) else { return Vec::new() };
    let mut names: Vec<String> = entries.filter_map(|e| e.ok()?.file_name().into_string().ok()).collect();
    names.sort_unstable();
    names
}
