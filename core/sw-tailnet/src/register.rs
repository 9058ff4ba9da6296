//! Registration (control.md §3): who gets in, and with which key.

use std::net::Ipv4Addr;
use std::sync::Arc;

use sw_tailcfg::{Hostinfo, Login as WireLogin, RegisterRequest, RegisterResponse, User as WireUser};
use sw_types::problem::span;
use sw_types::{InviteToken, MachineKey, NodeId, NodeKey, Now, SecretText, TokenHash, UnixTime, UserId};

use crate::addresses::{first_free_in, v6_of};
use crate::live::Aspect;
use crate::logins::{Login, LoginStatus};
use crate::names::{free_label, is_tag};
use crate::record::{Audit, AuthKey, Change, JoinedBy, Node, Owner, TAGGED_DEVICES};
use crate::tailnet::{Output, Tailnet, Ticket};

/// What a registration is answered with.
#[derive(Debug)]
pub enum Registered {
    /// At once.
    Now(Box<RegisterResponse>),
    /// When [`Output::Registered`] comes for the ticket.
    Later,
}

/// Texts that users of official clients see, as Headscale words them where it has a word (control.md §3.4).
const BAD_KEY: &str = "invalid pre auth key";
const EXPIRED_KEY: &str = "authkey expired";
const USED_KEY: &str = "authkey already used";
const REVOKED_KEY: &str = "authkey revoked";
const NO_POOL_ADDRESS: &str = "no address is left in the ipPool that the policy names for this machine";
const NO_ADDRESS: &str = "no address is left in this network's pool";

/// Everything needed to let a machine in.
pub(crate) struct Entrance {
    pub machine: MachineKey,
    pub node_key: NodeKey,
    pub old_node_key: NodeKey,
    pub host: Arc<Hostinfo>,
    pub owner: Owner,
    pub ephemeral: bool,
    pub preapproved: bool,
    pub expiry: Option<UnixTime>,
    pub joined_by: JoinedBy,
}

impl Tailnet {
    /// Takes a register request of the device `machine`. `ticket` is good for one later answer.
    pub fn on_register(
        &mut self,
        machine: MachineKey,
        request: &RegisterRequest,
        ticket: Ticket,
        now: Now,
    ) -> Registered {
        if request.node_key.is_zero() {
            return refuse("the request names no node key");
        }
        let existing = self.state.node_by_key(&request.node_key);
        if existing.is_some_and(|node| node.machine_key != machine) {
            return refuse("this node key belongs to another machine");
        }
        let existing = existing.map(|node| node.id);
        // Log-out first, even with a key attached (control.md §8.2).
        if let (Some(at), Some(id)) = (request.expiry, existing)
            && at <= now.wall
        {
            return self.log_out(id, now);
        }
        let key = request.auth.as_ref().map(|auth| &auth.auth_key).filter(|key| !key.is_empty());
        match (key, existing) {
            (None, Some(id)) if request.followup.is_empty() => self.resume(id, request, ticket, now),
            (Some(key), existing) => self.by_key(machine, key.expose(), existing, request, now),
            (None, _) if !request.followup.is_empty() => self.follow_up(machine, request, ticket, now),
            (None, _) => self.ask_person(machine, request, now),
        }
    }

    /// A daemon restarted: nothing changes (control.md §3.6).
    fn resume(&mut self, id: NodeId, request: &RegisterRequest, ticket: Ticket, now: Now) -> Registered {
        let Some(node) = self.state.node(id).cloned() else {
            return refuse("node not found");
        };
        if node.is_expired(now.wall) {
            let expired = RegisterResponse { node_key_expired: true, ..RegisterResponse::default() };
            return Registered::Now(Box::new(expired));
        }
        if let Some(at) = request.expiry {
            if node.expiry.is_some_and(|expiry| at > expiry)
                || node.expiry.is_none() && !node.tags().is_empty()
            {
                return refuse("extending key is not allowed");
            }
            let mut shorter = node.clone();
            shorter.expiry = Some(at);
            let audit = expiry_audit(&node, Some(at));
            let actor = format!("machine {}", node.label);
            self.record(&actor, vec![audit], vec![Change::Node(id, Some(Box::new(shorter)))], now);
        }
        let _ = ticket;
        self.success(id)
    }

    fn log_out(&mut self, id: NodeId, now: Now) -> Registered {
        let Some(node) = self.state.node(id).cloned() else {
            return refuse("node not found");
        };
        let actor = format!("machine {}", node.label);
        let audit =
            Audit { what: "machine.logout".to_owned(), target: node.label.clone(), old: None, new: None };
        let after = if node.ephemeral {
            None
        } else {
            // The moment of the log-out, never the 1970 of the request (control.md §8.2).
            Some(Box::new(Node { expiry: Some(now.wall), ..node }))
        };
        self.record(&actor, vec![audit], vec![Change::Node(id, after)], now);
        Registered::Now(Box::new(RegisterResponse { node_key_expired: true, ..RegisterResponse::default() }))
    }

    fn by_key(
        &mut self,
        machine: MachineKey,
        text: &str,
        existing: Option<NodeId>,
        request: &RegisterRequest,
        now: Now,
    ) -> Registered {
        let key = self.find_auth_key(text).cloned();
        // A container that starts again with its used-up key is already in (control.md §3.4).
        if let Some(node) =
            existing.and_then(|id| self.state.node(id)).filter(|node| !node.is_expired(now.wall))
        {
            let same_owner = key.as_ref().is_none_or(|key| key_owner(key).as_ref() == Some(&node.owner));
            if same_owner {
                return self.success(node.id);
            }
        }
        let key = match key.ok_or(BAD_KEY).and_then(|key| usable(key, now.wall)) {
            Ok(key) => key,
            Err(USED_KEY) => return refuse(&self.used_up(text, now.wall)),
            Err(why) => return refuse(why),
        };
        let owner = match self.owner_by_key(&key, request) {
            Ok(owner) => owner,
            Err(why) => return refuse(&why),
        };
        let entrance = Entrance {
            machine,
            node_key: request.node_key,
            old_node_key: request.old_node_key,
            host: request.hostinfo.clone().unwrap_or_default(),
            owner,
            ephemeral: key.ephemeral || request.ephemeral,
            preapproved: key.preapproved,
            expiry: request.expiry,
            joined_by: JoinedBy::Key(key.id.clone()),
        };
        let actor = format!("key {}", key.id);
        let mut used = key;
        used.used = used.used.saturating_add(1);
        let used = Change::AuthKey(used.id.clone(), Some(Box::new(used)));
        match self.enter(entrance, &actor, vec![used], now) {
            Ok(id) => self.success(id),
            Err(why) => refuse(why),
        }
    }

    /// The key that a text is, compared in constant time.
    fn find_auth_key(&self, text: &str) -> Option<&AuthKey> {
        let hash = TokenHash::of(text);
        let is_it = |key: &&AuthKey| key.hashes.iter().any(|h| TokenHash::from_bytes(h.0).ct_eq(&hash));
        let id = match (text.parse::<SecretText>(), InviteToken::from_auth_key(text)) {
            (Ok(secret), _) => Some(secret.id().to_string()),
            (_, Ok(invite)) => Some(invite.id().to_string()),
            // Keys of other makers are kept under any id.
            (Err(_), Err(_)) => None,
        };
        match id {
            Some(id) => self.state.auth_key(&id).filter(is_it),
            None => self.state.auth_keys().find(is_it),
        }
    }

    fn owner_by_key(&self, key: &AuthKey, request: &RegisterRequest) -> Result<Owner, String> {
        // Tags of the key win over requested ones (control.md §3.7).
        if let Some(owner @ Owner::Tags(_)) = key_owner(key) {
            return Ok(owner);
        }
        let user = key.user.ok_or_else(|| BAD_KEY.to_owned())?;
        if self.state.user(user).is_none_or(|user| user.suspended) {
            return Err("the person of this key may not log in".to_owned());
        }
        self.owner_of(user, request.hostinfo.as_deref())
    }

    /// The person, or the tags that the machine asks for if the person may give them.
    pub(crate) fn owner_of(&self, user: UserId, host: Option<&Hostinfo>) -> Result<Owner, String> {
        let mut tags: Vec<String> = host.map(|host| host.request_tags.clone()).unwrap_or_default();
        if tags.is_empty() {
            return Ok(Owner::User(user));
        }
        tags.sort();
        tags.dedup();
        let allowed = |tag: &String| is_tag(tag) && self.rules.may_tag(&self.world, user, tag);
        let refused: Vec<&str> = tags.iter().filter(|tag| !allowed(tag)).map(String::as_str).collect();
        if refused.is_empty() {
            return Ok(Owner::Tags(tags));
        }
        Err(format!("requested tags [{}] are invalid or not permitted", refused.join(" ")))
    }

    /// Answers with the URL of a new login page.
    fn ask_person(&mut self, machine: MachineKey, request: &RegisterRequest, now: Now) -> Registered {
        let id = InviteToken::from_bytes(self.rng.bytes()).to_text().expose().clone();
        let login = Login {
            id: id.clone(),
            machine_key: machine,
            node_key: request.node_key,
            host: request.hostinfo.as_deref().cloned().unwrap_or_default(),
            cap: request.version,
            ephemeral: request.ephemeral,
            expiry: request.expiry,
            old_node_key: request.old_node_key,
            created: now.wall,
            status: LoginStatus::Waiting,
            until: now.mono,
            tickets: Vec::new(),
        };
        for ticket in self.logins.insert(login, now) {
            self.answer_later(ticket, refusal("another request of this machine took its place"));
        }
        Registered::Now(Box::new(self.auth_url(&id)))
    }

    fn auth_url(&self, id: &str) -> RegisterResponse {
        RegisterResponse {
            auth_url: format!("{}/register/{id}", self.config.url),
            ..RegisterResponse::default()
        }
    }

    /// A client waits for the page that it was sent to (control.md §3.5).
    fn follow_up(
        &mut self,
        machine: MachineKey,
        request: &RegisterRequest,
        ticket: Ticket,
        now: Now,
    ) -> Registered {
        let id = request.followup.rsplit('/').next().unwrap_or_default().to_owned();
        let login =
            self.logins.get(&id).filter(|l| l.machine_key == machine && l.node_key == request.node_key);
        match login.map(|login| login.status.clone()) {
            Some(LoginStatus::Waiting) => {
                if let Some(former) = self.logins.wait(&id, ticket) {
                    self.answer_later(former, self.auth_url(&id));
                }
                Registered::Later
            }
            Some(LoginStatus::Approved(node)) => self.success(node),
            Some(LoginStatus::Refused) => refuse("an admin refused this machine"),
            // Too old, or from before a restart: a new page, unless the machine is in by now.
            None => match self
                .state
                .node_by_key(&request.node_key)
                .map(|node| (node.id, node.is_expired(now.wall)))
            {
                Some((node, false)) => self.success(node),
                Some((_, true)) | None => self.ask_person(machine, request, now),
            },
        }
    }

    /// Sends those who wait for a page that grew too old to a new one.
    pub(crate) fn renew_logins(&mut self, now: Now) {
        for mut old in self.logins.expired(now) {
            let tickets = std::mem::take(&mut old.tickets);
            if tickets.is_empty() {
                continue;
            }
            let id = InviteToken::from_bytes(self.rng.bytes()).to_text().expose().clone();
            old.id.clone_from(&id);
            old.status = LoginStatus::Waiting;
            self.logins.insert(old, now);
            for ticket in tickets {
                self.answer_later(ticket, self.auth_url(&id));
            }
        }
    }

    /// Lets a machine in: a known one keeps its identity and takes the new key, a new one is made.
    pub(crate) fn enter(
        &mut self,
        entrance: Entrance,
        actor: &str,
        mut with: Vec<Change>,
        now: Now,
    ) -> Result<NodeId, &'static str> {
        let tagged = matches!(entrance.owner, Owner::Tags(_));
        let expiry = self.default_expiry(tagged, entrance.expiry, now);
        let host_name = entrance.host.hostname.clone();
        let known = self.former(&entrance).cloned();
        let (node, audit) = if let Some(known) = known {
            let audit =
                Audit { what: "machine.login".to_owned(), target: known.label.clone(), old: None, new: None };
            let node = Node {
                node_key: entrance.node_key,
                owner: entrance.owner,
                expiry,
                ephemeral: entrance.ephemeral,
                joined_by: entrance.joined_by,
                approved: known.approved || entrance.preapproved,
                ..known
            };
            (node, audit)
        } else {
            let mut ids = self.state.ids();
            let last = (ids.last_v4 != 0).then(|| Ipv4Addr::from(ids.last_v4));
            let pool = self.state.settings().pool;
            let (user, tags) = match &entrance.owner {
                Owner::User(user) => (Some(*user), &[][..]),
                Owner::Tags(tags) => (None, tags.as_slice()),
            };
            let wanted = self.rules.ip_pool(&self.world, user, tags);
            let taken = |v4| self.state.node_by_v4(v4).is_some();
            let ipv4 = match wanted.is_empty() {
                true => pool.next_free(last, taken).ok_or(NO_ADDRESS)?,
                false => wanted.iter().find_map(|net| first_free_in(*net, taken)).ok_or(NO_POOL_ADDRESS)?,
            };
            let id = NodeId(ids.node);
            ids.node += 1;
            if wanted.is_empty() {
                ids.last_v4 = ipv4.into();
            }
            with.push(Change::NextIds(ids));
            let label = free_label(&host_name, |label| self.state.node_by_label(label).is_some());
            let audit = Audit {
                what: "machine.joined".to_owned(),
                target: label.clone(),
                old: None,
                new: Some(ipv4.to_string()),
            };
            let node = Node {
                id,
                machine_key: entrance.machine,
                node_key: entrance.node_key,
                owner: entrance.owner,
                host_name,
                label,
                label_fixed: false,
                ipv4,
                ipv6: v6_of(ipv4),
                created: now.wall,
                expiry,
                approved: entrance.preapproved || !self.state.settings().approval,
                approved_routes: Vec::new(),
                ephemeral: entrance.ephemeral,
                joined_by: entrance.joined_by,
            };
            (node, audit)
        };
        let id = node.id;
        with.push(Change::Node(id, Some(Box::new(node))));
        self.record(actor, vec![audit], with, now);
        if let Some(live) = self.live.get_mut(&id)
            && live.facts.host.os.is_empty()
        {
            live.facts.host = entrance.host;
            live.unsaved = true;
            self.see_again(id);
            self.refresh_routes(id);
            self.touch(id, &[Aspect::Full]);
        }
        Ok(id)
    }

    /// The same device under the same owner: by its former key, or the only candidate.
    fn former(&self, entrance: &Entrance) -> Option<&Node> {
        let of_machine = || self.state.nodes_of_machine(entrance.machine);
        let same_kind = |node: &&Node| match (&node.owner, &entrance.owner) {
            (Owner::User(a), Owner::User(b)) => a == b,
            (Owner::Tags(_), Owner::Tags(_)) => true,
            (Owner::User(_), Owner::Tags(_)) | (Owner::Tags(_), Owner::User(_)) => false,
        };
        let by_key =
            |key: NodeKey| self.state.node_by_key(&key).filter(|node| node.machine_key == entrance.machine);
        // WHY the owner does not matter here: a node that turns from user to tag is the same node.
        by_key(entrance.node_key)
            .or_else(|| by_key(entrance.old_node_key).filter(same_kind))
            .or_else(|| of_machine().find(same_kind))
    }

    /// The answer that a machine is in.
    fn success(&self, id: NodeId) -> Registered {
        match self.state.node(id) {
            Some(node) => Registered::Now(Box::new(self.welcome(node))),
            None => refuse("node not found"),
        }
    }

    pub(crate) fn welcome(&self, node: &Node) -> RegisterResponse {
        let profile = self.profile(node.wire_user());
        let created = node.user().and_then(|user| self.state.user(user)).map(|user| user.created);
        RegisterResponse {
            user: WireUser {
                id: profile.id,
                display_name: profile.display_name.clone(),
                profile_pic_url: profile.profile_pic_url.clone(),
                created,
            },
            login: WireLogin {
                id: profile.id,
                provider: if profile.id == TAGGED_DEVICES { String::new() } else { "samewire".to_owned() },
                login_name: profile.login_name,
                display_name: profile.display_name,
                profile_pic_url: profile.profile_pic_url,
            },
            machine_authorized: self.is_admitted(node.id),
            ..RegisterResponse::default()
        }
    }

    pub(crate) fn answer_later(&mut self, ticket: Ticket, response: RegisterResponse) {
        self.outputs.push_back(Output::Registered { ticket, response: Box::new(response) });
    }

    /// The login requests that wait or were decided a moment ago.
    pub fn logins(&self) -> impl Iterator<Item = &Login> {
        self.logins.iter()
    }

    /// What an invite that is used up is refused with: `10 of 10 times, last by birch, 4 min ago` behind the word that
    /// plain keys have.
    fn used_up(&self, text: &str, now: UnixTime) -> String {
        let Some(key) = self.find_auth_key(text).filter(|key| key.invite) else { return USED_KEY.to_owned() };
        let last = self.last_use(key, now).map(|last| format!(", {last}")).unwrap_or_default();
        format!("{USED_KEY}: {} of {} times{last}", key.used, key.uses_max.unwrap_or(key.used))
    }

    /// Who joined last by a key: `last by birch, 4 min ago`.
    pub fn last_use(&self, key: &AuthKey, now: UnixTime) -> Option<String> {
        let by_it = |node: &&Node| matches!(&node.joined_by, JoinedBy::Key(id) if *id == key.id);
        let last = self.state.nodes().filter(by_it).max_by_key(|node| node.created)?;
        Some(format!("last by {}, {} ago", last.label, span(now.saturating_since(last.created))))
    }

    /// One login request.
    pub fn login(&self, id: &str) -> Option<&Login> {
        self.logins.get(id)
    }
}

fn key_owner(key: &AuthKey) -> Option<Owner> {
    if key.tags.is_empty() { key.user.map(Owner::User) } else { Some(Owner::Tags(key.tags.clone())) }
}

fn usable(key: AuthKey, now: UnixTime) -> Result<AuthKey, &'static str> {
    if key.revoked.is_some() {
        return Err(REVOKED_KEY);
    }
    if key.expires.is_some_and(|expires| expires <= now) {
        return Err(EXPIRED_KEY);
    }
    if key.uses_max.is_some_and(|max| key.used >= max) {
        return Err(USED_KEY);
    }
    Ok(key)
}

pub(crate) fn refusal(why: &str) -> RegisterResponse {
    RegisterResponse { error: why.to_owned(), ..RegisterResponse::default() }
}

fn refuse(why: &str) -> Registered {
    Registered::Now(Box::new(refusal(why)))
}

pub(crate) fn expiry_audit(node: &Node, new: Option<UnixTime>) -> Audit {
    let text = |at: Option<UnixTime>| Some(at.map_or_else(|| "never".to_owned(), |at| at.to_string()));
    Audit {
        what: "machine.expiry".to_owned(),
        target: node.label.clone(),
        old: text(node.expiry),
        new: text(new),
    }
}
