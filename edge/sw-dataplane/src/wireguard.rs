//! `samewire wireguard IFNAME`: a plain WireGuard device, configured by `wg` and `wg-quick`.

use crate::device::{Device, DeviceConfig};
use crate::event::Event;
use crate::io::PacketIo;
use crate::uapi::{REQUEST_MAX, Uapi};
use crate::udp::SocketOptions;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;
use sw_os::tun::{Tun, TunError, Want};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use zeroize::Zeroizing;

/// Where `wg` looks for sockets.
const SOCKET_DIR: &str = "/var/run/wireguard";
/// The MTU of an interface that nobody gave another one: 1500 less IPv6, UDP and WireGuard.
const MTU_DEFAULT: u32 = 1420;
/// Packets the kernel may hold for us.
const QUEUE_LEN: u32 = 1000;
/// A client that stops in the middle of a request is left alone after this.
const CLIENT_TIMEOUT: Duration = Duration::from_secs(10);

/// Why the device could not start.
#[derive(Debug, thiserror::Error)]
enum StartError {
    #[error("the kernel offers no TUN device.")]
    NoTun,
    #[error("the interface name {name} is in use.")]
    NameTaken { name: String },
    #[error("creating a network interface needs root.")]
    NotRoot,
    #[error("the interface could not be made.")]
    Tun(#[source] TunError),
    #[error("the control socket could not be made.")]
    Socket(#[source] io::Error),
    #[error("the device could not start.")]
    Device(#[source] io::Error),
}

impl StartError {
    fn from_tun(error: TunError) -> Self {
        match &error {
            TunError::Open(cause) if cause.kind() == io::ErrorKind::NotFound => Self::NoTun,
            TunError::Open(cause) | TunError::Create { cause, .. }
                if cause.kind() == io::ErrorKind::PermissionDenied =>
            {
                Self::NotRoot
            }
            TunError::Create { cause, name } if cause.raw_os_error() == Some(libc::EBUSY) => {
                Self::NameTaken { name: name.clone() }
            }
            TunError::Open(_)
            | TunError::Create { .. }
            | TunError::Configure { .. }
            | TunError::Name { .. } => Self::Tun(error),
        }
    }

    /// The reason, where it is not in the first line.
    fn why(&self) -> Option<String> {
        match self {
            Self::NoTun => Some("/dev/net/tun does not exist".into()),
            Self::NameTaken { .. } => Some("another program holds it".into()),
            Self::NotRoot => None,
            Self::Tun(error) => Some(chain(error)),
            Self::Socket(error) | Self::Device(error) => Some(error.to_string()),
        }
    }

    fn fix(&self) -> &'static str {
        match self {
            Self::NoTun => "sudo modprobe tun",
            Self::NameTaken { .. } => "choose another name: ip link shows those in use",
            Self::NotRoot => "run the same command with sudo",
            Self::Tun(_) => "choose a name of at most 15 letters and digits",
            Self::Socket(_) => "check that /var/run/wireguard can be written",
            Self::Device(_) => "check the limits of open files and threads: ulimit -a",
        }
    }

    fn exit_code(&self) -> u8 {
        match self {
            Self::NotRoot => 4,
            Self::NoTun | Self::NameTaken { .. } | Self::Tun(_) | Self::Socket(_) | Self::Device(_) => 1,
        }
    }
}

fn chain(error: &dyn std::error::Error) -> String {
    match error.source() {
        Some(cause) => format!("{error}: {}", chain(cause)),
        None => error.to_string(),
    }
}

/// Runs a plain WireGuard device in the foreground, until a signal or until the interface is deleted.
#[expect(clippy::print_stderr, reason = "the answer of the command")]
pub fn run(name: &str) -> ExitCode {
    let started = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(StartError::Device)
        .and_then(|runtime| runtime.block_on(serve(name)));
    let Err(error) = started else { return ExitCode::SUCCESS };
    eprintln!("error: {error}");
    if let Some(why) = error.why() {
        eprintln!("  why: {}", sw_types::problem::without_numbers(&why));
    }
    eprintln!("  fix: {}", error.fix());
    ExitCode::from(error.exit_code())
}

async fn serve(name: &str) -> Result<(), StartError> {
    let tun = Tun::create(name, Want::Best).map_err(StartError::from_tun)?;
    tun.set_mtu(MTU_DEFAULT).map_err(StartError::Tun)?;
    // A longer queue is better, not needed.
    let _has_longer_queue = tun.set_queue_len(QUEUE_LEN);
    let socket_path = PathBuf::from(SOCKET_DIR).join(format!("{}.sock", tun.name()));
    let config = DeviceConfig {
        io: PacketIo::Tun(tun),
        port: 0,
        sockets: SocketOptions::default(),
        mtu: MTU_DEFAULT as usize,
    };
    let (device, events) = Device::start(config).map_err(StartError::Device)?;
    let device = Arc::new(device);
    let listener = bind(&socket_path).map_err(StartError::Socket)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(StartError::Device)?;
    let mut terminate = signal(SignalKind::terminate()).map_err(StartError::Device)?;
    tokio::select! {
        () = accept(&listener, &device) => {}
        () = until_gone(events) => {}
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
    // It is gone already if somebody else took the name over; nothing depends on it.
    let _is_removed = std::fs::remove_file(&socket_path);
    Ok(())
}

/// Makes the socket, 0600 from its first moment; one that nobody answers is replaced.
fn bind(path: &Path) -> io::Result<UnixListener> {
    std::fs::create_dir_all(SOCKET_DIR)?;
    if path.exists() && std::os::unix::net::UnixStream::connect(path).is_err() {
        std::fs::remove_file(path)?;
    }
    let before = rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o177));
    let listener = UnixListener::bind(path);
    rustix::process::umask(before);
    let listener = listener?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
    Ok(listener)
}

/// Events that a plain device has no use for are dropped; the interface's end is the device's end.
async fn until_gone(mut events: mpsc::Receiver<Event>) {
    while let Some(event) = events.recv().await {
        if matches!(event, Event::TunGone) {
            return;
        }
    }
}

/// Serves clients one after the other, as each needs the whole configuration.
async fn accept(listener: &UnixListener, device: &Arc<Device>) {
    let uapi = Uapi::default();
    loop {
        let Ok((client, _)) = listener.accept().await else {
            // Out of descriptors, most likely: wait for better times.
            tokio::time::sleep(Duration::from_millis(100)).await;
            continue;
        };
        if let Err(error) = tokio::time::timeout(CLIENT_TIMEOUT, converse(client, &uapi, device)).await {
            tracing::debug!(%error, "a configuration client went silent");
        }
    }
}

/// Answers the requests of one client until it closes; a client that breaks off is its own loss.
async fn converse(client: UnixStream, uapi: &Uapi, device: &Device) {
    let (reader, mut writer) = client.into_split();
    let mut reader = BufReader::new(reader);
    loop {
        let mut request = Zeroizing::new(String::new());
        loop {
            let before = request.len();
            match reader.read_line(&mut request).await {
                Ok(0) | Err(_) => return,
                Ok(_) if request.len() > REQUEST_MAX => return,
                Ok(_) if &request[before..] == "\n" => break,
                Ok(_) => {}
            }
        }
        let answer = uapi.answer(device, &request);
        if writer.write_all(answer.as_bytes()).await.is_err() {
            return;
        }
    }
}
