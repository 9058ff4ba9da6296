//! The server of a lab's network: ours with its relay, or Headscale with the official relay.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::time::Duration;

use serde_json::Value;

use crate::build::spawn_in_background;
use crate::namespace::{command_in, run_program};
use crate::programs::Programs;
use crate::topology::RelayProcess;
use crate::{Interrupt, LabError, Software};

/// TCP port of the control server.
const CONTROL_PORT: u16 = 8080;

/// TCP port of a relay that is a program of its own.
const RELAY_PORT: u16 = 3340;

/// Longest wait for a server to serve.
const START_LIMIT: Duration = Duration::from_secs(20);

/// A running server.
#[derive(Debug)]
pub struct Server {
    software: Software,
    relay_process: RelayProcess,
    namespace: String,
    addresses: Vec<IpAddr>,
    host: String,
    dir: PathBuf,
    programs: Programs,
    control: Option<Child>,
    relay: Option<Child>,
    /// Extra arguments of our server, such as a policy.
    extra: Vec<String>,
}

impl Server {
    /// Takes the server's name and addresses; with more than one address machines know it by its name.
    pub(crate) fn new(
        (software, relay_process): (Software, RelayProcess),
        (name, addresses): (&str, &[IpAddr]),
        namespace: &str,
        dir: &Path,
        programs: &Programs,
    ) -> Self {
        let host = match addresses {
            [only] => only.to_string(),
            _ => host_name(name),
        };
        Self {
            software,
            relay_process,
            namespace: namespace.to_owned(),
            addresses: addresses.to_vec(),
            host,
            dir: dir.to_owned(),
            programs: programs.clone(),
            control: None,
            relay: None,
            extra: Vec::new(),
        }
    }

    /// Adds arguments for `samewire control serve`; they take effect at the next start.
    pub fn set_extra_arguments(&mut self, extra: &[&str]) {
        self.extra = extra.iter().map(|&a| a.to_owned()).collect();
    }

    /// Returns the URL that machines join at.
    pub fn url(&self) -> String {
        format!("http://{}:{CONTROL_PORT}", self.host)
    }

    /// Returns the directory of the server's state.
    pub fn state_dir(&self) -> PathBuf {
        self.dir.join("state")
    }

    /// Starts server and relay and waits until they serve.
    ///
    /// # Errors
    /// A program is absent, ends at once or does not serve in time.
    pub fn start(&mut self, interrupt: &Interrupt) -> Result<(), LabError> {
        match self.software {
            Software::Samewire => {
                if self.relay_process == RelayProcess::Separate && !self.relay_runs() {
                    self.start_own_relay(interrupt)?;
                }
                self.control = Some(self.spawn(self.samewire_control()?, "control.log")?);
            }
            Software::Official => {
                self.write_headscale_files()?;
                if !self.relay_runs() {
                    self.start_derper()?;
                }
                self.control = Some(self.spawn(self.headscale(&["serve"])?, "headscale.log")?);
            }
            Software::None => {
                return Err(LabError::new("lab-no-server", "the lab has no server.").exit_code(2));
            }
        }
        let served = interrupt.wait_for(START_LIMIT, || {
            if let Some(status) = self.control.as_mut().and_then(|c| c.try_wait().ok().flatten()) {
                return Err(self.not_serving(&format!("it ended with {status}")));
            }
            if let Some(status) = self.relay.as_mut().and_then(|c| c.try_wait().ok().flatten()) {
                return Err(self.not_serving(&format!("its relay ended with {status}")));
            }
            let has_relay = self.relay.is_none() || self.answers(RELAY_PORT);
            Ok((has_relay && self.answers(CONTROL_PORT)).then_some(()))
        })?;
        served.ok_or_else(|| {
            self.not_serving(&format!("nothing answered at {} in {} s", self.url(), START_LIMIT.as_secs()))
        })
    }

    fn not_serving(&self, why: &str) -> LabError {
        LabError::new("lab-server", "the server of the lab did not start.")
            .why(why)
            .fix(format!("read what it wrote in {}", self.dir.display()))
    }

    /// Ends the control server, with no time to say goodbye.
    pub fn kill_control(&mut self) {
        end(&mut self.control);
    }

    /// Ends the relay, if it is a program of its own.
    pub fn kill_relay(&mut self) {
        end(&mut self.relay);
    }

    /// Tells whether a relay of its own has outlived its server.
    fn relay_runs(&mut self) -> bool {
        self.relay.as_mut().is_some_and(|relay| matches!(relay.try_wait(), Ok(None)))
    }

    /// Starts `samewire relay` and asks it for the map by which machines find it.
    fn start_own_relay(&mut self, interrupt: &Interrupt) -> Result<(), LabError> {
        let state = self.dir.join("relay");
        let mut command = command_in(&self.namespace, &self.programs.samewire)?;
        command.args(["relay", "--listen", &self.listen(RELAY_PORT), "--stun-listen", &self.listen(3478)]);
        command.args(["--hostname", &self.relay_host()]).arg("--state").arg(&state).env("HOME", &self.dir);
        self.relay = Some(self.spawn(command, "relay.log")?);
        let mut command = command_in(&self.namespace, &self.programs.samewire)?;
        command.args(["relay", "derp-map"]).arg("--state").arg(&state);
        // The map is there a moment later than the port.
        let map = interrupt.wait_for(START_LIMIT, || {
            Ok(self.answers(RELAY_PORT).then(|| run_program(&mut command, "").ok()).flatten())
        })?;
        let map = map.ok_or_else(|| self.not_serving("its relay tells no map"))?;
        std::fs::write(self.derp_map(), map.stdout).map_err(|e| self.not_serving(&e.to_string()))
    }

    fn derp_map(&self) -> PathBuf {
        self.dir.join("derp-map.json")
    }

    fn start_derper(&mut self) -> Result<(), LabError> {
        let (_, derper) = self.programs.official_server()?;
        let mut command = command_in(&self.namespace, derper)?;
        command.arg("-a").arg(self.listen(RELAY_PORT)).args(["-http-port", "-1", "-certmode", "manual"]);
        command.arg("-hostname").arg(self.relay_host()).arg("-certdir").arg(self.dir.join("certs"));
        command.arg("-c").arg(self.dir.join("derper.key")).env("HOME", &self.dir);
        self.relay = Some(self.spawn(command, "derper.log")?);
        Ok(())
    }

    fn spawn(&self, mut command: Command, log: &str) -> Result<Child, LabError> {
        spawn_in_background(&mut command, &self.dir.join(log))
    }

    fn samewire_control(&self) -> Result<Command, LabError> {
        let mut command = command_in(&self.namespace, &self.programs.samewire)?;
        let (url, listen) = (self.url(), self.listen(CONTROL_PORT));
        command.args(["control", "serve", "--url", &url, "--listen", &listen]);
        if self.relay_process == RelayProcess::Separate {
            command.arg("--no-relay").arg("--derp-map").arg(self.derp_map());
        }
        command.arg("--state").arg(self.state_dir()).args(&self.extra).env("HOME", &self.dir);
        Ok(command)
    }

    fn headscale(&self, arguments: &[&str]) -> Result<Command, LabError> {
        let mut command = command_in(&self.namespace, self.programs.official_server()?.0)?;
        command.arg("-c").arg(self.dir.join("headscale.yaml")).args(arguments).env("HOME", &self.dir);
        Ok(command)
    }

    /// Runs `samewire control` with `arguments` on this server's state and returns its output.
    ///
    /// # Errors
    /// It ended with an error.
    pub fn control(&self, arguments: &[&str]) -> Result<String, LabError> {
        let mut command = command_in(&self.namespace, &self.programs.samewire)?;
        command.arg("control").args(arguments).arg("--state").arg(self.state_dir()).env("HOME", &self.dir);
        let output = run_program(&mut command, "")?;
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// Returns the official relay's name: an address, since only for that it makes its own certificate.
    fn relay_host(&self) -> String {
        self.addresses.first().map(IpAddr::to_string).unwrap_or_default()
    }

    /// Returns what to listen at: the only address, or all.
    fn listen(&self, port: u16) -> String {
        match self.addresses.as_slice() {
            [only] => std::net::SocketAddr::new(*only, port).to_string(),
            _ => format!("[::]:{port}"),
        }
    }

    fn answers(&self, port: u16) -> bool {
        let Some(address) = self.addresses.first().map(|a| (*a, port).into()) else { return false };
        crate::namespace::enter(&self.namespace, || {
            std::net::TcpStream::connect_timeout(&address, Duration::from_millis(200))
                .map(drop)
                .map_err(|e| LabError::new("lab-server", e.to_string()))
        })
        .is_ok()
    }

    /// Makes a key with which any number of machines can join.
    ///
    /// # Errors
    /// The server refused.
    pub fn auth_key(&self) -> Result<String, LabError> {
        let answer = match self.software {
            Software::Samewire => {
                // It may exist from an earlier key.
                let _exists = self.control(&["users", "create", "lab"]);
                self.control(&["keys", "create", "--user", "lab", "--reusable", "--expiry", "24h", "--json"])?
            }
            Software::Official => {
                // It may exist from an earlier key.
                let _exists = run_program(&mut self.headscale(&["users", "create", "lab"])?, "");
                let words = [
                    "preauthkeys",
                    "create",
                    "--user",
                    "1",
                    "--reusable",
                    "--expiration",
                    "24h",
                    "-o",
                    "json",
                ];
                let output = run_program(&mut self.headscale(&words)?, "")?;
                String::from_utf8_lossy(&output.stdout).into_owned()
            }
            Software::None => String::new(),
        };
        let key =
            serde_json::from_str::<Value>(&answer).ok().and_then(|v| Some(v["key"].as_str()?.to_owned()));
        key.ok_or_else(|| LabError::new("lab-server", "the server gave no key to join with.").why(answer))
    }

    fn write_headscale_files(&self) -> Result<(), LabError> {
        let failed = |e: std::io::Error| {
            LabError::new("lab-files", "the files of the server cannot be written.").why(e.to_string())
        };
        let dir = self.dir.display();
        let config = format!(
            "server_url: {url}\nlisten_addr: \"{listen}\"\nmetrics_listen_addr: 127.0.0.1:9090\n\
             grpc_listen_addr: 127.0.0.1:50443\nnoise:\n  private_key_path: {dir}/noise.key\n\
             prefixes:\n  v4: 100.64.0.0/10\n  v6: fd7a:115c:a1e0::/48\n\
             derp:\n  server:\n    enabled: false\n  urls: []\n  paths: [{dir}/derp.yaml]\n  auto_update_enabled: false\n\
             disable_check_updates: true\ndatabase:\n  type: sqlite\n  sqlite:\n    path: {dir}/headscale.db\n\
             unix_socket: {dir}/headscale.sock\nunix_socket_permission: \"0700\"\n\
             dns:\n  magic_dns: true\n  base_domain: lab.internal\n  override_local_dns: false\n  nameservers:\n    global: []\n\
             policy:\n  mode: file\n  path: \"\"\nlog:\n  level: info\n",
            url = self.url(),
            listen = self.listen(CONTROL_PORT),
        );
        let addresses: String = self
            .addresses
            .iter()
            .map(|a| format!("        {}: \"{a}\"\n", if a.is_ipv4() { "ipv4" } else { "ipv6" }))
            .collect();
        let derp = format!(
            "regions:\n  900:\n    regionid: 900\n    regioncode: lab\n    regionname: lab\n    nodes:\n      - name: 900a\n        \
             regionid: 900\n        hostname: {host}\n{addresses}        stunport: 3478\n        \
             derpport: {RELAY_PORT}\n        insecurefortests: true\n",
            host = self.relay_host(),
        );
        std::fs::create_dir_all(self.dir.join("certs")).map_err(failed)?;
        std::fs::write(self.dir.join("headscale.yaml"), config).map_err(failed)?;
        std::fs::write(self.dir.join("derp.yaml"), derp).map_err(failed)
    }
}

/// Returns the name by which machines find a server that has several addresses; it stands in their hosts file.
pub(crate) fn host_name(server: &str) -> String {
    format!("{server}.example")
}

/// Ends a program and collects it.
fn end(child: &mut Option<Child>) {
    if let Some(mut child) = child.take() {
        // It may have ended by itself.
        let _gone = child.kill();
        let _collected = child.wait();
    }
}
