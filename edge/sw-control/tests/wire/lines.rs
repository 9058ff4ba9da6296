//! Lines of the server's checklist (control.md §10.1), each over a real connection.

use http::{Method, StatusCode};
use serde_json::Value;
use sw_tailcfg::{MapRequest, RegisterRequest};
use sw_tailnet::{Command, Done, NewApiKey};
use sw_types::{CapVer, NodeId};

use crate::client::{Client, VERSION};
use crate::stage::{ADA, Stage};

const OLD: CapVer = CapVer(CapVer::SERVER_MIN.0 - 1);

#[tokio::test]
async fn clients_below_the_floor_are_refused_in_words() {
    let stage = Stage::new().await;
    let answer = stage.plain("GET /key?v=38 HTTP/1.1\r\nHost: server").await;
    assert!(answer.starts_with("HTTP/1.1 400 ") && answer.contains("too old"), "{answer}");

    let client = stage.joined(1).await;
    let register = RegisterRequest { version: OLD, ..client.register_request() };
    let map = MapRequest { version: OLD, ..client.map_request() };
    for (path, body) in
        [("/machine/register", sw_tailcfg::encode(&register)), ("/machine/map", sw_tailcfg::encode(&map))]
    {
        let (status, text) = client.ask(Method::POST, path, body).await;
        let text = String::from_utf8(text).unwrap();
        assert_eq!(status, StatusCode::BAD_REQUEST, "{path}: {text}");
        assert!(text.contains("too old") && text.contains(&CapVer::SERVER_MIN.to_string()), "{text}");
    }
}

#[tokio::test]
async fn a_login_page_that_is_gone_gives_way_to_a_new_one() {
    let stage = Stage::new().await;
    let client = stage.client(1).await;
    let page = client.register(&client.register_request()).await.auth_url;
    assert!(page.starts_with(&format!("{}/register/", stage.url())), "{page}");

    // From before a restart, or too old.
    let followup = format!("{}/register/0000000000000000000000", stage.url());
    let renewed = client.register(&RegisterRequest { followup, ..client.register_request() }).await;
    assert!(renewed.auth_url.starts_with(&format!("{}/register/", stage.url())), "{renewed:?}");
    assert_ne!(renewed.auth_url, page);
    assert!(renewed.error.is_empty() && !renewed.machine_authorized, "{renewed:?}");

    let login = renewed.auth_url.rsplit('/').next().unwrap().to_owned();
    let waits = RegisterRequest { followup: renewed.auth_url, ..client.register_request() };
    let approve = Command::ApproveLogin { login, user: ADA, by_admin: true };
    let (answer, _) = tokio::join!(client.register(&waits), stage.execute(approve));
    assert!(answer.machine_authorized && answer.auth_url.is_empty(), "{answer:?}");
}

#[tokio::test]
async fn a_stop_says_goaway_and_ends_streams_and_cuts_no_answer() {
    let stage = Stage::new().await;
    let (listener, waiting) = (stage.joined(1).await, stage.client(2).await);
    let mut stream = listener.stream(listener.map_request()).await;
    stream.message().await.expect("a map");
    let page = waiting.register(&waiting.register_request()).await.auth_url;
    let waits = RegisterRequest { followup: page, ..waiting.register_request() };
    let waits = sw_tailcfg::encode(&waits);
    let (answer, _state) =
        tokio::join!(waiting.send(Method::POST, "/machine/register", waits), async { stage.stop().await });

    assert_eq!(stream.frame().await, None, "the stream ends in order");
    if let Ok(answer) = answer {
        assert_ne!(answer.status(), 200, "a register that was not decided is no success");
    }
    // A connection that was told GOAWAY takes nothing new, and ends without an error.
    let refused = listener.send(Method::POST, "/machine/whoami", Vec::new()).await;
    assert!(refused.is_err(), "{refused:?}");
    assert!(listener.connection.await.unwrap().is_ok());
}

#[tokio::test]
async fn a_browser_comes_by_websocket() {
    let stage = Stage::new().await;
    let client = Client::dial_by_websocket(stage.address, stage.noise, 1).await;
    client.join(&stage.auth_key(Some(ADA), &[]).await).await;
    let other = stage.joined(2).await;
    let mut stream = client.stream(client.map_request()).await;
    let map = stream.message().await.expect("a map");
    assert_eq!(map["Peers"].as_array().unwrap().len(), 1);
    drop(other.stream(other.map_request()).await);
    assert!(stream.message().await.expect("the other came")["PeersChanged"].is_array());
}

#[tokio::test]
async fn pings_are_answered_beside_a_long_poll_and_a_machine_may_have_several_connections() {
    let stage = Stage::new().await;
    let mut first = stage.joined(1).await;
    let mut stream = first.stream(first.map_request()).await;
    stream.message().await.expect("a map");
    first.pings.ping(h2::Ping::opaque()).await.unwrap();

    // The same machine on another connection; the first one's stream goes on.
    let second = stage.client(1).await;
    let update = MapRequest { omit_peers: true, ..second.map_request() };
    let (status, body) = second.ask(Method::POST, "/machine/map", sw_tailcfg::encode(&update)).await;
    assert_eq!((status, body), (StatusCode::OK, Vec::new()), "a lite update is stored");
    // A stream there takes the place of the first one, which ends in order.
    let mut newer = second.stream(second.map_request()).await;
    newer.message().await.expect("a map");
    while stream.frame().await.is_some() {}
    first.pings.ping(h2::Ping::opaque()).await.unwrap();
}

#[tokio::test]
async fn frames_are_plain_or_zstd_as_the_client_asks() {
    let stage = Stage::new().await;
    let client = stage.joined(1).await;
    for (compress, begins) in [("", &b"{"[..]), ("zstd", &[0x28, 0xb5, 0x2f, 0xfd])] {
        let request = MapRequest { compress: compress.to_owned(), ..client.map_request() };
        let mut stream = client.stream(request).await;
        let frame = stream.frame().await.expect("a map");
        assert!(frame.starts_with(begins), "{compress:?}: {frame:?}");
    }
}

#[tokio::test]
async fn a_deleted_machine_hears_that_its_key_expired_and_then_nothing() {
    let stage = Stage::new().await;
    let client = stage.joined(1).await;
    let mut stream = client.stream(client.map_request()).await;
    let id = NodeId(stream.message().await.expect("a map")["Node"]["ID"].as_i64().unwrap());
    stage.execute(Command::DeleteNode(id)).await;
    let last = stream.message().await.expect("the expiry");
    assert_eq!(last["Node"]["KeyExpiry"], "1970-01-01T00:00:01Z");
    assert_eq!(stream.frame().await, None);

    let (status, _) =
        client.ask(Method::POST, "/machine/map", sw_tailcfg::encode(&client.map_request())).await;
    assert_eq!(status, StatusCode::NOT_FOUND);
    let again = client.register(&client.register_request()).await;
    assert!(!again.auth_url.is_empty() && !again.machine_authorized, "{again:?}");
}

#[tokio::test]
async fn after_a_restart_facts_are_taken_from_the_stream_request() {
    let stage = Stage::new().await;
    for n in [1, 2] {
        stage.joined(n).await;
    }
    // Nobody told anything before the restart.
    let stage = stage.restart().await;
    let (teller, hearer) = (stage.client(1).await, stage.client(2).await);
    let endpoints = vec!["192.0.2.7:41641".parse().unwrap()];
    let mut stream = teller.stream(MapRequest { endpoints, ..teller.map_request() }).await;
    stream.message().await.expect("a map");
    let peer = &hearer.map(hearer.map_request()).await["Peers"][0];
    assert_eq!(peer["Endpoints"], serde_json::json!(["192.0.2.7:41641"]));
    assert_eq!(peer["HomeDERP"], 900);
    assert_eq!(peer["Online"], true);
}

#[tokio::test]
async fn what_is_not_offered_says_so_and_what_must_not_be_repeated_is_taken() {
    let stage = Stage::new().await;
    let client = stage.joined(1).await;
    for (path, says) in [
        ("/machine/set-dns", "public DNS zone"),
        ("/machine/id-token", "identity tokens"),
        ("/machine/set-device-attr", "attributes"),
        ("/machine/tka/init/begin", "not offered"),
        ("/machine/webclient/start", "not offered"),
    ] {
        let (status, text) = client.ask(Method::POST, path, b"{}".to_vec()).await;
        let text = String::from_utf8(text).unwrap();
        assert_eq!(status, StatusCode::NOT_IMPLEMENTED, "{path}");
        assert!(text.contains(says), "{path}: {text}");
    }
    for path in ["/machine/audit-log", "/machine/update-health"] {
        let (status, _) = client.ask(Method::POST, path, b"{}".to_vec()).await;
        assert_eq!(status, StatusCode::OK, "{path}");
    }
    let (status, _) = client.ask(Method::GET, "/nothing", Vec::new()).await;
    assert_eq!(status, StatusCode::NOT_FOUND);
    let long = client.send(Method::POST, "/machine/map", vec![b' '; sw_tailcfg::BODY_MAX + 1]).await.unwrap();
    assert_eq!(long.status(), StatusCode::PAYLOAD_TOO_LARGE);
    let head = stage.plain("HEAD /machine/ping-response HTTP/1.1\r\nHost: server").await;
    assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
}

#[tokio::test]
async fn old_clients_get_the_relay_in_the_old_form() {
    let stage = Stage::new().await;
    let (teller, hearer) = (stage.joined(1).await, stage.joined(2).await);
    teller.stream(teller.map_request()).await.message().await.expect("a map");
    let told = async |version: CapVer| -> Value {
        hearer.map(MapRequest { version, ..hearer.map_request() }).await["Peers"][0].clone()
    };
    let (old, new) = (told(CapVer::SERVER_MIN).await, told(VERSION).await);
    assert_eq!(old["DERP"], "127.3.3.40:900");
    assert_eq!(old["AllowedIPs"], old["Addresses"]);
    assert_eq!((&new["DERP"], &new["HomeDERP"]), (&Value::Null, &900.into()));
}

#[tokio::test]
async fn the_key_is_given_to_any_form_of_request_and_the_connection_closed_when_asked() {
    let stage = Stage::new().await;
    for head in [
        "GET /key?v=130 HTTP/1.1\r\nHost: server".to_owned(),
        format!("GET /key?v=130 HTTP/1.1\r\nHost: {}", stage.address),
        format!("GET {}/key?v=130 HTTP/1.1\r\nHost: server", stage.url()),
    ] {
        // The answer is read to the end of the connection.
        let answer = stage.plain(&head).await;
        let (_, body) = answer.split_once("\r\n\r\n").unwrap();
        let keys: Value = serde_json::from_str(body).unwrap();
        assert!(keys["publicKey"].as_str().unwrap().starts_with("mkey:"), "{answer}");
        assert!(keys["legacyPublicKey"].is_string(), "{answer}");
    }
}

#[tokio::test]
async fn the_server_asks_a_machine_and_takes_the_answer_from_it_alone() {
    let stage = Stage::new().await;
    let Done::Secret { text, .. } = stage.execute(Command::CreateApiKey(NewApiKey::default())).await else {
        panic!("a key is a secret");
    };
    let ask = format!(
        "POST /api/samewire/v1/nodes/1/ping HTTP/1.1\r\nHost: server\r\nAuthorization: Bearer {}",
        text.expose()
    );
    let (client, other) = (stage.joined(1).await, stage.joined(2).await);
    let away = stage.plain(&ask).await;
    assert!(away.starts_with("HTTP/1.1 409 ") && away.contains("not connected"), "{away}");

    let mut stream = client.stream(client.map_request()).await;
    stream.message().await.expect("a map");
    let answering = async {
        let question = loop {
            let message = stream.message().await.expect("a question");
            if message["PingRequest"].is_object() {
                break message["PingRequest"].clone();
            }
        };
        assert_eq!((&question["Types"], &question["URLIsNoise"]), (&"c2n".into(), &true.into()));
        let path = question["URL"].as_str().unwrap().strip_prefix(&stage.url()).unwrap().to_owned();
        let request: sw_tailcfg::PingRequest = serde_json::from_value(question).unwrap();
        let request = String::from_utf8(request.payload.0).unwrap();
        let (head, said) = request.split_once("\r\n\r\n").unwrap();
        assert!(head.starts_with("POST /echo HTTP/1.1\r\n"), "{head}");
        let answer = format!("HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n{said}").into_bytes();
        let (forged, _) = other.ask(Method::POST, &path, answer.clone()).await;
        assert_eq!(forged, StatusCode::NOT_FOUND, "only the machine that was asked");
        assert_eq!(client.ask(Method::POST, &path, answer).await.0, StatusCode::OK);
    };
    let (answer, ()) = tokio::join!(stage.plain(&ask), answering);
    assert!(answer.starts_with("HTTP/1.1 200 ") && answer.contains("milliseconds"), "{answer}");
}
