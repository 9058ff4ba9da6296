//! Opens connections into the network for the daemon itself: through the host's interface, or through the stack of
//! userspace mode.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use sw_netstack::{BoxedStream, DialError};

use crate::core::{CoreHandle, Stopped};
use crate::userspace::Network;

/// Limit of opening a connection.
const CONNECT_MAX: Duration = Duration::from_secs(10);

/// Where the words of a caller lead.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// Into the network.
    Inside(SocketAddr),
    /// Not by us.
    Outside(SocketAddr),
    Unknown,
}

/// Finds where `host` is: an address, a name of the network, or a name that others know.
pub(crate) async fn find(core: &CoreHandle, host: &str, port: u16) -> Result<Place, Stopped> {
    let bare = host.trim_start_matches('[').trim_end_matches(']').to_owned();
    let known = {
        let bare = bare.clone();
        core.call(move |core| match bare.parse::<IpAddr>() {
            Ok(ip) => vec![ip],
            Err(_) => core.look_up(&bare),
        })
        .await?
    };
    let outside = match known.first() {
        Some(_) => known,
        None => match tokio::net::lookup_host((bare.as_str(), port)).await {
            Ok(found) => found.map(|address| address.ip()).collect(),
            Err(_) => return Ok(Place::Unknown),
        },
    };
    let Some(&ip) = outside.iter().find(|ip| ip.is_ipv4()).or_else(|| outside.first()) else {
        return Ok(Place::Unknown);
    };
    let to = SocketAddr::new(ip, port);
    let is_inside = core.call(move |core| core.is_inside(ip)).await?;
    Ok(if is_inside { Place::Inside(to) } else { Place::Outside(to) })
}

/// Opens a connection to an address of the network.
pub(crate) async fn dial(core: &CoreHandle, to: SocketAddr) -> Result<BoxedStream, DialError> {
    dial_within(core, to, CONNECT_MAX).await
}

/// As [`dial`], with another limit.
pub(crate) async fn dial_within(
    core: &CoreHandle,
    to: SocketAddr,
    limit: Duration,
) -> Result<BoxedStream, DialError> {
    let network: Option<Network> = core.call(|core| core.network()).await.ok().flatten();
    if let Some(network) = network {
        let dialled = tokio::time::timeout(limit, network.dial_address(to.ip(), to.port())).await;
        return dialled.unwrap_or(Err(DialError::Unreachable));
    }
    match tokio::time::timeout(limit, tokio::net::TcpStream::connect(to)).await {
        Ok(Ok(stream)) => Ok(Box::new(stream)),
        Ok(Err(error)) if error.kind() == std::io::ErrorKind::ConnectionRefused => Err(DialError::Refused),
        Ok(Err(_)) | Err(_) => Err(DialError::Unreachable),
    }
}
