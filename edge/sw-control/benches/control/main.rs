//! Churn on a control server: real Noise and HTTP/2 clients on loopback, the server in a process of its own, so that
//! its CPU and memory are what /proc says of it.
//!
//! `cargo xtask bench control [--nodes 100,1000,5000]`, and with `--daemon PROGRAM` what such a network costs a real
//! node (`cargo xtask bench node`). Prints, for each size: what a registration costs, how long
//! and how much CPU it takes to bring everybody online, memory for each idle machine that is online, when the last
//! stream has heard of a policy change, the CPU of one endpoint change that comes alone and of one among 20 a second,
//! and the CPU of 100 reconnects a second.
#![expect(clippy::print_stdout, clippy::unwrap_used, reason = "a bench prints and stops")]

mod client;
mod daemon;
mod server;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use client::{Machine, Network};
use server::ServerProcess;

/// Reconnects in the reconnect case.
const RECONNECTS_A_SECOND: u32 = 100;
const RECONNECT_SECONDS: u32 = 10;
/// Lone endpoint changes that are averaged; each waits until all have heard of it.
const ENDPOINT_CHANGES: u32 = 10;
/// Endpoint changes of the churn case: with 1,000 machines each moves once in 50 s.
const CHURN_A_SECOND: u32 = 20;
const CHURN_SECONDS: u32 = 10;
/// Connections that are opened at the same time.
const AT_ONCE: usize = 32;

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    raise_file_limit();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    if let Some([_, folder]) = arguments.iter().position(|a| a == "--serve").map(|at| &arguments[at..at + 2])
    {
        return runtime.block_on(server::serve(folder.into()));
    }
    let after = |name: &str| arguments.iter().position(|a| a == name).and_then(|at| arguments.get(at + 1));
    if let Some(program) = after("--daemon") {
        let size = after("--nodes").map_or("10000", String::as_str).parse().unwrap();
        return runtime.block_on(measure_node(program.as_ref(), size));
    }
    let sizes = after("--nodes").map_or("100,1000,5000", String::as_str);
    println!(
        "{:>6} {:>10} {:>10} {:>11} {:>10} {:>10} {:>12} {:>12} {:>12} {:>13}",
        "nodes",
        "reg/s",
        "online s",
        "online CPU",
        "KiB/node",
        "policy ms",
        "policy CPU",
        "endpoint CPU",
        "at 20/s",
        "100 rec/s CPU"
    );
    for size in sizes.split(',') {
        runtime.block_on(measure(size.trim().parse().unwrap()));
    }
}

fn raise_file_limit() {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    setrlimit(Resource::Nofile, limit).unwrap();
}

async fn measure_node(program: &std::path::Path, nodes: usize) {
    let server = ServerProcess::start().await;
    let network = Arc::new(Network::new(server.address, server.key, server.auth_key.clone()));
    let mut machines = registered(&network, nodes).await;
    daemon::measure(program, &server, &network, &mut machines).await;
    server.stop().await;
}

async fn measure(nodes: usize) {
    let server = ServerProcess::start().await;
    let network = Arc::new(Network::new(server.address, server.key, server.auth_key.clone()));
    let empty = server.resident_kib();

    let begun = Instant::now();
    let machines = registered(&network, nodes).await;
    let registrations = nodes as f64 / begun.elapsed().as_secs_f64();

    let (begun, cpu) = (Instant::now(), server.cpu());
    let machines = online(machines).await;
    network.quiet().await;
    let online_s = (begun.elapsed() - client::QUIET).as_secs_f64();
    let online_cpu = server.cpu() - cpu;
    let memory = server.resident_kib().saturating_sub(empty) as f64 / nodes as f64;

    let (policy, policy_cpu) = policy_change(&server, &network, &machines).await;
    let endpoint = endpoint_changes(&server, &network, &machines).await;
    let churn = endpoint_churn(&server, &network, &machines).await;
    let reconnect = reconnects(&server, &network, machines).await;
    println!(
        "{nodes:>6} {registrations:>10.0} {online_s:>10.2} {:>9.2} s {memory:>10.1} {:>10.0} {:>9.1} ms {:>9.2} ms {:>9.2} ms {:>11.1} %",
        online_cpu.as_secs_f64(),
        ms(policy),
        ms(policy_cpu),
        ms(endpoint),
        ms(churn),
        reconnect * 100.0,
    );
    server.stop().await;
}

fn ms(time: Duration) -> f64 {
    time.as_secs_f64() * 1_000.0
}

/// Does `act` for each item, some at the same time, and returns the results in order.
async fn side_by_side<T, R, F>(items: Vec<T>, act: impl Fn(T) -> F) -> Vec<R>
where
    F: Future<Output = R> + Send + 'static,
    R: Send + 'static,
{
    let turns = Arc::new(tokio::sync::Semaphore::new(AT_ONCE));
    let mut running = Vec::with_capacity(items.len());
    for item in items {
        let turn = Arc::clone(&turns).acquire_owned().await.unwrap();
        let action = act(item);
        running.push(tokio::spawn(async move {
            let result = action.await;
            drop(turn);
            result
        }));
    }
    let mut results = Vec::with_capacity(running.len());
    for task in running {
        results.push(task.await.unwrap());
    }
    results
}

async fn registered(network: &Arc<Network>, nodes: usize) -> Vec<Machine> {
    side_by_side((0..nodes).collect(), |n| {
        let network = Arc::clone(network);
        async move { Machine::register(network, n).await }
    })
    .await
}

async fn online(machines: Vec<Machine>) -> Vec<Machine> {
    side_by_side(machines, |mut machine| async move {
        machine.listen().await;
        machine
    })
    .await
}

/// Time until every stream has heard of a policy change, and its CPU.
async fn policy_change(
    server: &ServerProcess,
    network: &Network,
    machines: &[Machine],
) -> (Duration, Duration) {
    let before: Vec<u64> = machines.iter().map(Machine::messages).collect();
    let (cpu, begun) = (server.cpu(), Instant::now());
    server.change_policy();
    loop {
        let heard =
            machines.iter().zip(&before).filter(|(machine, before)| machine.messages() > **before).count();
        if heard == machines.len() {
            break;
        }
        assert!(
            begun.elapsed() < Duration::from_secs(60),
            "{heard} of {} heard of the policy",
            machines.len()
        );
        network.next_message().await;
    }
    let took = begun.elapsed();
    network.quiet().await;
    (took, server.cpu() - cpu)
}

/// CPU of one endpoint change that every other machine is told of, when nothing else happens.
async fn endpoint_changes(server: &ServerProcess, network: &Network, machines: &[Machine]) -> Duration {
    let idle = idle_cpu(server).await;
    let (cpu, begun) = (server.cpu(), Instant::now());
    for n in 0..ENDPOINT_CHANGES {
        let teller = &machines[n as usize % machines.len()];
        let before: Vec<u64> = machines.iter().map(Machine::messages).collect();
        teller.tell_endpoint(n).await;
        while machines
            .iter()
            .zip(&before)
            .filter(|(machine, before)| !std::ptr::eq(*machine, teller) && machine.messages() <= **before)
            .count()
            > 0
        {
            assert!(begun.elapsed() < Duration::from_secs(60), "an endpoint change did not arrive");
            network.next_message().await;
        }
    }
    let own = begun.elapsed().mul_f64(idle);
    (server.cpu() - cpu).saturating_sub(own) / ENDPOINT_CHANGES
}

/// CPU of one endpoint change among [`CHURN_A_SECOND`], until all have heard of all.
async fn endpoint_churn(server: &ServerProcess, network: &Network, machines: &[Machine]) -> Duration {
    let idle = idle_cpu(server).await;
    let (cpu, begun) = (server.cpu(), Instant::now());
    let all = CHURN_A_SECOND * CHURN_SECONDS;
    for n in 0..all {
        tokio::time::sleep_until((begun + Duration::from_secs(1) * n / CHURN_A_SECOND).into()).await;
        machines[n as usize * 7 % machines.len()].tell_endpoint(1_000 + n).await;
    }
    network.quiet().await;
    network.quiet().await;
    let own = begun.elapsed().mul_f64(idle);
    (server.cpu() - cpu).saturating_sub(own) / all
}

/// Share of a core that the server takes while nothing happens.
async fn idle_cpu(server: &ServerProcess) -> f64 {
    let (cpu, begun) = (server.cpu(), Instant::now());
    tokio::time::sleep(Duration::from_secs(1)).await;
    (server.cpu() - cpu).as_secs_f64() / begun.elapsed().as_secs_f64()
}

/// Share of one core that 100 reconnects a second take.
async fn reconnects(server: &ServerProcess, network: &Network, mut machines: Vec<Machine>) -> f64 {
    let late = AtomicU64::new(0);
    let (cpu, begun) = (server.cpu(), Instant::now());
    let all = RECONNECTS_A_SECOND * RECONNECT_SECONDS;
    let count = machines.len();
    for n in 0..all {
        let due = begun + Duration::from_secs(1) * n / RECONNECTS_A_SECOND;
        if Instant::now() > due + Duration::from_secs(1) {
            late.fetch_add(1, Ordering::Relaxed);
        }
        tokio::time::sleep_until(due.into()).await;
        let machine = &mut machines[n as usize % count];
        machine.reconnect();
    }
    for machine in &mut machines {
        machine.settled().await;
    }
    let share = (server.cpu() - cpu).as_secs_f64() / begun.elapsed().as_secs_f64();
    let late = late.load(Ordering::Relaxed);
    if late > 0 {
        println!("       {late} of {all} reconnects began more than a second late");
    }
    network.quiet().await;
    share
}
