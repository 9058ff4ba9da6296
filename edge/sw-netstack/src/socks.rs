//! SOCKS5 (RFC 1928): CONNECT without authentication, for programs on this host.

use crate::proxy::{Dial, DialError, Target};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional};
use tokio::net::TcpStream;

/// A client must have said what it wants by then.
const GREETING_TIMEOUT: Duration = Duration::from_secs(10);

pub(crate) const VERSION: u8 = 5;
const CONNECT: u8 = 1;

/// Serves one client.
pub(crate) async fn serve(mut client: TcpStream, dial: &dyn Dial) -> io::Result<()> {
    let target = tokio::time::timeout(GREETING_TIMEOUT, greet(&mut client)).await??;
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
async fn greet(client: &mut TcpStream) -> io::Result<Target> {
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
    if command != CONNECT {
        reply(client, 7).await?;
        return Err(io::Error::new(io::ErrorKind::Unsupported, "only CONNECT is served"));
    }
    Ok(target)
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
    use crate::proxy::BoxedStream;
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
    async fn refusals_have_their_codes() {
        assert_eq!(ask(b"\x05\x01\x00\x05\x01\x00\x03\x03oak\x00\x50").await[3], 4);
        assert_eq!(ask(b"\x05\x01\x00\x05\x01\x00\x01\x7f\x00\x00\x01\x00\x50").await[3], 5);
        assert_eq!(ask(b"\x05\x01\x00\x05\x02\x00\x01\x7f\x00\x00\x01\x00\x50").await[3], 7);
        assert_eq!(ask(b"\x05\x01\x02").await, [5, 0xff]);
    }
}
