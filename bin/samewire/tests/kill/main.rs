//! The control server is killed at random moments under a load of writes: what it acknowledged is there afterwards,
//! no address is given twice, and machines resume where they were.
//!
//! Twenty-five kills; `SAMEWIRE_KILLS` names another number. And the same with a disk that is full for a while.
#![expect(clippy::unwrap_used, reason = "tests, in their helpers too")]

mod errors;
mod full;
mod machine;
mod server;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use machine::Machine;
use serde_json::{Value, json};
use server::{ControlServer, Host};

const WRITERS: usize = 4;
const KILLS: u32 = 25;

/// What the server said it has.
#[derive(Default)]
struct Acknowledged {
    people: BTreeSet<String>,
    /// Machines with the addresses that their maps told.
    machines: BTreeMap<u64, Vec<IpAddr>>,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_acknowledged_survives_kills() {
    let kills = std::env::var("SAMEWIRE_KILLS").ok().and_then(|n| n.parse().ok()).unwrap_or(KILLS);
    let host = Arc::new(Host::new());
    let mut server = ControlServer::start(&host).await;
    host.post("users", &json!({ "name": "ada" })).await.unwrap();
    let key =
        host.post("keys", &json!({ "user": "ada", "reusable": true, "preapproved": true })).await.unwrap();
    let auth_key = key["key"].as_str().unwrap().to_owned();
    let noise = host.noise_key().await;

    let (stop, next) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(1)));
    let acknowledged = Arc::new(Mutex::new(Acknowledged::default()));
    let writers: Vec<_> = (0..WRITERS)
        .map(|_| {
            let (host, stop, next, acknowledged) =
                (Arc::clone(&host), Arc::clone(&stop), Arc::clone(&next), Arc::clone(&acknowledged));
            let auth_key = auth_key.clone();
            tokio::spawn(async move {
                while !stop.load(Ordering::Relaxed) {
                    let n = next.fetch_add(1, Ordering::Relaxed);
                    write_one(&host, noise, &auth_key, n, &acknowledged).await;
                }
            })
        })
        .collect();

    for kill in 0..kills {
        let mut moment = [0; 2];
        getrandom::fill(&mut moment).unwrap();
        // The random moment is the point of the test; nothing is waited for.
        tokio::time::sleep(Duration::from_millis(u64::from(u16::from_le_bytes(moment) % 150))).await;
        server.kill().await;
        let (people, machines) = {
            let known = acknowledged.lock().unwrap();
            (known.people.clone(), known.machines.clone())
        };
        server = ControlServer::start(&host).await;
        assert_all_there(&host, &people, &machines, kill).await;
        if let Some((n, addresses)) = machines.iter().nth(kill as usize % machines.len().max(1)) {
            let resumed = Machine::new(*n).map(host.address, noise).await;
            assert_eq!(resumed.as_ref(), Some(addresses), "machine {n} resumes after kill {kill}");
        }
    }
    stop.store(true, Ordering::Relaxed);
    for writer in writers {
        writer.await.unwrap();
    }
    let (people, machines) = {
        let known = acknowledged.lock().unwrap();
        (known.people.len(), known.machines.len())
    };
    assert!(people > 20 && machines > 20, "there was a load of writes: {people} people, {machines} machines");
    println!("{kills} kills; {people} people and {machines} machines acknowledged, none lost");
    server.kill().await;
}

/// One more person, or one more machine.
async fn write_one(
    host: &Host,
    noise: sw_types::ControlKey,
    auth_key: &str,
    n: u64,
    acknowledged: &Mutex<Acknowledged>,
) {
    if n.is_multiple_of(2) {
        let name = format!("person{n}");
        if host.post("users", &json!({ "name": name })).await.is_some() {
            acknowledged.lock().unwrap().people.insert(name);
        }
        return;
    }
    let machine = Machine::new(n);
    if machine.register(host.address, noise, auth_key).await.is_none() {
        return;
    }
    // Registered, whatever becomes of the question for the addresses.
    let addresses = machine.map(host.address, noise).await;
    if let Some(addresses) = addresses {
        acknowledged.lock().unwrap().machines.insert(n, addresses);
    }
}

async fn assert_all_there(
    host: &Host,
    people: &BTreeSet<String>,
    machines: &BTreeMap<u64, Vec<IpAddr>>,
    kill: u32,
) {
    let users = host.get("users").await.unwrap();
    let names: BTreeSet<&str> = users.as_array().unwrap().iter().filter_map(|u| u["name"].as_str()).collect();
    let lost: Vec<&String> = people.iter().filter(|name| !names.contains(name.as_str())).collect();
    assert!(lost.is_empty(), "kill {kill} lost people {lost:?}");

    let nodes = host.get("nodes").await.unwrap();
    let nodes = nodes.as_array().unwrap();
    let by_key: BTreeMap<&str, &Value> =
        nodes.iter().map(|node| (node["nodeKey"].as_str().unwrap(), node)).collect();
    let mut owner: BTreeMap<IpAddr, &str> = BTreeMap::new();
    for (key, node) in &by_key {
        for address in addresses(node) {
            let other = owner.insert(address, key);
            assert!(other.is_none(), "kill {kill}: {address} belongs to {key} and {other:?}");
        }
    }
    for (n, told) in machines {
        let node = by_key.get(Machine::new(*n).node_key().to_string().as_str());
        let node = node.unwrap_or_else(|| panic!("kill {kill} lost machine {n}"));
        assert_eq!(&addresses(node), told, "kill {kill}: machine {n}");
    }
}

fn addresses(node: &Value) -> Vec<IpAddr> {
    let texts = node["addresses"].as_array().unwrap().iter();
    texts.map(|text| text.as_str().unwrap().parse().unwrap()).collect()
}
