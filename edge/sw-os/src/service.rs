//! The service manager: readiness notices to systemd, and the unit that runs the node.

use std::env;
use std::io;
use std::os::unix::net::UnixDatagram;

/// The systemd unit `samewire.service`; `{exe}` is the path of the program.
const UNIT: &str = "\
[Unit]
Description=samewire: every machine you own, on the same wire
Wants=network-pre.target
After=network-pre.target NetworkManager.service systemd-resolved.service

[Service]
Type=notify
EnvironmentFile=-/etc/default/samewire
ExecStart={exe} daemon
Restart=on-failure
RestartSec=1
RuntimeDirectory=samewire tailscale
RuntimeDirectoryMode=0755
StateDirectory=samewire
StateDirectoryMode=0700
UMask=0077
LimitCORE=0
CapabilityBoundingSet=CAP_NET_ADMIN CAP_NET_RAW CAP_NET_BIND_SERVICE CAP_DAC_READ_SEARCH CAP_SYS_PTRACE CAP_SETUID CAP_SETGID CAP_CHOWN
NoNewPrivileges=yes
ProtectSystem=yes
ProtectHome=read-only
ProtectKernelModules=yes
ProtectControlGroups=yes
ProtectClock=yes
PrivateTmp=yes
RestrictNamespaces=yes
RestrictRealtime=yes
LockPersonality=yes
MemoryDenyWriteExecute=yes
SystemCallArchitectures=native
RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6 AF_NETLINK
DeviceAllow=/dev/net/tun rw
DevicePolicy=closed

[Install]
WantedBy=multi-user.target
";

/// Returns the unit file for a program at `executable`.
pub fn systemd_unit(executable: &str) -> String {
    UNIT.replace("{exe}", executable)
}

/// Tells systemd something (`READY=1`, `STOPPING=1`, `STATUS=…`). Without a service manager this does nothing.
pub fn notify(message: &str) -> io::Result<()> {
    let Some(path) = env::var_os("NOTIFY_SOCKET") else { return Ok(()) };
    let socket = UnixDatagram::unbound()?;
    let text = path.to_string_lossy();
    match text.strip_prefix('@') {
        Some(name) => {
            use std::os::linux::net::SocketAddrExt as _;
            let address = std::os::unix::net::SocketAddr::from_abstract_name(name)?;
            socket.send_to_addr(message.as_bytes(), &address)?;
        }
        None => {
            socket.send_to(message.as_bytes(), &path)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_unit_names_the_program() {
        assert!(systemd_unit("/usr/bin/samewire").contains("ExecStart=/usr/bin/samewire daemon\n"));
    }
}
