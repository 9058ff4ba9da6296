//! The address of a control server.

use std::str::FromStr;

/// Scheme, host and port of a `--login-server`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ServerUrl {
    pub(crate) is_tls: bool,
    /// Without brackets round an IPv6 address.
    pub(crate) host: String,
    pub(crate) port: u16,
    has_port: bool,
}

/// The text is no `http://` or `https://` address.
#[derive(Debug, thiserror::Error)]
#[error("{0:?} is no server address")]
pub(crate) struct BadUrl(String);

impl FromStr for ServerUrl {
    type Err = BadUrl;

    fn from_str(text: &str) -> Result<Self, BadUrl> {
        let refuse = || BadUrl(text.chars().take(256).collect());
        let (is_tls, rest) = match (text.strip_prefix("https://"), text.strip_prefix("http://")) {
            (Some(rest), _) => (true, rest),
            (None, Some(rest)) => (false, rest),
            (None, None) => return Err(refuse()),
        };
        let authority = rest.split('/').next().unwrap_or_default();
        let authority: http::uri::Authority = authority.parse().map_err(|_| refuse())?;
        let host = authority.host().trim_matches(['[', ']']).to_owned();
        if host.is_empty() || authority.as_str().contains('@') {
            return Err(refuse());
        }
        let port = authority.port_u16();
        Ok(Self {
            is_tls,
            host,
            port: port.unwrap_or(if is_tls { 443 } else { 80 }),
            has_port: port.is_some(),
        })
    }
}

impl ServerUrl {
    /// The URL without a slash at the end.
    pub(crate) fn url(&self) -> String {
        format!("{}://{}", if self.is_tls { "https" } else { "http" }, self.authority())
    }

    /// `host` or `host:port` as the URL has it.
    pub(crate) fn authority(&self) -> String {
        let host = if self.host.contains(':') { format!("[{}]", self.host) } else { self.host.clone() };
        if self.has_port { format!("{host}:{}", self.port) } else { host }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_in_all_forms() {
        let url: ServerUrl = "https://vpn.example.org/".parse().expect("good");
        assert_eq!((url.is_tls, url.port, url.authority().as_str()), (true, 443, "vpn.example.org"));
        let url: ServerUrl = "http://[fd00::1]:8080".parse().expect("good");
        assert_eq!(
            (url.host.as_str(), url.port, url.authority().as_str()),
            ("fd00::1", 8080, "[fd00::1]:8080")
        );
        for bad in ["", "vpn.example.org", "ftp://x", "https://", "https://u:p@x"] {
            assert!(bad.parse::<ServerUrl>().is_err(), "{bad}");
        }
    }
}
