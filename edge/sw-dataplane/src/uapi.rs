//! WireGuard's cross-platform configuration protocol (wireguard.com/xplatform): what `wg` and `wg-quick` speak.
//!
//! A request is `get=1` or `set=1`, lines `key=value`, an empty line; the answer ends with `errno=N` and an empty
//! line. Keys are lower-case hex.

use crate::device::{Device, PeerConfig, Roaming};
use ipnet::IpNet;
use std::fmt::Write as _;
use std::net::SocketAddr;
use std::sync::Mutex;
use std::time::Duration;
use sw_types::{NodeKey, NodePrivate, Path};
use zeroize::{Zeroize, Zeroizing};

/// Bytes of one request: some 100,000 peers fit.
pub(crate) const REQUEST_MAX: usize = 64 << 20;
const EINVAL: i32 = 22;
const EIO: i32 = 5;
const EADDRINUSE: i32 = 98;

/// The parts of the configuration that the device itself need not remember.
#[derive(Debug, Default)]
pub(crate) struct Uapi {
    settings: Mutex<Settings>,
}

#[derive(Debug, Default)]
struct Settings {
    private: Option<NodePrivate>,
    mark: u32,
}

/// One change of one peer.
#[derive(Debug)]
struct PeerChange {
    config: PeerConfig,
    is_new: bool,
    is_removal: bool,
    only_if_known: bool,
}

impl Uapi {
    /// Answers one request. The text may hold keys: it is wiped when dropped.
    pub(crate) fn answer(&self, device: &Device, request: &str) -> Zeroizing<String> {
        let mut lines = request.lines();
        let mut answer = Zeroizing::new(String::new());
        let errno = match lines.next() {
            Some("get=1") => {
                self.describe(device, &mut answer);
                0
            }
            Some("set=1") => self.change(device, lines).err().unwrap_or(0),
            _ => EINVAL,
        };
        push(&mut answer, format_args!("errno={errno}\n\n"));
        answer
    }

    fn describe(&self, device: &Device, out: &mut String) {
        let settings = crate::slot::lock(&self.settings);
        if let Some(private) = &settings.private {
            let text = Zeroizing::new(hex::encode(private.expose_bytes()));
            push(out, format_args!("private_key={}\n", *text));
        }
        push(out, format_args!("listen_port={}\n", device.local_port()));
        if settings.mark != 0 {
            push(out, format_args!("fwmark={}\n", settings.mark));
        }
        for peer in device.peers() {
            push(out, format_args!("public_key={}\n", hex::encode(peer.key.as_bytes())));
            let psk = Zeroizing::new(hex::encode(*peer.psk));
            push(out, format_args!("preshared_key={}\nprotocol_version=1\n", *psk));
            if let Some(addr) = peer.path.and_then(|path| path.udp_addr()) {
                push(out, format_args!("endpoint={addr}\n"));
            }
            let nanos = peer.last_handshake.map_or(0, |at| at.as_nanos());
            push(
                out,
                format_args!(
                    "last_handshake_time_sec={}\nlast_handshake_time_nsec={}\n",
                    nanos / 1_000_000_000,
                    nanos % 1_000_000_000
                ),
            );
            push(
                out,
                format_args!(
                    "tx_bytes={}\nrx_bytes={}\npersistent_keepalive_interval={}\n",
                    peer.sent_bytes,
                    peer.received_bytes,
                    peer.keepalive.map_or(0, |k| k.as_secs())
                ),
            );
            for net in &peer.allowed {
                push(out, format_args!("allowed_ip={net}\n"));
            }
        }
    }

    /// Applies a `set`; the error is an errno.
    fn change<'a>(&self, device: &Device, lines: impl Iterator<Item = &'a str>) -> Result<(), i32> {
        let mut peer: Option<PeerChange> = None;
        for line in lines {
            if line.is_empty() {
                break;
            }
            let (key, value) = line.split_once('=').ok_or(EINVAL)?;
            if key == "public_key" {
                apply(device, peer.take());
                peer = Some(PeerChange::of(device, NodeKey::from_bytes(parse_key(value)?)));
                continue;
            }
            match &mut peer {
                None => self.change_device(device, key, value)?,
                Some(peer) => peer.set(key, value)?,
            }
        }
        apply(device, peer);
        Ok(())
    }

    fn change_device(&self, device: &Device, key: &str, value: &str) -> Result<(), i32> {
        match key {
            "private_key" => {
                let mut bytes = parse_key(value)?;
                let is_none = bytes == [0; 32];
                let make = || (!is_none).then(|| NodePrivate::from_bytes(bytes));
                crate::slot::lock(&self.settings).private = make();
                device.set_private_key(make());
                bytes.zeroize();
            }
            "listen_port" => {
                let port = value.parse().map_err(|_| EINVAL)?;
                if port == 0 || port != device.local_port() {
                    device.rebind(port).map_err(|error| error.raw_os_error().unwrap_or(EADDRINUSE))?;
                }
            }
            "fwmark" => {
                let mark = parse_mark(value).ok_or(EINVAL)?;
                device.set_mark(mark).map_err(|error| error.raw_os_error().unwrap_or(EIO))?;
                crate::slot::lock(&self.settings).mark = mark;
            }
            "replace_peers" if value == "true" => device.set_peers(Vec::new()),
            _ => return Err(EINVAL),
        }
        Ok(())
    }
}

impl PeerChange {
    /// Starts from what the device has.
    fn of(device: &Device, key: NodeKey) -> Self {
        let known = device.peer(&key);
        let is_new = known.is_none();
        let mut config = PeerConfig {
            key,
            psk: None,
            keepalive: None,
            allowed: Vec::new(),
            path: None,
            roaming: Roaming::FollowPackets,
        };
        if let Some(known) = known {
            config.psk = Some(known.psk);
            config.keepalive = known.keepalive;
            config.allowed = known.allowed.into_vec();
        }
        Self { config, is_new, is_removal: false, only_if_known: false }
    }

    fn set(&mut self, key: &str, value: &str) -> Result<(), i32> {
        let config = &mut self.config;
        match key {
            "remove" if value == "true" => self.is_removal = true,
            "update_only" if value == "true" => self.only_if_known = true,
            "preshared_key" => config.psk = Some(Zeroizing::new(parse_key(value)?)),
            "endpoint" => {
                let addr: SocketAddr = value.parse().map_err(|_| EINVAL)?;
                config.path = Some(Path::Direct(addr));
            }
            "persistent_keepalive_interval" => {
                let secs: u16 = value.parse().map_err(|_| EINVAL)?;
                config.keepalive = (secs > 0).then(|| Duration::from_secs(secs.into()));
            }
            "replace_allowed_ips" if value == "true" => config.allowed.clear(),
            "allowed_ip" => {
                let (is_removal, text) = match value.strip_prefix('-') {
                    Some(text) => (true, text),
                    None => (false, value),
                };
                let net = text.parse::<IpNet>().map_err(|_| EINVAL)?.trunc();
                config.allowed.retain(|other| *other != net);
                if !is_removal {
                    config.allowed.push(net);
                }
            }
            "protocol_version" if value == "1" => {}
            _ => return Err(EINVAL),
        }
        Ok(())
    }
}

fn apply(device: &Device, change: Option<PeerChange>) {
    let Some(change) = change else { return };
    if change.is_removal {
        device.remove_peer(&change.config.key);
    } else if !(change.only_if_known && change.is_new) {
        device.upsert_peer(change.config);
    }
}

fn push(out: &mut String, text: std::fmt::Arguments<'_>) {
    // Writing to a String cannot fail.
    let _infallible = out.write_fmt(text);
}

fn parse_key(text: &str) -> Result<[u8; 32], i32> {
    let mut key = [0; 32];
    hex::decode_to_slice(text, &mut key).map_err(|_| EINVAL)?;
    Ok(key)
}

/// Decimal, or hexadecimal with `0x`.
fn parse_mark(text: &str) -> Option<u32> {
    match text.strip_prefix("0x") {
        Some(digits) => u32::from_str_radix(digits, 16).ok(),
        None => text.parse().ok(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{DeviceConfig, PacketIo, SocketOptions};

    fn device() -> Device {
        let (io, _) = PacketIo::channel();
        let config = DeviceConfig { io, port: 0, sockets: SocketOptions::default(), mtu: 1420 };
        Device::start(config).unwrap().0
    }

    #[test]
    fn what_is_set_is_got() {
        let (device, uapi) = (device(), Uapi::default());
        let (private, public, other) = ("11".repeat(32), "22".repeat(32), "33".repeat(32));
        let set = format!(
            "set=1\nprivate_key={private}\nfwmark=0\nreplace_peers=true\npublic_key={public}\n\
             preshared_key={}\nendpoint=[2001:db8::1]:51820\npersistent_keepalive_interval=25\n\
             replace_allowed_ips=true\nallowed_ip=10.0.0.1/32\nallowed_ip=fd00::/8\nprotocol_version=1\n\
             public_key={other}\nendpoint=192.0.2.1:1\nallowed_ip=10.1.0.0/16\n\n",
            "44".repeat(32)
        );
        assert_eq!(*uapi.answer(&device, &set), "errno=0\n\n");
        let got = uapi.answer(&device, "get=1\n\n");
        for line in [
            format!("private_key={private}"),
            format!("public_key={public}"),
            format!("preshared_key={}", "44".repeat(32)),
            "endpoint=[2001:db8::1]:51820".into(),
            "endpoint=192.0.2.1:1".into(),
            "persistent_keepalive_interval=25".into(),
            "allowed_ip=10.0.0.1/32".into(),
            "allowed_ip=fd00::/8".into(),
            "allowed_ip=10.1.0.0/16".into(),
            format!("listen_port={}", device.local_port()),
            "errno=0".into(),
        ] {
            assert!(got.lines().any(|l| l == line), "{line} in {}", *got);
        }
        let moved = format!("set=1\npublic_key={other}\nallowed_ip=10.0.0.1/32\n\n");
        uapi.answer(&device, &moved);
        let got = uapi.answer(&device, "get=1\n\n");
        assert_eq!(got.matches("allowed_ip=10.0.0.1/32").count(), 1, "an address has one owner");
        uapi.answer(&device, &format!("set=1\npublic_key={other}\nallowed_ip=-10.0.0.1/32\n\n"));
        assert!(!uapi.answer(&device, "get=1\n\n").contains("10.0.0.1/32"));
        uapi.answer(&device, &format!("set=1\npublic_key={public}\nremove=true\n\n"));
        let update = format!("set=1\npublic_key={public}\nupdate_only=true\n\n");
        assert_eq!(*uapi.answer(&device, &update), "errno=0\n\n");
        assert!(!uapi.answer(&device, "get=1\n\n").contains(&public));
    }

    #[test]
    fn nonsense_is_refused() {
        let (device, uapi) = (device(), Uapi::default());
        for request in [
            "",
            "got=1\n\n",
            "set=1\nx\n\n",
            "set=1\nprivate_key=12\n\n",
            "set=1\nlisten_port=70000\n\n",
            "set=1\nallowed_ip=10.0.0.1/32\n\n",
            &format!("set=1\npublic_key={}\nallowed_ip=10.0.0.1/33\n\n", "22".repeat(32)),
            &format!("set=1\npublic_key={}\nendpoint=host:1\n\n", "22".repeat(32)),
        ] {
            assert_eq!(*uapi.answer(&device, request), "errno=22\n\n", "{request:?}");
        }
        arbtest::arbtest(|u| {
            let keys = ["set=1", "get=1", "public_key=", "endpoint=", "allowed_ip=", "remove=true", "\n"];
            let mut text = String::new();
            for _ in 0..u.int_in_range(0..=12)? {
                text.push_str(u.choose::<&str>(&keys)?);
                text.push_str(&u.arbitrary::<String>()?);
                text.push('\n');
            }
            uapi.answer(&device, &text);
            Ok(())
        });
    }
}
