//! SOCKS5 (RFC 1928): CONNECT and UDP ASSOCIATE without authentication, for programs on this host.

use crate::proxy::{Datagrams, Dial, DialError, Target};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional};
use tokio::net::{TcpStream, UdpSocket};

/// A client must have said what it wants by then.
const GREETING_TIMEOUT: Duration = Duration::from_secs(10);

pub(crate) const VERSION: u8 = 5;
const CONNECT: u8 = 1;
const UDP_ASSOCIATE: u8 = 3;
/// Largest datagram with its SOCKS header.
const DATAGRAM_MAX: usize = 65_535;

/// What a client wants.
enum Wish {
    Connect(Target),
    Datagrams,
}

/// Serves one client.
pub(crate) async fn serve(mut client: TcpStream, dial: &dyn Dial) -> io::Result<()> {
    let target = match tokio::time::timeout(GREETING_TIMEOUT, greet(&mut client)).await?? {
        Wish::Connect(target) => target,
        Wish::Datagrams => return associate(client, dial).await,
    };
    match dial.dial(target).await {
        Ok(mut stream) => {
            reply(&mut client, 0).await?;
            copy_bidirectional(&mut client, &mut stream).await?;
            Ok(())
        }
        Err(error) => reply(&mut client, code(error)).await,
    }
}

/// Reads method selection and request; answers refusals itself.
async fn greet(client: &mut TcpStream) -> io::Result<Wish> {
    let [version, methods] = read::<2>(client).await?;
    if version != VERSION {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "not SOCKS5"));
    }
    let mut offered = vec![0; usize::from(methods)];
    client.read_exact(&mut offered).await?;
    if !offered.contains(&0) {
        client.write_all(&[VERSION, 0xff]).await?;
        return Err(io::Error::new(io::ErrorKind::PermissionDenied, "the client insists on a password"));
    }
    client.write_all(&[VERSION, 0]).await?;
    let [_, command, _, kind] = read::<4>(client).await?;
    let target = read_target(client, kind).await?;
    match command {
        CONNECT => Ok(Wish::Connect(target)),
        // The address in the request says where the client will send from; clients that do not know say zeros, so
        // that the connection's own address is what counts (RFC 1928 §6).
        UDP_ASSOCIATE => Ok(Wish::Datagrams),
        _ => {
            reply(client, 7).await?;
            Err(io::Error::new(io::ErrorKind::Unsupported, "neither CONNECT nor UDP ASSOCIATE"))
        }
    }
}

/// Carries datagrams for as long as the client's connection lasts (RFC 1928 §7).
async fn associate(mut client: TcpStream, dial: &dyn Dial) -> io::Result<()> {
    let (own, from) = (client.local_addr()?.ip(), client.peer_addr()?.ip());
    let outside = match dial.datagrams() {
        Ok(outside) => outside,
        Err(error) => return reply(&mut client, code(error)).await,
    };
    let socket = UdpSocket::bind((own, 0)).await?;
    client.write_all(&[&[VERSION, 0, 0][..], &written(socket.local_addr()?)].concat()).await?;
    let mut rest = [0; 64];
    tokio::select! {
        carried = carry(&socket, from, &*outside) => carried,
        // The client says nothing more; its end is the end.
        () = async { while client.read(&mut rest).await.is_ok_and(|read| read > 0) {} } => Ok(()),
    }
}

async fn carry(socket: &UdpSocket, client_ip: IpAddr, outside: &dyn Datagrams) -> io::Result<()> {
    let mut buffer = vec![0; DATAGRAM_MAX];
    let mut client: Option<SocketAddr> = None;
    loop {
        tokio::select! {
            received = socket.recv_from(&mut buffer) => {
                let (len, from) = received?;
                // Others on this host have no business here, nor has a second socket of the client.
                if from.ip() != client_ip || client.is_some_and(|client| client != from) {
                    continue;
                }
                client = Some(from);
                let datagram = buffer.get(..len).unwrap_or_default();
                if let Some((target, data)) = read_datagram(datagram) {
                    // What cannot be sent is lost, as datagrams are.
                    if let Err(error) = outside.send(target, data).await {
                        tracing::trace!(%error, "a datagram of a proxy client");
                    }
                }
            }
            received = outside.receive() => {
                let (data, from) = received?;
                let Some(client) = client else { continue };
                let answer = [&[0, 0, 0][..], &written(from), &data].concat();
                let _lost_then = socket.send_to(&answer, client).await;
            }
        }
    }
}

/// Splits a client's datagram; fragments are not carried (RFC 1928 §7 leaves them optional).
fn read_datagram(datagram: &[u8]) -> Option<(Target, &[u8])> {
    let (&[_, _, 0, kind], rest) = datagram.split_first_chunk()? else { return None };
    let (host, rest) = match kind {
        1 => {
            let (v4, rest) = rest.split_first_chunk::<4>()?;
            (Ipv4Addr::from(*v4).to_string(), rest)
        }
        4 => {
            let (v6, rest) = rest.split_first_chunk::<16>()?;
            (Ipv6Addr::from(*v6).to_string(), rest)
        }
        3 => {
            let (&len, rest) = rest.split_first()?;
            let (name, rest) = rest.split_at_checked(usize::from(len))?;
            (String::from_utf8(name.to_vec()).ok()?, rest)
        }
        _ => return None,
    };
    let (port, data) = rest.split_first_chunk()?;
    let port = u16::from_be_bytes(*port);
    Some((host.parse().map_or_else(|_| Target::Name(host, port), |ip| Target::Address(ip, port)), data))
}

/// An address as it stands in replies.
fn written(address: SocketAddr) -> Vec<u8> {
    let mut bytes = match address.ip() {
        IpAddr::V4(v4) => [&[1][..], &v4.octets()].concat(),
        IpAddr::V6(v6) => [&[4][..], &v6.octets()].concat(),
    };
    bytes.extend_from_slice(&address.port().to_be_bytes());
    bytes
}

async fn read_target(client: &mut TcpStream, kind: u8) -> io::Result<Target> {
    enum Host {
        Ip(IpAddr),
        Name(String),
    }
    let host = match kind {
        1 => Host::Ip(Ipv4Addr::from(read::<4>(client).await?).into()),
        4 => Host::Ip(Ipv6Addr::from(read::<16>(client).await?).into()),
        3 => {
            let [len] = read::<1>(client).await?;
            let mut name = vec![0; usize::from(len)];
            client.read_exact(&mut name).await?;
            Host::Name(String::from_utf8(name).map_err(|_| io::Error::from(io::ErrorKind::InvalidData))?)
        }
        _ => {
            reply(client, 8).await?;
            return Err(io::ErrorKind::InvalidData.into());
        }
    };
    let port = u16::from_be_bytes(read::<2>(client).await?);
    Ok(match host {
        Host::Ip(ip) => Target::Address(ip, port),
        // Some clients send addresses as names.
        Host::Name(name) => {
            name.parse().map_or_else(|_| Target::Name(name, port), |ip| Target::Address(ip, port))
        }
    })
}

async fn read<const N: usize>(client: &mut TcpStream) -> io::Result<[u8; N]> {
    let mut bytes = [0; N];
    client.read_exact(&mut bytes).await?;
    Ok(bytes)
}

async fn reply(client: &mut TcpStream, code: u8) -> io::Result<()> {
    client.write_all(&[VERSION, code, 0, 1, 0, 0, 0, 0, 0, 0]).await
}

fn code(error: DialError) -> u8 {
    match error {
        DialError::NotAllowed => 2,
        DialError::NoSuchName | DialError::Unreachable => 4,
        DialError::Refused => 5,
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::proxy::{BoxedStream, DatagramFuture};
    use std::future::Future;
    use std::pin::Pin;
    use std::sync::Arc;
    use tokio::net::TcpListener;

    /// Answers for the name "birch" only, with its own words.
    #[derive(Debug)]
    pub(crate) struct Birch;

    impl Dial for Birch {
        fn dial(
            &self,
            target: Target,
        ) -> Pin<Box<dyn Future<Output = Result<BoxedStream, DialError>> + Send + '_>> {
            Box::pin(async move {
                match target {
                    Target::Name(name, 80) if name == "birch" => {
                        let (near, mut far) = tokio::io::duplex(1_024);
                        tokio::spawn(async move {
                            far.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nbirch")
                                .await
                                .expect("open");
                            let mut sink = vec![0; 1_024];
                            while far.read(&mut sink).await.is_ok_and(|n| n > 0) {}
                        });
                        Ok(Box::new(near) as BoxedStream)
                    }
                    Target::Name(..) => Err(DialError::NoSuchName),
                    Target::Address(..) => Err(DialError::Refused),
                }
            })
        }

        fn datagrams(&self) -> Result<Box<dyn Datagrams>, DialError> {
            let (sender, receiver) = tokio::sync::mpsc::channel(4);
            Ok(Box::new(Echo { sender, receiver: tokio::sync::Mutex::new(receiver) }))
        }
    }

    /// Gives every datagram for "birch" back, from 192.0.2.1.
    struct Echo {
        sender: tokio::sync::mpsc::Sender<Vec<u8>>,
        receiver: tokio::sync::Mutex<tokio::sync::mpsc::Receiver<Vec<u8>>>,
    }

    impl Datagrams for Echo {
        fn send<'d>(&'d self, target: Target, data: &'d [u8]) -> DatagramFuture<'d, ()> {
            Box::pin(async move {
                if target == Target::Name("birch".into(), 53) {
                    self.sender.send(data.to_vec()).await.map_err(io::Error::other)?;
                }
                Ok(())
            })
        }

        fn receive(&self) -> DatagramFuture<'_, (Vec<u8>, SocketAddr)> {
            Box::pin(async {
                let data = self.receiver.lock().await.recv().await.ok_or(io::ErrorKind::BrokenPipe)?;
                Ok((data, ([192, 0, 2, 1], 53).into()))
            })
        }
    }

    async fn ask(request: &[u8]) -> Vec<u8> {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let to = listener.local_addr().expect("bound");
        let server = tokio::spawn(crate::serve_proxy(listener, Arc::new(Birch)));
        let mut client = TcpStream::connect(to).await.expect("connects");
        client.write_all(request).await.expect("writes");
        client.shutdown().await.expect("closes");
        let mut answer = Vec::new();
        // A server that hangs up with our bytes unread resets the connection; what it said before counts.
        if let Err(error) = client.read_to_end(&mut answer).await {
            assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
        }
        server.abort();
        answer
    }

    #[tokio::test]
    async fn a_name_is_opened_and_bytes_flow() {
        let answer = ask(b"\x05\x01\x00\x05\x01\x00\x03\x05birch\x00\x50").await;
        assert_eq!(answer[..12], [5, 0, 5, 0, 0, 1, 0, 0, 0, 0, 0, 0]);
        assert!(answer.ends_with(b"birch"));
    }

    #[tokio::test]
    async fn datagrams_go_there_and_back() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let to = listener.local_addr().expect("bound");
        let server = tokio::spawn(crate::serve_proxy(listener, Arc::new(Birch)));
        let mut control = TcpStream::connect(to).await.expect("connects");
        control.write_all(b"\x05\x01\x00\x05\x03\x00\x01\x00\x00\x00\x00\x00\x00").await.expect("writes");
        let mut reply = [0; 12];
        control.read_exact(&mut reply).await.expect("an answer");
        assert_eq!(reply[..6], [5, 0, 5, 0, 0, 1]);
        let relay = SocketAddr::from(([127, 0, 0, 1], u16::from_be_bytes([reply[10], reply[11]])));
        let socket = UdpSocket::bind("127.0.0.1:0").await.expect("a free port");
        // A fragment and a stranger's target are lost; the third comes back.
        for datagram in [
            &b"\0\0\x01\x03\x05birch\0\x35lost"[..],
            b"\0\0\0\x03\x03oak\0\x35lost",
            b"\0\0\0\x03\x05birch\0\x35hello",
        ] {
            socket.send_to(datagram, relay).await.expect("sent");
        }
        let mut answer = [0; 64];
        let (len, _) = socket.recv_from(&mut answer).await.expect("an answer");
        assert_eq!(&answer[..len], b"\0\0\0\x01\xc0\0\x02\x01\0\x35hello");
        drop(control);
        server.abort();
    }

    #[test]
    fn rubbish_is_no_datagram() {
        arbtest::arbtest(|u| {
            let _read_or_not = read_datagram(&u.arbitrary::<Vec<u8>>()?);
            Ok(())
        });
        assert!(read_datagram(b"\0\0\0\x03\xffshort").is_none());
    }

    #[tokio::test]
    async fn refusals_have_their_codes() {
        assert_eq!(ask(b"\x05\x01\x00\x05\x01\x00\x03\x03oak\x00\x50").await[3], 4);
        assert_eq!(ask(b"\x05\x01\x00\x05\x01\x00\x01\x7f\x00\x00\x01\x00\x50").await[3], 5);
        assert_eq!(ask(b"\x05\x01\x00\x05\x02\x00\x01\x7f\x00\x00\x01\x00\x50").await[3], 7);
        assert_eq!(ask(b"\x05\x01\x02").await, [5, 0xff]);
    }
}
