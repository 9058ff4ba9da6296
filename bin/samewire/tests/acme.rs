//! Certificates of a private authority (Debian's `pebble`) on loopback: for an address and for a name, by both proofs,
//! renewed without a break. Without the programs one line `skipped: why` is printed.

use std::io::Write as _;
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use sw_net::tls::{Trust, client_config, self_signed_pem, server_name};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// How long a certificate of the test is good; it is renewed after two thirds of that.
const VALIDITY_S: u32 = 9;
const SOON: Duration = Duration::from_secs(30);

/// One test at a time: each takes ports that were free a moment ago.
static TURN: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());

/// A program that ends with the test.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ended = self.0.kill();
        let _ended = self.0.wait();
    }
}

fn spawn(command: &mut Command, log: &Path) -> Running {
    let log = std::fs::File::create(log).expect("a log");
    let error = log.try_clone().expect("a log");
    Running(command.stdin(Stdio::null()).stdout(log).stderr(error).spawn().expect("it starts"))
}

fn program(name: &str) -> Option<PathBuf> {
    ["/usr/bin", "/usr/local/bin"].iter().map(|dir| Path::new(dir).join(name)).find(|path| path.is_file())
}

fn free_port() -> u16 {
    loop {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let port = listener.local_addr().expect("bound").port();
        if UdpSocket::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}

/// An authority and its DNS server, which says 127.0.0.1 to every question.
struct Authority {
    directory: String,
    root_of_its_page: PathBuf,
    management: u16,
    _dns: Running,
    _pebble: Running,
}

/// `tls` and `http` are the ports where it looks for proofs.
fn authority(place: &Path, tls: u16, http: u16) -> Option<Authority> {
    let (Some(pebble), Some(dns)) = (program("pebble"), program("pebble-challtestsrv")) else {
        writeln!(std::io::stderr(), "skipped: ACME: pebble is not installed").expect("stderr");
        return None;
    };
    let (page, management, dns_port) = (free_port(), free_port(), free_port());
    let (certificate, key) =
        self_signed_pem(&["127.0.0.1".to_owned(), "localhost".to_owned()]).expect("a certificate");
    let root_of_its_page = place.join("pebble.crt");
    std::fs::write(&root_of_its_page, certificate).expect("written");
    std::fs::write(place.join("pebble.key"), key).expect("written");
    let config = serde_json::json!({ "pebble": {
        "listenAddress": format!("127.0.0.1:{page}"),
        "managementListenAddress": format!("127.0.0.1:{management}"),
        "certificate": root_of_its_page,
        "privateKey": place.join("pebble.key"),
        "tlsPort": tls,
        "httpPort": http,
        "ocspResponderURL": "",
        "externalAccountBindingRequired": false,
        "certificateValidityPeriod": VALIDITY_S,
    }});
    std::fs::write(place.join("pebble.json"), config.to_string()).expect("written");
    let mut command = Command::new(dns);
    command.args(["-dns01", &format!("127.0.0.1:{dns_port}"), "-defaultIPv6", ""]);
    command.args(["-http01", "", "-https01", "", "-tlsalpn01", ""]);
    command.args(["-management", &format!("127.0.0.1:{}", free_port())]);
    let dns = spawn(&mut command, &place.join("dns.log"));
    let mut command = Command::new(pebble);
    command.arg("-config").arg(place.join("pebble.json"));
    command.args(["-dnsserver", &format!("127.0.0.1:{dns_port}")]);
    command.env("PEBBLE_VA_NOSLEEP", "1").env("PEBBLE_WFE_NONCEREJECT", "0");
    let pebble = spawn(&mut command, &place.join("pebble.log"));
    let directory = format!("https://127.0.0.1:{page}/dir");
    Some(Authority { directory, root_of_its_page, management, _dns: dns, _pebble: pebble })
}

async fn dial(port: u16, name: &str, trust: &Trust) -> std::io::Result<TlsStream<TcpStream>> {
    let config = client_config(trust, &[b"http/1.1"]).map_err(std::io::Error::other)?;
    let tcp = TcpStream::connect(SocketAddr::from(([127, 0, 0, 1], port))).await?;
    TlsConnector::from(config).connect(server_name(name).map_err(std::io::Error::other)?, tcp).await
}

fn leaf(stream: &TlsStream<TcpStream>) -> CertificateDer<'static> {
    let chain = stream.get_ref().1.peer_certificates().expect("a chain");
    chain.first().expect("a leaf").clone().into_owned()
}

/// One request on a connection that stays open; the whole answer.
async fn ask(stream: &mut TlsStream<TcpStream>, path: &str) -> std::io::Result<String> {
    stream.write_all(format!("GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n").as_bytes()).await?;
    let mut answer = Vec::new();
    let whole = async {
        // A head and its body may come apart, and what is left would be taken for the next answer.
        while !is_whole(&String::from_utf8_lossy(&answer)) {
            if stream.read_buf(&mut answer).await? == 0 {
                return Err(std::io::ErrorKind::UnexpectedEof.into());
            }
        }
        Ok::<(), std::io::Error>(())
    };
    tokio::time::timeout(SOON, whole).await??;
    Ok(String::from_utf8_lossy(&answer).into_owned())
}

fn is_whole(answer: &str) -> bool {
    let Some((head, body)) = answer.split_once("\r\n\r\n") else { return false };
    let length = head.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse::<usize>().ok())?
    });
    body.len() >= length.unwrap_or(0)
}

/// The root that the authority signs with, once it answers.
async fn signing_root(authority: &Authority) -> CertificateDer<'static> {
    let answer = until("the authority answers", async || {
        let mut stream = dial(authority.management, "127.0.0.1", &Trust::Anything).await.ok()?;
        let answer = ask(&mut stream, "/roots/0").await.ok()?;
        answer.contains("END CERTIFICATE").then_some(answer)
    });
    CertificateDer::from_pem_slice(answer.await.as_bytes()).expect("a root")
}

async fn until<T>(what: &str, ready: impl AsyncFn() -> Option<T>) -> T {
    let end = Instant::now() + SOON;
    loop {
        if let Some(value) = ready().await {
            return value;
        }
        assert!(Instant::now() < end, "{what}: not in {SOON:?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

fn logs(place: &Path) -> String {
    let logs = ["server.log", "pebble.log"].map(|name| std::fs::read_to_string(place.join(name)));
    logs.map(Result::unwrap_or_default).join("\n---\n")
}

/// Waits for a certificate for `name`, then for the next one; a connection made in between lives on.
async fn issued_and_renewed(place: &Path, trust: &Trust, port: u16, name: &str, path: &str) {
    let first =
        tokio::time::timeout(SOON, until("a certificate", async || dial(port, name, trust).await.ok()));
    let mut first = first.await.unwrap_or_else(|_| panic!("no certificate\n{}", logs(place)));
    assert!(ask(&mut first, path).await.expect("it answers").starts_with("HTTP/1.1 "));
    let old = leaf(&first);
    let next = until("a renewal", async || {
        let stream = dial(port, name, trust).await.ok()?;
        let new = leaf(&stream);
        (new != old).then_some(new)
    });
    let next = next.await;
    let answer =
        ask(&mut first, path).await.unwrap_or_else(|e| panic!("the old connection: {e}\n{}", logs(place)));
    assert!(answer.starts_with("HTTP/1.1 "), "{answer}");
    assert_eq!(key_of(&next), key_of(&old), "a pinned key stays good");
}

fn key_of(der: &CertificateDer<'_>) -> Vec<u8> {
    let (_, certificate) = x509_parser::parse_x509_certificate(der).expect("a certificate");
    certificate.public_key().raw.to_vec()
}

fn samewire() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_samewire"));
    command.env("SAMEWIRE_LOG", "info");
    command
}

#[tokio::test(flavor = "multi_thread")]
async fn a_control_server_gets_a_certificate_for_its_address() {
    let _turn = TURN.lock().await;
    let place = tempfile::tempdir().expect("a directory");
    let port = free_port();
    // Nobody answers on the other port: the proof is the TLS one.
    let Some(authority) = authority(place.path(), port, free_port()) else { return };
    let mut command = samewire();
    command.args(["control", "--state"]).arg(place.path().join("control")).arg("serve");
    command.args(["--url", &format!("https://127.0.0.1:{port}"), "--listen", &format!("127.0.0.1:{port}")]);
    command.args(["--acme", "--acme-directory", &authority.directory]);
    command.arg("--acme-ca").arg(&authority.root_of_its_page);
    let trust = Trust::Authority(signing_root(&authority).await);
    let _server = spawn(&mut command, &place.path().join("server.log"));
    issued_and_renewed(place.path(), &trust, port, "127.0.0.1", "/key?v=140").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_relay_gets_a_certificate_for_its_name_over_plain_http() {
    let _turn = TURN.lock().await;
    let place = tempfile::tempdir().expect("a directory");
    let port = free_port();
    let Some(authority) = authority(place.path(), free_port(), port) else { return };
    let mut command = samewire();
    command.args(["relay", "--hostname", "relay.example.org", "--tls", "acme"]);
    command.args(["--listen", &format!("127.0.0.1:{port}"), "--stun-listen", "127.0.0.1:0"]);
    command.arg("--state").arg(place.path().join("relay"));
    command.args(["--acme-directory", &authority.directory]);
    command.arg("--acme-ca").arg(&authority.root_of_its_page);
    let trust = Trust::Authority(signing_root(&authority).await);
    let _relay = spawn(&mut command, &place.path().join("server.log"));
    issued_and_renewed(place.path(), &trust, port, "relay.example.org", "/derp/probe").await;
}
