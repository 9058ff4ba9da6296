//! A name that DNS does not tell is asked of a relay.

use std::sync::Arc;

use hyper::body::Incoming;
use hyper::{Request, Response};
use sw_net::bootstrap::BootstrapRelays;
use sw_net::dial::{DialError, DialOptions, connect};
use sw_net::front::{Body, BoxFuture, Conn, Front, FrontLimits, Router, Stream, full};
use sw_net::tls::{CertStore, Identity, server_config};
use sw_types::{CertCheck, RelayAddr, RelayNode};

/// Reserved for names that never resolve (RFC 6761).
const NAME: &str = "control.invalid";

struct Relay;

impl Router for Relay {
    fn route(&self, request: Request<Incoming>, conn: Arc<Conn>) -> BoxFuture<Response<Body>> {
        assert!(conn.is_tls());
        let is_asked =
            request.uri().path_and_query().is_some_and(|path| path == "/bootstrap-dns?q=control.invalid");
        let answer = if is_asked { "{\"control.invalid\":[\"127.0.0.1\"]}" } else { "{}" };
        Box::pin(async move { Response::new(full(answer)) })
    }

    fn claims(&self, _head: &Request<()>, _conn: &Conn) -> bool {
        false
    }

    fn take(&self, _head: Request<()>, _stream: Stream, _conn: Arc<Conn>) -> BoxFuture<()> {
        Box::pin(async {})
    }
}

#[tokio::test]
async fn a_name_without_dns_is_told_by_a_relay() {
    let identity = Identity::self_signed(&["127.0.0.1".to_owned()]).unwrap();
    let store = CertStore::new();
    store.set_default(&identity);
    let listener = sw_net::socket::listen_tcp("127.0.0.1:0".parse().unwrap()).unwrap();
    let relay_port = listener.local_addr().unwrap().port();
    let front = Front::new(Arc::new(Relay), FrontLimits::default());
    front.listen(listener, Some(server_config(store)));
    let server = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = server.local_addr().unwrap().port();

    let node = |cert| RelayNode {
        name: "900a".to_owned(),
        host_name: "127.0.0.1".to_owned(),
        cert,
        ipv4: RelayAddr::Fixed("127.0.0.1".parse().unwrap()),
        ipv6: RelayAddr::Disabled,
        stun_port: None,
        stun_only: false,
        derp_port: relay_port,
        insecure_for_tests: false,
        stun_test_ip: None,
        can_port_80: false,
    };
    let options = DialOptions { bootstrap: BootstrapRelays::default(), ..DialOptions::default() };
    assert!(matches!(connect(&options, NAME, port).await, Err(DialError::Resolve { .. })), "nobody to ask");
    options.bootstrap.set([node(CertCheck::Sha256([7; 32]))]);
    assert!(connect(&options, NAME, port).await.is_err(), "a relay with another certificate is not asked");
    options.bootstrap.set([node(CertCheck::Sha256(identity.hash().0))]);
    let (client, accepted) = tokio::join!(connect(&options, NAME, port), server.accept());
    assert_eq!(client.unwrap().local_addr().unwrap(), accepted.unwrap().1);
    assert!(connect(&options, "other.invalid", port).await.is_err(), "the relay knows it as little");
}
