//! Forgetting what a NAT has learnt: one netlink message that empties the kernel's connection tracking of a namespace.

use rustix::net::netlink::{NETFILTER, SocketAddrNetlink};
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, recv, sendto, socket_with};

use crate::LabError;
use crate::namespace::enter;

/// `NFNL_SUBSYS_CTNETLINK` and `IPCTNL_MSG_CT_DELETE`; without a tuple it deletes every entry.
const DELETE_ALL: u16 = (1 << 8) | 2;

/// `NLM_F_REQUEST | NLM_F_ACK`.
const REQUEST_WITH_ANSWER: u16 = 5;

/// Length of a netlink header with the netfilter header behind it, bytes.
const MESSAGE_LEN: u32 = 20;

/// Empties the connection tracking of `namespace`, so that every flow is a new one to its NAT.
///
/// # Errors
/// The namespace does not exist or the kernel has no connection tracking.
pub(crate) fn flush(namespace: &str) -> Result<(), LabError> {
    enter(namespace, || {
        let failed = |why: String| {
            LabError::new("lab-conntrack", format!("the NAT of \"{namespace}\" cannot be reset.")).why(why)
        };
        let netlink =
            socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, Some(NETFILTER))
                .map_err(|e| failed(e.to_string()))?;
        let mut message = Vec::with_capacity(MESSAGE_LEN as usize);
        message.extend_from_slice(&MESSAGE_LEN.to_ne_bytes());
        message.extend_from_slice(&DELETE_ALL.to_ne_bytes());
        message.extend_from_slice(&REQUEST_WITH_ANSWER.to_ne_bytes());
        message.extend_from_slice(&1u32.to_ne_bytes());
        message.extend_from_slice(&[0; 8]);
        sendto(&netlink, &message, SendFlags::empty(), &SocketAddrNetlink::new(0, 0))
            .map_err(|e| failed(e.to_string()))?;
        let mut answer = [0; 256];
        let (_, len) =
            recv(&netlink, answer.as_mut_slice(), RecvFlags::empty()).map_err(|e| failed(e.to_string()))?;
        // The answer is a header of 16 bytes and a negative errno, 0 for success.
        match answer.get(16..20).and_then(|b| b.try_into().ok()).map(i32::from_ne_bytes) {
            Some(0) if len >= 20 => Ok(()),
            code => Err(failed(format!("the kernel answered {code:?}"))),
        }
    })
}
