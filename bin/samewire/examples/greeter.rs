//! A web server that only machines of the network can see, in a program without any privilege.
//!
//! ```text
//! export SAMEWIRE_SERVER=https://vpn.example.org SAMEWIRE_AUTH_KEY=…
//! cargo run --example greeter                  # then, on any machine: curl http://greeter/
//! cargo run --example greeter -- birch:8080    # fetches a page from another machine
//! ```
#![expect(clippy::print_stdout, reason = "an example talks to whoever runs it")]

use samewire::{JoinOptions, Node};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let options = JoinOptions {
        server: std::env::var("SAMEWIRE_SERVER")?,
        auth_key: std::env::var("SAMEWIRE_AUTH_KEY")?,
        hostname: "greeter".to_owned(),
        state_dir: None,
    };
    let node = Node::join(options).await.map_err(|problem| problem.render())?;
    println!("on the network as {:?}", node.addresses().await);
    match std::env::args().nth(1) {
        Some(target) => fetch(&node, &target).await?,
        None => greet(&node).await?,
    }
    node.stop().await;
    Ok(())
}

async fn fetch(node: &Node, target: &str) -> Result<(), Box<dyn std::error::Error>> {
    let mut stream = node.dial(target).await?;
    stream.write_all(format!("GET / HTTP/1.0\r\nHost: {target}\r\n\r\n").as_bytes()).await?;
    let mut page = String::new();
    stream.read_to_string(&mut page).await?;
    println!("{page}");
    Ok(())
}

async fn greet(node: &Node) -> Result<(), Box<dyn std::error::Error>> {
    let mut listener = node.listen(80)?;
    while let Some(mut client) = listener.accept().await {
        let who = client.peer_addr().map(|peer| peer.ip().to_string()).unwrap_or_default();
        let body = format!("hello, {who}\n");
        let head = format!("HTTP/1.0 200 OK\r\ncontent-length: {}\r\n\r\n", body.len());
        // A client that hangs up early needs no greeting.
        let _gone = client.write_all((head + &body).as_bytes()).await;
        let _gone = client.shutdown().await;
    }
    Ok(())
}
