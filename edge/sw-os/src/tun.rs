//! A TUN device: whole IP packets, with a virtio header in front where the kernel knows it.
//!
//! With the header the kernel hands over and takes superpackets of up to 64 KiB: one system call carries some 45
//! packets of a TCP stream. What the header says is described in the virtio specification §5.1.6.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::fs::OpenOptionsExt;

/// Bytes of the virtio header in front of every packet of a device opened with [`Offload::Superpackets`].
pub const VNET_HEADER_LEN: usize = 10;

const TUNSETIFF: libc::c_ulong = 0x4004_54ca;
const TUNSETOFFLOAD: libc::c_ulong = 0x4004_54d0;
/// `TUN_F_CSUM | TUN_F_TSO4 | TUN_F_TSO6`.
const OFFLOAD_TCP: libc::c_ulong = 0x01 | 0x02 | 0x04;
/// `TUN_F_USO4 | TUN_F_USO6`, since Linux 6.2.
const OFFLOAD_UDP: libc::c_ulong = 0x20 | 0x40;

/// What was asked for and could not be had.
#[derive(Debug, thiserror::Error)]
pub enum TunError {
    #[error("interface name {name:?} is not 1 to 15 bytes without '/' and spaces")]
    Name { name: String },
    #[error("cannot open /dev/net/tun")]
    Open(#[source] io::Error),
    #[error("cannot create the interface {name}")]
    Create {
        name: String,
        #[source]
        cause: io::Error,
    },
    #[error("cannot set up the interface {name}")]
    Configure {
        name: String,
        #[source]
        cause: io::Error,
    },
}

/// How packets cross the device, best first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Offload {
    /// With a virtio header; TCP superpackets, and UDP ones if `udp`.
    Superpackets { udp: bool },
    /// Bare packets, each at most the MTU.
    None,
}

/// Which offloads to ask for (what the kernel lacks is left out in any case).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Want {
    #[default]
    Best,
    NoOffload,
}

/// An open TUN device; the interface goes away when it is dropped. Reads do not block.
#[derive(Debug)]
pub struct Tun {
    file: File,
    name: String,
    offload: Offload,
}

impl Tun {
    /// Creates the interface `name` (a `%d` in it lets the kernel number it).
    pub fn create(name: &str, want: Want) -> Result<Self, TunError> {
        let is_legal = |b: u8| b.is_ascii_graphic() && b != b'/' && b != b':';
        if name.is_empty() || name.len() > 15 || !name.bytes().all(is_legal) {
            return Err(TunError::Name { name: name.to_owned() });
        }
        let open = || {
            OpenOptions::new()
                .read(true)
                .write(true)
                .custom_flags(libc::O_NONBLOCK)
                .open("/dev/net/tun")
                .map_err(TunError::Open)
        };
        let with_header = want == Want::Best;
        let mut file = open()?;
        let made = match sys::set_interface(&file, name, with_header) {
            Err(error) if with_header && error.raw_os_error() == Some(libc::EINVAL) => {
                file = open()?;
                sys::set_interface(&file, name, false).map(|name| (name, false))
            }
            made => made.map(|name| (name, with_header)),
        };
        let (name, has_header) = made.map_err(|cause| TunError::Create { name: name.to_owned(), cause })?;
        let offload = if has_header {
            let udp = sys::set_offload(&file, OFFLOAD_TCP | OFFLOAD_UDP).is_ok();
            if !udp {
                // Without any offload the header still stands in front of each packet, and that works too.
                let _tcp_alone = sys::set_offload(&file, OFFLOAD_TCP);
            }
            Offload::Superpackets { udp }
        } else {
            Offload::None
        };
        Ok(Self { file, name, offload })
    }

    /// The interface's name as the kernel chose it.
    pub fn name(&self) -> &str {
        &self.name
    }

    pub fn offload(&self) -> Offload {
        self.offload
    }

    /// For reading and writing packets (`&File` is `Read` and `Write`): one call, one packet.
    pub fn file(&self) -> &File {
        &self.file
    }

    /// The interface's MTU, read from the kernel.
    pub fn mtu(&self) -> Result<u32, TunError> {
        sys::mtu(&self.name).map_err(|cause| self.configure_error(cause))
    }

    /// Sets the MTU.
    pub fn set_mtu(&self, mtu: u32) -> Result<(), TunError> {
        sys::set_mtu(&self.name, mtu).map_err(|cause| self.configure_error(cause))
    }

    /// Sets the length of the queue in front of us, in packets.
    pub fn set_queue_len(&self, packets: u32) -> Result<(), TunError> {
        sys::set_queue_len(&self.name, packets).map_err(|cause| self.configure_error(cause))
    }

    /// Brings the interface up.
    pub fn set_up(&self) -> Result<(), TunError> {
        sys::set_up(&self.name).map_err(|cause| self.configure_error(cause))
    }

    fn configure_error(&self, cause: io::Error) -> TunError {
        TunError::Configure { name: self.name.clone(), cause }
    }
}

impl AsFd for Tun {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

#[expect(unsafe_code, reason = "TUN and interface ioctls have no safe form in rustix")]
mod sys {
    use super::*;

    /// `struct ifreq` of `netdevice(7)`: a name and a union of 24 bytes.
    #[repr(C)]
    struct Request {
        name: [u8; libc::IFNAMSIZ],
        value: [u8; 24],
    }

    impl Request {
        fn new(name: &str) -> Self {
            let mut request = Self { name: [0; libc::IFNAMSIZ], value: [0; 24] };
            let len = name.len().min(libc::IFNAMSIZ - 1);
            request.name[..len].copy_from_slice(&name.as_bytes()[..len]);
            request
        }

        fn with_u32(mut self, value: u32) -> Self {
            self.value[..4].copy_from_slice(&value.to_ne_bytes());
            self
        }
    }

    fn request_on(fd: &impl AsRawFd, code: libc::c_ulong, request: &mut Request) -> io::Result<()> {
        // SAFETY: every code used here takes a pointer to `struct ifreq`, whose size and layout `Request` has,
        // and the kernel does not keep the pointer.
        match unsafe { libc::ioctl(fd.as_raw_fd(), code, std::ptr::from_mut(request)) } {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    }

    /// Attaches `file` to the TUN interface `name` and returns the name the kernel chose.
    pub(super) fn set_interface(file: &File, name: &str, with_header: bool) -> io::Result<String> {
        let header = if with_header { libc::IFF_VNET_HDR } else { 0 };
        let flags = (libc::IFF_TUN | libc::IFF_NO_PI | header) as u16;
        let mut request = Request::new(name);
        request.value[..2].copy_from_slice(&flags.to_ne_bytes());
        request_on(file, TUNSETIFF, &mut request)?;
        let len = request.name.iter().position(|b| *b == 0).unwrap_or(request.name.len());
        Ok(String::from_utf8_lossy(&request.name[..len]).into_owned())
    }

    pub(super) fn set_offload(file: &File, flags: libc::c_ulong) -> io::Result<()> {
        // SAFETY: TUNSETOFFLOAD takes its argument by value.
        match unsafe { libc::ioctl(file.as_raw_fd(), TUNSETOFFLOAD, flags) } {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    }

    /// Asks the kernel about an interface through any socket of this network namespace.
    fn on_interface(code: libc::c_ulong, mut request: Request) -> io::Result<Request> {
        let socket = std::net::UdpSocket::bind((std::net::Ipv4Addr::UNSPECIFIED, 0))?;
        request_on(&socket, code, &mut request)?;
        Ok(request)
    }

    pub(super) fn mtu(name: &str) -> io::Result<u32> {
        let answer = on_interface(libc::SIOCGIFMTU as _, Request::new(name))?;
        let mut value = [0; 4];
        value.copy_from_slice(&answer.value[..4]);
        Ok(u32::from_ne_bytes(value))
    }

    pub(super) fn set_mtu(name: &str, mtu: u32) -> io::Result<()> {
        on_interface(libc::SIOCSIFMTU as _, Request::new(name).with_u32(mtu)).map(drop)
    }

    pub(super) fn set_queue_len(name: &str, packets: u32) -> io::Result<()> {
        on_interface(libc::SIOCSIFTXQLEN as _, Request::new(name).with_u32(packets)).map(drop)
    }

    pub(super) fn set_up(name: &str) -> io::Result<()> {
        let mut request = on_interface(libc::SIOCGIFFLAGS as _, Request::new(name))?;
        request.value[0] |= libc::IFF_UP as u8;
        on_interface(libc::SIOCSIFFLAGS as _, request).map(drop)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_checked_before_the_kernel_sees_them() {
        for name in ["", "a/b", "a b", "sixteen-bytes-xx", "über"] {
            assert!(matches!(Tun::create(name, Want::Best), Err(TunError::Name { .. })), "{name:?}");
        }
    }
}
