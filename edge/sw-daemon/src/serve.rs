//! What this node serves to its network: programs of the machine, files and texts (node-services.md §8).
//!
//! ```text
//!   LocalAPI ─ ServeConfig ─▶ Serving ─ a listener for each port and own address ─▶ web ─▶ proxy, files, text
//!                                                                               └▶ tcp: forwarded
//! ```

mod files;
mod proxy;
mod tcp;
mod web;

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use arc_swap::ArcSwap;
use sw_types::local::{HttpHandler, Problem, ServeConfig, TcpPortHandler};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use crate::config::TunMode;
use crate::core::{Core, CoreHandle};
use crate::inner::{self, Arrival};

/// Connections of one port that are answered at once.
const CONNECTIONS_MAX: usize = 512;

/// The services of the profile in use.
#[derive(Debug)]
pub(crate) struct Serving {
    core: CoreHandle,
    config: ServeConfig,
    open: BTreeMap<u16, Open>,
}

/// A port that is listened on. What answers can change under a listener: to bind it anew would take it from itself.
#[derive(Debug)]
struct Open {
    port: Arc<ArcSwap<Port>>,
    listening: BTreeMap<IpAddr, CancellationToken>,
}

impl Open {
    fn close(&self, is_kept: impl Fn(&IpAddr) -> bool) {
        self.listening.iter().filter(|(address, _)| !is_kept(address)).for_each(|(_, stop)| stop.cancel());
    }
}

/// What answers on a port.
#[derive(Debug, PartialEq, Eq)]
enum Port {
    Web(Web),
    Forward(TcpPortHandler),
}

/// The web servers of a port, by host name.
#[derive(Debug, PartialEq, Eq)]
struct Web {
    port: u16,
    /// What short names end in.
    suffix: String,
    hosts: BTreeMap<String, BTreeMap<String, HttpHandler>>,
}

impl Serving {
    pub(crate) fn new(core: CoreHandle, config: ServeConfig) -> Self {
        Self { core, config, open: BTreeMap::new() }
    }

    /// What is served, the foreground with it.
    pub(crate) fn config(&self) -> &ServeConfig {
        &self.config
    }

    fn ports(&self, suffix: &str) -> BTreeMap<u16, Port> {
        let mut ports = BTreeMap::new();
        for part in self.config.parts() {
            for (number, handler) in &part.tcp {
                let port = if handler.http {
                    let hosts = part.web.iter().filter_map(|(place, server)| {
                        let (host, port) = place.rsplit_once(':')?;
                        (port.parse() == Ok(*number))
                            .then(|| (host.to_ascii_lowercase(), server.handlers.clone()))
                    });
                    Port::Web(Web { port: *number, suffix: suffix.to_owned(), hosts: hosts.collect() })
                } else {
                    Port::Forward(handler.clone())
                };
                ports.insert(*number, port);
            }
        }
        ports
    }

    /// Listens on what the configuration names and on nothing else; returns the first port that could not be had.
    fn refresh(
        &mut self,
        addresses: &[IpAddr],
        suffix: &str,
        network: Option<&crate::userspace::Network>,
    ) -> Option<(u16, std::io::Error)> {
        // Every address of the stack shares the port.
        let own = if network.is_some() { addresses.get(..1).unwrap_or_default() } else { addresses };
        let wanted = if own.is_empty() { BTreeMap::new() } else { self.ports(suffix) };
        self.open.retain(|number, open| {
            let is_wanted = wanted.contains_key(number);
            open.close(|address| is_wanted && own.contains(address));
            open.listening.retain(|_, stop| !stop.is_cancelled());
            is_wanted
        });
        let mut failed = None;
        for (number, port) in wanted {
            let port = Arc::new(port);
            let open = self.open.entry(number).or_insert_with(|| Open {
                port: Arc::new(ArcSwap::new(Arc::clone(&port))),
                listening: BTreeMap::new(),
            });
            open.port.store(port);
            let slots = Arc::new(Semaphore::new(CONNECTIONS_MAX));
            for address in
                own.iter().filter(|address| !open.listening.contains_key(address)).collect::<Vec<_>>()
            {
                let (core, port, stop) =
                    (self.core.clone(), Arc::clone(&open.port), CancellationToken::new());
                let answer = move |arrival| answer(core.clone(), port.load_full(), arrival);
                let at = SocketAddr::new(*address, number);
                match inner::listen(network, at, (Arc::clone(&slots), &stop), answer) {
                    Ok(_) => drop(open.listening.insert(*address, stop)),
                    Err(error) => drop(failed.get_or_insert((number, error))),
                }
            }
        }
        failed
    }
}

async fn answer(core: CoreHandle, port: Arc<Port>, arrival: Arrival) {
    match &*port {
        Port::Web(_) => web::serve(core, port, arrival).await,
        Port::Forward(handler) => tcp::forward(handler, arrival).await,
    }
}

impl Core {
    /// Serves what the configuration says on the addresses that this node has now.
    pub(crate) fn refresh_serving(&mut self) -> Option<(u16, std::io::Error)> {
        let is_up = self.node.state() != sw_types::local::BackendState::Stopped;
        let netmap = self.node.netmap().filter(|_| is_up && self.node.has_key());
        let addresses: Vec<IpAddr> = netmap
            .map(|map| map.self_node.addresses.iter().map(|net| net.addr()).collect())
            .unwrap_or_default();
        let suffix = netmap.map(|map| map.magic_dns_suffix().to_owned()).unwrap_or_default();
        let network = match self.config.tun {
            TunMode::Userspace => self.network(),
            TunMode::Interface(_) => None,
        };
        let failed = self.serving.refresh(&addresses, &suffix, network.as_ref());
        if let Some((port, error)) = &failed {
            tracing::warn!(port, %error, "a port to serve on cannot be had");
        }
        failed
    }

    /// Takes another configuration, and keeps it over restarts.
    pub(crate) fn set_serve_config(&mut self, config: ServeConfig) -> Result<(), Problem> {
        config.check().map_err(|refused| Problem::other(refused.what, "", refused.fix))?;
        if config == self.serving.config {
            return Ok(());
        }
        let before = std::mem::replace(&mut self.serving.config, config);
        let taken = match self.refresh_serving() {
            Some((port, error)) => Err(Problem::other(
                format!("port {port} of this machine's network address cannot be served."),
                error.to_string(),
                format!("see who has it: ss -ltnp 'sport = :{port}', or take another port"),
            )),
            None => self.store.save_serve_config(&self.serving.config),
        };
        if taken.is_err() {
            self.serving.config = before;
            let _as_before = self.refresh_serving();
        }
        taken
    }

    /// The profile is another one: what the last one served ends.
    pub(crate) fn reload_serving(&mut self) {
        self.serving.config = self.store.serve_config();
        let _said_in_log = self.refresh_serving();
    }

    /// A watcher left: what it served in the foreground ends.
    pub(crate) fn end_foreground(&mut self, session: &str) {
        if self.serving.config.foreground.remove(session).is_some() {
            let _said_in_log = self.refresh_serving();
        }
    }
}
