//! Whether the server is well, in words (localapi-cli.md §C1).

use http::{Response, StatusCode};
use serde::Serialize;
use sw_net::front::Body;
use sw_types::local::Problem;

use super::{Answer, Ask, ok};
use crate::findings::{Finding, findings};
use crate::public::typed;
use crate::server::Shared;

#[derive(Debug, Serialize)]
struct Health {
    status: &'static str,
    problems: Vec<Finding>,
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
    let (join, now) = (shared.join.get().cloned(), crate::clock::now().wall);
    match shared.control.read(move |tailnet| findings(tailnet, join.as_deref(), now)).await {
        Ok(problems) => {
            let status = if problems.is_empty() { "pass" } else { "warn" };
            Health { status, problems }
        }
        Err(failure) => {
            let problem = Problem {
                slug: "not-running".to_owned(),
                what: failure.to_string(),
                why: String::new(),
                fix: "look at the server's log".to_owned(),
            };
            Health { status: "fail", problems: vec![Finding { machine: None, problem }] }
        }
    }
}
