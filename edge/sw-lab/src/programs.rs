//! Which binaries the lab runs: our own, and official ones where they are to be had.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use crate::LabError;

/// Directory that holds official programs, asked after the variable of the single program.
const DIRECTORY_VARIABLE: &str = "SAMEWIRE_PEERS";

/// Paths of the programs that a lab may run.
#[derive(Clone, Debug, Default)]
pub struct Programs {
    /// The program under test, which also serves the lab's cables and port mapping.
    pub samewire: PathBuf,
    /// The official daemon.
    pub tailscaled: Option<PathBuf>,
    /// The official command line.
    pub tailscale: Option<PathBuf>,
    /// The official relay.
    pub derper: Option<PathBuf>,
    /// Headscale, the free server for official clients.
    pub headscale: Option<PathBuf>,
}

impl Programs {
    /// Finds the official programs: by `SAMEWIRE_PEER_TAILSCALED` (`…_TAILSCALE`, `…_DERPER`, `…_HEADSCALE`), in the
    /// directory `SAMEWIRE_PEERS`, then on the `PATH`.
    pub fn from_environment(samewire: PathBuf) -> Self {
        Self {
            samewire,
            tailscaled: find("tailscaled"),
            tailscale: find("tailscale"),
            derper: find("derper"),
            headscale: find("headscale"),
        }
    }

    /// Returns the program that runs now, for a lab started from the command line.
    ///
    /// # Errors
    /// The system does not tell which file this program was started from.
    pub fn of_this_process() -> Result<Self, LabError> {
        let samewire = std::env::current_exe().map_err(|e| {
            LabError::new("lab-own-program", "the lab does not find its own program.").why(e.to_string())
        })?;
        Ok(Self::from_environment(samewire))
    }

    /// Returns the official daemon and command line, or a sentence that says how to name them.
    ///
    /// # Errors
    /// One of the two is absent.
    pub fn official_node(&self) -> Result<(&Path, &Path), LabError> {
        Ok((
            require(self.tailscaled.as_deref(), "tailscaled")?,
            require(self.tailscale.as_deref(), "tailscale")?,
        ))
    }

    /// Returns Headscale and the official relay.
    ///
    /// # Errors
    /// One of the two is absent.
    pub fn official_server(&self) -> Result<(&Path, &Path), LabError> {
        Ok((require(self.headscale.as_deref(), "headscale")?, require(self.derper.as_deref(), "derper")?))
    }
}

fn require<'a>(path: Option<&'a Path>, program: &str) -> Result<&'a Path, LabError> {
    path.ok_or_else(|| {
        LabError::new("lab-peer-missing", format!("the official program \"{program}\" was not found."))
            .why(format!(
                "neither {} nor {DIRECTORY_VARIABLE} names it, and it is not on the PATH",
                variable_of(program)
            ))
            .fix(format!("{DIRECTORY_VARIABLE}=DIR, where DIR holds {program}"))
    })
}

fn variable_of(program: &str) -> String {
    format!("SAMEWIRE_PEER_{}", program.to_ascii_uppercase())
}

fn find(program: &str) -> Option<PathBuf> {
    let named = std::env::var_os(variable_of(program)).map(PathBuf::from);
    let directory = std::env::var_os(DIRECTORY_VARIABLE).map(|d| Path::new(&d).join(program));
    let on_path = std::env::var_os("PATH").into_iter().flat_map(|path| {
        std::env::split_paths(&path).map(|dir| dir.join(OsStr::new(program))).collect::<Vec<_>>()
    });
    named
        .into_iter()
        .chain(directory)
        .chain(on_path)
        .find(|path| path.is_file())
        .and_then(|p| p.canonicalize().ok())
}
