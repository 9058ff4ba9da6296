//! What goes wrong.

use std::time::Duration;

use sw_path::{LinkChange, RelayState};

use super::{Event, World};
use crate::net::SegmentId;
use crate::scenario::Fault;

/// A machine notices a broken relay connection after this long.
const RESET: Duration = Duration::from_millis(30);
/// How often a lying machine sends nonsense.
const LIE_EVERY: Duration = Duration::from_millis(200);

/// Lies end at last, or no world would ever be quiet.
const LIES_UNTIL: Duration = Duration::from_secs(120);

impl World {
    pub(super) fn fault(&mut self, fault: Fault) {
        self.trace.bytes(format!("{fault:?}").as_bytes());
        match fault {
            Fault::Roam { host, segment } => self.roam(host, segment),
            Fault::Sleep { host, secs } => self.sleep(host, Duration::from_secs(secs)),
            Fault::ClockJump { host, secs } => {
                if let Some(h) = self.hosts.get_mut(host) {
                    h.wall_offset_s += secs;
                }
                let now = self.now_at(host);
                if let Some(node) = self.hosts.get_mut(host).and_then(|h| h.node.as_mut()) {
                    node.on_deadline(now);
                }
                self.with_engine(host, |engine, now| engine.on_deadline(now));
            }
            Fault::Restart { host } => self.restart(host),
            Fault::RelayDies { region } => self.relay_dies(region),
            Fault::RelayReturns { region } => {
                if let Some(relay) = self.relays.get_mut(region) {
                    relay.is_alive = true;
                }
            }
            Fault::ControlRestart { secs } => self.control_restarts(Duration::from_secs(secs)),
            Fault::CommitFails { host, times } => match &mut self.server {
                Some(server) => server.refuse(times),
                None => self.control.refuse(host, times),
            },
            Fault::Lies { host } => {
                if let Some(h) = self.hosts.get_mut(host)
                    && !std::mem::replace(&mut h.lies, true)
                {
                    self.queue.push(self.now, Event::Lie { host });
                }
            }
            Fault::BoxReboots { segment } => self.box_reboots(segment),
            Fault::Cut { a, b, loss } => {
                let pair = (a.min(b), a.max(b));
                if loss > 0.0 {
                    self.cuts.insert(pair, loss);
                } else {
                    self.cuts.remove(&pair);
                }
            }
            Fault::Revoke { a, b } => {
                self.set_permitted(a, b, false);
            }
            Fault::Permit { a, b } => {
                self.set_permitted(a, b, true);
            }
        }
    }

    fn set_permitted(&mut self, a: usize, b: usize, permitted: bool) {
        self.control.set_permitted(a, b, permitted);
        if self.server.is_some() {
            self.enforce_policy();
        } else {
            self.flush_soon();
        }
    }

    /// A box forgets its mappings; the machines behind it see its epoch go
    /// back and ask for their port again (stun-netcheck.md §8.1).
    fn box_reboots(&mut self, segment: usize) {
        self.net.reboot_box(SegmentId(segment));
        for host in 0..self.hosts.len() {
            if self.hosts.get(host).is_some_and(|h| h.is_awake && h.spec.segment == segment) {
                self.rebind(host);
            }
        }
    }

    fn roam(&mut self, host: usize, segment: usize) {
        let Some(h) = self.hosts.get_mut(host) else { return };
        h.spec.segment = segment;
        let (station, families) = (h.station, (h.spec.v4, h.spec.v6));
        self.net.attach(station, SegmentId(segment), families);
        self.drop_streams(host);
        if !self.hosts.get(host).is_some_and(|h| h.is_awake) {
            return;
        }
        let local = self.local_addresses(host);
        let home = self.hosts.get(host).and_then(|h| h.home);
        self.with_engine(host, |engine, now| {
            if let Some(home) = home {
                engine.on_relay_state(home, RelayState::Down, now);
            }
            engine.on_local_addresses(local, now);
            engine.on_link_change(LinkChange::Major, now);
        });
        self.redial(host);
    }

    fn sleep(&mut self, host: usize, lasts: Duration) {
        let Some(h) = self.hosts.get_mut(host).filter(|h| h.is_awake) else { return };
        h.is_awake = false;
        h.armed = None;
        self.drop_streams(host);
        self.queue.push(self.now + lasts, Event::WakesUp { host, slept: lasts });
    }

    pub(super) fn wakes_up(&mut self, host: usize, slept: Duration) {
        let Some(h) = self.hosts.get_mut(host) else { return };
        h.is_awake = true;
        let local = self.local_addresses(host);
        self.with_engine(host, |engine, now| {
            engine.on_local_addresses(local, now);
            engine.on_resume(slept, now);
        });
        self.redial(host);
    }

    fn restart(&mut self, host: usize) {
        if !self.hosts.get(host).is_some_and(|h| h.is_awake) {
            return;
        }
        self.drop_streams(host);
        self.stop_session(host);
        let config = self.path_config();
        if let Some(h) = self.hosts.get_mut(host) {
            h.restart(config, &mut self.rng);
        }
        let knew: Vec<(usize, usize)> = self.acked.keys().filter(|(n, _)| *n == host).copied().collect();
        for pair in knew {
            self.acked.insert(pair, self.now);
        }
        self.start_node(host);
    }

    fn relay_dies(&mut self, region: usize) {
        let Some(relay) = self.relays.get_mut(region) else { return };
        relay.is_alive = false;
        let id = relay.region;
        for (host, epoch) in relay.forget_all() {
            let Some(h) = self.hosts.get_mut(host) else { continue };
            if h.relays.get(&id).is_some_and(|c| c.epoch == epoch) {
                h.relays.remove(&id);
                self.relay_state(host, id, RelayState::Down);
                let wait = self.rng.duration(RESET, RESET * 10);
                self.queue.push(self.now + wait, Event::RelayRetry { host, region: id });
            }
        }
    }

    fn control_restarts(&mut self, lasts: Duration) {
        self.control_is_up = false;
        if self.server.is_some() {
            self.restart_server();
        }
        for host in 0..self.hosts.len() {
            self.control.disconnect(host);
            if let Some(h) = self.hosts.get_mut(host) {
                h.control_up = false;
                h.control_epoch += 1;
            }
            if self.hosts.get(host).is_some_and(|h| h.is_awake) {
                let wait = self.rng.duration(RESET, RESET * 20);
                let epoch = self.hosts.get(host).map_or(0, |h| h.control_epoch);
                let event = match self.server {
                    Some(_) => Event::SessionBroken { host, epoch },
                    None => Event::ControlOpens { host, epoch },
                };
                self.queue.push(self.now + wait, event);
            }
        }
        self.queue.push(self.now + lasts, Event::ControlReturns);
    }

    pub(super) fn control_returns(&mut self) {
        self.control_is_up = true;
    }

    /// A lying machine sends noise, forged and misplaced messages to all.
    pub(super) fn lie(&mut self, host: usize) {
        let Some(h) = self.hosts.get(host).filter(|h| h.lies && h.is_awake) else { return };
        let (disco, region) = (h.disco, h.home);
        let peers: Vec<_> = h.netmap.iter().flatten().map(|p| (p.node, p.endpoints.clone())).collect();
        for (node, endpoints) in peers {
            let mut noise = sw_proto::disco::MAGIC.to_vec();
            noise.extend_from_slice(disco.as_bytes());
            let len = 40 + self.rng.below(200) as usize;
            let start = noise.len();
            noise.resize(start + len, 0);
            self.rng.fill(noise.get_mut(start..).unwrap_or_default());
            for to in endpoints.into_iter().take(2) {
                self.send_udp(host, sw_path::SocketId::MAIN, to, noise.clone());
            }
            if let Some(region) = region {
                self.send_frame(host, region, node, noise);
            }
        }
        if self.now < self.start + LIES_UNTIL {
            self.queue.push(self.now + LIE_EVERY, Event::Lie { host });
        }
    }
}
