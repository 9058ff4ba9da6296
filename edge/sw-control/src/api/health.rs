//! Whether the server is well, in words (localapi-cli.md §C1).

use http::{Response, StatusCode};
use serde::Serialize;
use sw_net::front::Body;

use super::{Answer, Ask, ok};
use crate::public::typed;
use crate::server::Shared;

#[derive(Debug, Serialize)]
struct Health {
    status: &'static str,
    problems: Vec<Finding>,
}

#[derive(Debug, Serialize)]
struct Finding {
    slug: &'static str,
    what: String,
    fix: String,
}

pub(crate) async fn handle(ask: &Ask<'_>) -> Answer {
    ok(&look(ask.shared).await)
}

/// `/health` for programs: 200 or 500, no details for strangers.
pub(crate) async fn health_response(shared: &Shared) -> Response<Body> {
    let health = look(shared).await;
    let status = if health.status == "fail" { StatusCode::INTERNAL_SERVER_ERROR } else { StatusCode::OK };
    typed(status, "application/health+json", format!("{{\"status\":\"{}\"}}\n", health.status).into_bytes())
}

async fn look(shared: &Shared) -> Health {
    let relays =
        shared.control.read(|tailnet| tailnet.derp_map().regions.as_ref().map_or(0, |r| r.len())).await;
    let mut problems = Vec::new();
    let status = match relays {
        Ok(0) => {
            problems.push(Finding {
                slug: "no-relay",
                what: "the network has no relay, so machines behind strict firewalls do not reach each other"
                    .to_owned(),
                fix: "start the server without --no-relay, or with --derp-map FILE".to_owned(),
            });
            "warn"
        }
        Ok(_) => "pass",
        Err(failure) => {
            problems.push(Finding {
                slug: "not-running",
                what: failure.to_string(),
                fix: "look at the server's log".to_owned(),
            });
            "fail"
        }
    };
    Health { status, problems }
}
