//! Two nodes of the official Rust client in one process: both join with a key, then one sends the other a quarter of a
//! megabyte over TCP and gets it back.
//!
//! `tailscale-crate URL AUTH_KEY`

use std::error::Error;
use std::net::SocketAddr;
use std::time::Duration;

use tailscale::{Config, Device};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

const PORT: u16 = 1234;
const BYTES: usize = 256 * 1024;
const PATIENCE: Duration = Duration::from_secs(60);

async fn join(name: &str, url: &url::Url, key: &str) -> Result<Device, Box<dyn Error>> {
    let config = Config {
        control_server_url: url.clone(),
        requested_hostname: Some(name.to_owned()),
        ..Config::default()
    };
    let device = Device::new(&config, Some(key.to_owned())).await?;
    println!("{name} has {} and {}", device.ipv4_addr().await?, device.ipv6_addr().await?);
    Ok(device)
}

async fn exchange(url: &url::Url, key: &str) -> Result<(), Box<dyn Error>> {
    let (near, far) = (join("near", url, key).await?, join("far", url, key).await?);
    let at = SocketAddr::from((far.ipv4_addr().await?, PORT));
    let listener = far.tcp_listen(at).await?;
    let echo = tokio::spawn(async move {
        let connection = listener.accept().await.expect("a connection");
        let (mut reader, mut writer) = tokio::io::split(connection);
        tokio::io::copy(&mut reader, &mut writer).await.expect("an echo");
    });
    while near.peer_by_name("far").await?.is_none() {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let connection = near.tcp_connect(at).await?;
    let (mut reader, mut writer) = tokio::io::split(connection);
    let sent: Vec<u8> = (0..BYTES).map(|i| (i % 251) as u8).collect();
    let mut back = vec![0; BYTES];
    let (wrote, read) = tokio::join!(writer.write_all(&sent), reader.read_exact(&mut back));
    wrote?;
    read?;
    if back != sent {
        return Err("other bytes came back".into());
    }
    echo.abort();
    println!("exchanged {BYTES} bytes");
    Ok(())
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().collect();
    let [_, url, key] = &arguments[..] else {
        return Err("usage: tailscale-crate URL AUTH_KEY".into());
    };
    tokio::time::timeout(PATIENCE, exchange(&url.parse()?, key)).await?
}
