//! Settings of the network, and its DNS.

use http::Method;
use serde::Deserialize;
use sw_tailnet::{Command, Dns, Settings};

use super::{Answer, Ask, no_such_path, ok};

/// A change of settings; what is absent stays.
#[derive(Deserialize, Default)]
#[serde(default, deny_unknown_fields)]
struct Input {
    name: Option<String>,
    base_domain: Option<String>,
    approval: Option<bool>,
    /// 0 is never.
    key_days: Option<u32>,
    ephemeral_s: Option<u32>,
    attributes: Option<Vec<String>>,
    file_sharing: Option<bool>,
    ssh: Option<bool>,
    https: Option<bool>,
    record_connections: Option<bool>,
}

pub(crate) async fn settings(ask: &Ask<'_>) -> Answer {
    ask.may("feature_settings")?;
    let mut settings = current(ask).await?;
    match *ask.method() {
        Method::GET => {}
        Method::PATCH | Method::POST => {
            let input: Input = ask.input()?;
            settings.name = input.name.unwrap_or(settings.name);
            settings.base_domain = input.base_domain.unwrap_or(settings.base_domain);
            settings.approval = input.approval.unwrap_or(settings.approval);
            settings.key_days = input.key_days.map_or(settings.key_days, |days| (days > 0).then_some(days));
            settings.ephemeral_s = input.ephemeral_s.unwrap_or(settings.ephemeral_s);
            settings.attributes = input.attributes.unwrap_or(settings.attributes);
            settings.file_sharing = input.file_sharing.unwrap_or(settings.file_sharing);
            settings.ssh = input.ssh.unwrap_or(settings.ssh);
            settings.https = input.https.unwrap_or(settings.https);
            settings.record_connections = input.record_connections.unwrap_or(settings.record_connections);
            store(ask, settings.clone()).await?;
        }
        _ => return Err(no_such_path()),
    }
    ok(&settings)
}

pub(crate) async fn dns(ask: &Ask<'_>) -> Answer {
    ask.may("dns")?;
    let mut settings = current(ask).await?;
    match *ask.method() {
        Method::GET => {}
        Method::PUT | Method::POST => {
            settings.dns = ask.input::<Dns>()?;
            store(ask, settings.clone()).await?;
        }
        _ => return Err(no_such_path()),
    }
    ok(&settings.dns)
}

/// What the running server works with.
pub(crate) async fn config(ask: &Ask<'_>) -> Answer {
    ask.may("feature_settings")?;
    let settings = current(ask).await?;
    let derp = ask.shared.control.read(|tailnet| tailnet.derp_map().clone()).await?;
    ok(&serde_json::json!({
        "url": ask.shared.url, "state": ask.shared.state, "noiseKey": ask.shared.noise_key.public(),
        "settings": settings, "derpMap": derp,
    }))
}

pub(crate) async fn current(ask: &Ask<'_>) -> Result<Settings, super::Problem> {
    Ok(ask.shared.control.read(|tailnet| tailnet.state().settings().clone()).await?)
}

pub(crate) async fn store(ask: &Ask<'_>, settings: Settings) -> Result<(), super::Problem> {
    let command = Command::SetSettings(Box::new(settings));
    ask.shared.control.execute(&ask.caller.name, command).await?;
    Ok(())
}
