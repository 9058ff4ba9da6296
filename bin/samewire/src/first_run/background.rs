//! Makes the daemon run and keep running: as a service where systemd runs, else in the background; and ends it again.

use std::fs::{self, File, OpenOptions};
use std::io::{self, IsTerminal as _, Write as _};
use std::net::TcpListener;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use sw_daemon::{DEFAULT_STATE, Problem, TUN_FILE, user_path};
use sw_types::local::SOCKET_PATH;

use super::screen::Service;
use crate::machine::{PROBLEM_NOTICE, STEP_NOTICE};

const UNIT_FILE: &str = "/etc/systemd/system/samewire.service";
/// Is there when systemd is the service manager.
const SYSTEMD_RUNS: &str = "/run/systemd/system";
/// A start includes making keys, a TUN device and a question to the router.
const START_LIMIT: Duration = Duration::from_secs(30);
/// Where programs reach the network through a daemon without root: SOCKS5 and HTTP.
pub const PROXY: &str = "127.0.0.1:1055";
const STOP_LIMIT: Duration = Duration::from_secs(10);
/// A log longer than this is begun anew at the next start.
const LOG_MAX: u64 = 8 << 20;

/// Where this user's samewire lives.
#[derive(Clone, Debug)]
pub struct Paths {
    /// Holds `node/`, `control/` and the log.
    pub state: PathBuf,
    pub socket: PathBuf,
    pub is_root: bool,
    /// This program, looked up before anything could take its place.
    pub program: Option<PathBuf>,
}

impl Paths {
    /// Those of the present user; `socket` is one that was given.
    pub fn detect(socket: Option<&Path>) -> Self {
        let is_root = rustix::process::geteuid().is_root();
        let node = user_path(is_root, DEFAULT_STATE, "XDG_STATE_HOME", ".local/state", "samewire/node");
        let default =
            || user_path(is_root, SOCKET_PATH, "XDG_RUNTIME_DIR", ".cache", "samewire/samewire.sock");
        Self {
            state: node.parent().unwrap_or(Path::new("/")).to_owned(),
            socket: socket.map_or_else(default, ToOwned::to_owned),
            is_root,
            program: std::env::current_exe().ok(),
        }
    }

    /// The directory of the server.
    pub fn control(&self) -> PathBuf {
        self.state.join("control")
    }

    /// The directory of the node.
    pub fn node(&self) -> PathBuf {
        self.state.join("node")
    }

    /// The log of a daemon in the background.
    pub fn log(&self) -> PathBuf {
        self.state.join("samewire.log")
    }
}

/// How the daemon will be run here.
pub fn manner(paths: &Paths) -> Service {
    match (paths.is_root, Path::new(SYSTEMD_RUNS).is_dir()) {
        (false, _) => Service::NoRoot,
        (true, true) => Service::Systemd,
        (true, false) => Service::NoManager,
    }
}

/// Starts the daemon and waits until local programs can use it. A long wait is explained on a terminal, unless
/// `is_quiet`.
///
/// # Errors
/// Why the daemon did not start, in its own words.
pub fn start(paths: &Paths, is_quiet: bool) -> Result<Service, Problem> {
    let manner = manner(paths);
    match manner {
        Service::Systemd => start_service(paths)?,
        Service::NoRoot | Service::NoManager | Service::Foreground => {
            start_in_background(paths, is_quiet)?;
        }
    }
    Ok(manner)
}

/// Keeps the interface's name for this start and later ones; `None` leaves what was kept before.
///
/// # Errors
/// The state directory cannot be written.
pub fn keep_tun(paths: &Paths, name: Option<&str>) -> Result<(), Problem> {
    let Some(name) = name else { return Ok(()) };
    let file = paths.node().join(TUN_FILE);
    let written = sw_os::files::create_private_directory(&paths.state)
        .and_then(|()| sw_os::files::create_private_directory(&paths.node()))
        .and_then(|()| sw_os::files::write_private(&file, name.as_bytes()));
    written.map_err(|error| {
        Problem::other(
            "the name of the interface could not be kept.",
            error.to_string(),
            "run it as root: sudo samewire up",
        )
    })
}

fn program(paths: &Paths) -> Result<&Path, Problem> {
    let unknown =
        || Problem::other("the program does not know its own place.", "", "start it by its full path");
    paths.program.as_deref().ok_or_else(unknown)
}

fn start_service(paths: &Paths) -> Result<(), Problem> {
    let unit = sw_os::service::systemd_unit(&program(paths)?.display().to_string());
    fs::write(UNIT_FILE, unit).map_err(|error| {
        Problem::other("the service could not be set up.", format!("{UNIT_FILE}: {error}"), "")
    })?;
    systemctl(&["daemon-reload"])?;
    systemctl(&["enable", "samewire.service"])?;
    systemctl(&["restart", "samewire.service"])
}

fn systemctl(words: &[&str]) -> Result<(), Problem> {
    let failed = |why: String| {
        Problem::other(
            "the service samewire did not start.",
            why,
            "see what it says: journalctl -u samewire -n 20",
        )
    };
    let output = Command::new("systemctl")
        .args(words)
        .stdin(Stdio::null())
        .output()
        .map_err(|error| failed(format!("systemctl: {error}")))?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(failed(said.lines().next().unwrap_or("systemctl gives no reason").to_owned()))
}

/// The daemon as a process of its own session, which tells by the service manager's protocol when it is ready.
fn start_in_background(paths: &Paths, is_quiet: bool) -> Result<(), Problem> {
    let failed = |why: String| Problem::other("the daemon could not be started.", why, "");
    sw_os::files::create_private_directory(&paths.state).map_err(|error| failed(error.to_string()))?;
    let log =
        open_log(&paths.log()).map_err(|error| failed(format!("{}: {error}", paths.log().display())))?;
    let name = format!("samewire-start-{}", std::process::id());
    let notices = SocketAddr::from_abstract_name(name.as_bytes())
        .and_then(|address| UnixDatagram::bind_addr(&address))
        .map_err(|error| failed(error.to_string()))?;
    let to_log = || log.try_clone().map(Stdio::from).map_err(|error| failed(error.to_string()));
    let mut daemon = Command::new(program(paths)?)
        .arg("daemon")
        .arg("--background")
        .arg("--socket")
        .arg(&paths.socket)
        .args(proxy_flags(paths))
        .env("NOTIFY_SOCKET", format!("@{name}"))
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(to_log()?)
        .stderr(to_log()?)
        .spawn()
        .map_err(|error| failed(error.to_string()))?;
    let outcome = await_ready(&notices, &mut daemon, &paths.log(), Waiting::begin(is_quiet));
    if outcome.is_err() {
        let _ended_already = daemon.kill();
        let _ended_already = daemon.wait();
    }
    outcome
}

/// Without root there is no TUN. A taken port is no reason not to start.
fn proxy_flags(paths: &Paths) -> Vec<String> {
    if paths.is_root || TcpListener::bind(PROXY).is_err() {
        return Vec::new();
    }
    vec![format!("--socks5-server={PROXY}"), format!("--outbound-http-proxy-listen={PROXY}")]
}

fn open_log(path: &Path) -> io::Result<File> {
    let is_long = fs::metadata(path).is_ok_and(|log| log.len() > LOG_MAX);
    let mut options = OpenOptions::new();
    options.create(true).mode(0o600);
    if is_long {
        options.write(true).truncate(true)
    } else {
        options.append(true)
    };
    options.open(path)
}

/// The line that says what is being waited for, on a terminal; nothing is shown for waits that nobody notices.
struct Waiting {
    begun: Instant,
    what: Option<String>,
    is_shown: bool,
}

impl Waiting {
    const SILENCE: Duration = Duration::from_millis(300);

    fn begin(is_quiet: bool) -> Option<Self> {
        let can_rewrite = std::env::var_os("TERM").is_some_and(|term| !term.is_empty() && term != "dumb");
        let is_wanted = !is_quiet && can_rewrite && io::stderr().is_terminal();
        is_wanted.then(|| Self { begun: Instant::now(), what: None, is_shown: false })
    }

    fn hear(&mut self, notice: &str) {
        if let Some(what) = notice.lines().find_map(|line| line.strip_prefix(STEP_NOTICE)) {
            self.what = Some(what.to_owned());
        }
        if self.begun.elapsed() >= Self::SILENCE
            && let Some(what) = self.what.take()
        {
            self.is_shown = true;
            self.write(&format!("\r\x1b[K    {what} ..."));
        }
    }

    fn write(&self, text: &str) {
        // A terminal that went away has nobody to tell.
        let _closed = io::stderr().lock().write_all(text.as_bytes());
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        if self.is_shown {
            self.write("\r\x1b[K");
        }
    }
}

fn await_ready(
    notices: &UnixDatagram,
    daemon: &mut Child,
    log: &Path,
    mut waiting: Option<Waiting>,
) -> Result<(), Problem> {
    let silent =
        |what: &str, why: String| Problem::other(what, why, format!("see its log: {}", log.display()));
    let read_timeout = notices.set_read_timeout(Some(Duration::from_millis(100)));
    read_timeout.map_err(|error| silent("the daemon could not be watched.", error.to_string()))?;
    let end = Instant::now() + START_LIMIT;
    let mut buffer = [0; 8192];
    while Instant::now() < end {
        match notices.recv(&mut buffer) {
            Ok(len) => {
                let notice = String::from_utf8_lossy(buffer.get(..len).unwrap_or_default()).into_owned();
                if let Some(problem) = notice.strip_prefix(PROBLEM_NOTICE) {
                    let problem = serde_json::from_str(problem);
                    return Err(problem.unwrap_or_else(|_| silent("the daemon did not start.", notice)));
                }
                if notice.lines().any(|line| line == "READY=1") {
                    return Ok(());
                }
                waiting.iter_mut().for_each(|line| line.hear(&notice));
            }
            // Ctrl-C interrupts the wait, not the start: what it leads to is decided when the daemon is ready.
            Err(error) if is_no_notice(error.kind()) => {
                waiting.iter_mut().for_each(|line| line.hear(""));
                if let Ok(Some(status)) = daemon.try_wait() {
                    return Err(silent("the daemon ended right after its start.", status.to_string()));
                }
            }
            Err(error) => return Err(silent("the daemon could not be watched.", error.to_string())),
        }
    }
    Err(silent("the daemon is not ready.", format!("it was given {} s", START_LIMIT.as_secs())))
}

fn is_no_notice(kind: io::ErrorKind) -> bool {
    matches!(kind, io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut | io::ErrorKind::Interrupted)
}

/// Ends the daemon, whoever started it, and waits for it. Nothing happens when none runs.
///
/// # Errors
/// It does not end.
pub fn stop(paths: &Paths) -> Result<(), Problem> {
    if paths.is_root && Path::new(UNIT_FILE).is_file() && Path::new(SYSTEMD_RUNS).is_dir() {
        systemctl(&["stop", "samewire.service"])?;
    }
    let Ok(stream) = UnixStream::connect(&paths.socket) else { return Ok(()) };
    let refuse = |why: String| Problem::other("the daemon could not be stopped.", why, "stop it by hand");
    let peer = rustix::net::sockopt::socket_peercred(&stream).map_err(|error| refuse(error.to_string()))?;
    drop(stream);
    rustix::process::kill_process(peer.pid, rustix::process::Signal::TERM)
        .map_err(|error| refuse(error.to_string()))?;
    let end = Instant::now() + STOP_LIMIT;
    while UnixStream::connect(&paths.socket).is_ok() || rustix::process::test_kill_process(peer.pid).is_ok() {
        if Instant::now() > end {
            return Err(refuse(format!("process {} still runs", peer.pid.as_raw_nonzero())));
        }
        // Our child, perhaps: a zombie is not alive.
        let _not_ours = rustix::process::waitpid(Some(peer.pid), rustix::process::WaitOptions::NOHANG);
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}

/// Takes the service away.
///
/// # Errors
/// systemd refuses.
pub fn remove_service() -> Result<(), Problem> {
    if !Path::new(UNIT_FILE).is_file() {
        return Ok(());
    }
    if Path::new(SYSTEMD_RUNS).is_dir() {
        systemctl(&["disable", "samewire.service"])?;
    }
    fs::remove_file(UNIT_FILE).map_err(|error| {
        Problem::other("the service could not be removed.", format!("{UNIT_FILE}: {error}"), "")
    })?;
    if Path::new(SYSTEMD_RUNS).is_dir() { systemctl(&["daemon-reload"]) } else { Ok(()) }
}
