//! Machines: names, tags, routes, addresses, and who is let in at the login page.

use std::net::Ipv4Addr;
use std::sync::Arc;

use ipnet::IpNet;
use sw_types::{NodeId, Now, UserId};

use super::{Done, Refusal, audit, found, join_display, owner_text};
use crate::addresses::v6_of;
use crate::logins::LoginStatus;
use crate::names::is_tag;
use crate::record::{JoinedBy, Node, Owner};
use crate::register::{Entrance, refusal};
use crate::tailnet::Tailnet;

impl Tailnet {
    pub(super) fn rename_node(
        &mut self,
        actor: &str,
        id: NodeId,
        label: Option<String>,
        now: Now,
    ) -> Result<Done, Refusal> {
        let old = self.one_node(id)?;
        let taken = |label: &str| self.state.node_by_label(label).is_some_and(|other| other.id != id);
        let (label, label_fixed) = match label {
            Some(label) => {
                if label.parse::<sw_types::DnsLabel>().map(|l| l.as_str().to_owned()) != Ok(label.clone()) {
                    let why = "must be lower-case letters, digits and inner dashes, at most 63";
                    return Err(Refusal::Unfit { what: "name", word: label, why });
                }
                if taken(&label) {
                    return Err(Refusal::Taken {
                        what: "name",
                        word: label,
                        by: "another machine".to_owned(),
                    });
                }
                (label, true)
            }
            None => (crate::names::free_label(&old.host_name, taken), false),
        };
        let audit = audit("machine.rename", &old.label, Some(old.label.clone()), Some(label.clone()));
        self.change_node(actor, audit, Node { label, label_fixed, ..old }, now)
    }

    pub(super) fn check_tags(&self, mut tags: Vec<String>) -> Result<Vec<String>, Refusal> {
        tags.sort();
        tags.dedup();
        for tag in &tags {
            if !is_tag(tag) {
                return Err(Refusal::Unfit {
                    what: "tag",
                    word: tag.clone(),
                    why: "must be tag: and letters, digits or -",
                });
            }
            if !self.rules.declares_tag(tag) {
                return Err(Refusal::Unfit {
                    what: "tag",
                    word: tag.clone(),
                    why: "is not in the policy's tagOwners",
                });
            }
        }
        Ok(tags)
    }

    pub(super) fn tag_node(
        &mut self,
        actor: &str,
        id: NodeId,
        tags: Vec<String>,
        now: Now,
    ) -> Result<Done, Refusal> {
        let old = self.one_node(id)?;
        let tags = self.check_tags(tags)?;
        if tags.is_empty() {
            return Err(Refusal::Forbidden(
                "a tagged machine cannot be without tags; give it to a person instead".to_owned(),
            ));
        }
        let audit = audit("machine.tags", &old.label, Some(owner_text(&old.owner)), Some(tags.join(" ")));
        // Keys of tagged machines do not expire (control.md §3.7).
        self.change_node(actor, audit, Node { owner: Owner::Tags(tags), expiry: None, ..old }, now)
    }

    pub(super) fn set_routes(
        &mut self,
        actor: &str,
        id: NodeId,
        routes: Vec<IpNet>,
        now: Now,
    ) -> Result<Done, Refusal> {
        let old = self.one_node(id)?;
        let mut approved: Vec<IpNet> = routes.iter().map(IpNet::trunc).collect();
        if approved.iter().any(crate::routes::is_exit) {
            // Approving one of the two approves both (control.md §8.2).
            approved.extend(exit_routes());
        }
        approved.sort();
        approved.dedup();
        let audit = audit(
            "machine.routes",
            &old.label,
            Some(join_display(&old.approved_routes)),
            Some(join_display(&approved)),
        );
        self.change_node(actor, audit, Node { approved_routes: approved, ..old }, now)
    }

    pub(super) fn set_address(
        &mut self,
        actor: &str,
        id: NodeId,
        ipv4: Ipv4Addr,
        now: Now,
    ) -> Result<Done, Refusal> {
        let old = self.one_node(id)?;
        if !self.state.settings().pool.contains(ipv4) {
            return Err(Refusal::Unfit {
                what: "address",
                word: ipv4.to_string(),
                why: "is not in the network's pool",
            });
        }
        if let Some(other) = self.state.node_by_v4(ipv4).filter(|other| other.id != id) {
            return Err(Refusal::Taken { what: "address", word: ipv4.to_string(), by: other.label.clone() });
        }
        let audit = audit("machine.address", &old.label, Some(old.ipv4.to_string()), Some(ipv4.to_string()));
        self.change_node(actor, audit, Node { ipv4, ipv6: v6_of(ipv4), ..old }, now)
    }

    pub(super) fn approve_login(
        &mut self,
        actor: &str,
        id: &str,
        user: UserId,
        by_admin: bool,
        now: Now,
    ) -> Result<Done, Refusal> {
        let login = found("login request", id, self.logins.get(id))?.clone();
        if let LoginStatus::Approved(node) = login.status {
            return Ok(Done::Node(node));
        }
        let person = found("person", &user.to_string(), self.state.user(user))?;
        if person.suspended {
            return Err(Refusal::Forbidden(format!("{} is suspended", person.name)));
        }
        let administers = person.role.administers();
        let owner = self.owner_of(user, Some(&login.host)).map_err(Refusal::Forbidden)?;
        let entrance = Entrance {
            machine: login.machine_key,
            node_key: login.node_key,
            old_node_key: login.old_node_key,
            host: Arc::new(login.host.clone()),
            owner,
            ephemeral: login.ephemeral,
            preapproved: by_admin || administers,
            expiry: login.expiry,
            joined_by: if by_admin { JoinedBy::Admin } else { JoinedBy::Login(user) },
        };
        let node =
            self.enter(entrance, actor, Vec::new(), now).map_err(|why| Refusal::Forbidden(why.to_owned()))?;
        let welcome = self.state.node(node).map(|node| self.welcome(node)).unwrap_or_default();
        for ticket in self.logins.decide(id, LoginStatus::Approved(node)) {
            self.answer_later(ticket, welcome.clone());
        }
        Ok(Done::Node(node))
    }

    pub(super) fn refuse_login(&mut self, actor: &str, id: &str, now: Now) -> Result<Done, Refusal> {
        let login = found("login request", id, self.logins.get(id))?;
        let audit = audit("login.refuse", &login.host.hostname, None, None);
        self.record(actor, vec![audit], Vec::new(), now);
        for ticket in self.logins.decide(id, LoginStatus::Refused) {
            self.answer_later(ticket, refusal("an admin refused this machine"));
        }
        Ok(Done::Changed)
    }
}

/// Both routes of an exit node.
fn exit_routes() -> [IpNet; 2] {
    use std::net::Ipv6Addr;
    [
        IpNet::V4(ipnet::Ipv4Net::new_assert(Ipv4Addr::UNSPECIFIED, 0)),
        IpNet::V6(ipnet::Ipv6Net::new_assert(Ipv6Addr::UNSPECIFIED, 0)),
    ]
}
