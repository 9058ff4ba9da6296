//! What a server of ours is, told in the header [`ServerIs::HEADER`] of a map stream; official programs neither send
//! nor see it.

use sw_types::CapVer;

/// Longest value that is looked at.
const LEN_MAX: usize = 64;

/// A server of ours.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerIs {
    /// Its version, numbers and dots.
    pub version: String,
    /// The newest protocol it knows.
    pub protocol: CapVer,
}

impl ServerIs {
    /// The header's name.
    pub const HEADER: &str = "samewire-server";
    /// What this program says when it serves: its version, a blank, its protocol.
    pub const OWN: &str = concat!(env!("CARGO_PKG_VERSION"), " 123");

    /// Reads the header's value; `None` for what no server of ours says.
    pub fn parse(value: &str) -> Option<Self> {
        let (version, protocol) = value.split_once(' ').filter(|_| value.len() <= LEN_MAX)?;
        let _each_part_is_a_number = numbers(version)?;
        Some(Self { version: version.to_owned(), protocol: CapVer(protocol.parse().ok()?) })
    }

    /// Whether its program is newer than that of `version`.
    pub fn is_newer_than(&self, version: &str) -> bool {
        numbers(&self.version) > numbers(version)
    }
}

fn numbers(version: &str) -> Option<Vec<u32>> {
    version.split('.').map(|part| part.parse().ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_program_says_what_it_is() {
        let own = ServerIs::parse(ServerIs::OWN).expect("its own header");
        assert_eq!((own.version.as_str(), own.protocol), (env!("CARGO_PKG_VERSION"), CapVer::CLIENT));
        assert!(!own.is_newer_than(env!("CARGO_PKG_VERSION")));
    }

    #[test]
    fn versions_are_compared_by_their_numbers() {
        let server = ServerIs::parse("1.10.0 130").expect("a header");
        assert!(server.is_newer_than("1.9.9") && server.is_newer_than("1.10"));
        assert!(!server.is_newer_than("1.10.0") && !server.is_newer_than("2.0.0"));
        for bad in ["", "1.0.0", "1.0.0 x", "1.x 130", "1.0.0\u{1b}[2J 1", &"1.".repeat(40)] {
            assert_eq!(ServerIs::parse(bad), None, "{bad:?}");
        }
    }
}
