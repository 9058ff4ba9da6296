//! Numbers and names that identify things.

use std::fmt;
use std::num::ParseIntError;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Declares an integer newtype that is a plain number in JSON.
macro_rules! number {
    ($(#[$doc:meta])* $name:ident($inner:ty)) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub $inner);

        impl $name {
            /// Returns true for 0, which means "absent" or "unknown".
            pub const fn is_zero(&self) -> bool {
                self.0 == 0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }

        impl FromStr for $name {
            type Err = ParseIntError;

            fn from_str(text: &str) -> Result<Self, ParseIntError> {
                text.parse().map(Self)
            }
        }

        impl From<$inner> for $name {
            fn from(value: $inner) -> Self {
                Self(value)
            }
        }
    };
}

number! {
    /// A node's number within one control server: above 0, never reused (control.md §5.6).
    NodeId(i64)
}
number! {
    /// A user's number within one control server.
    UserId(i64)
}
number! {
    /// A relay region; 0 is "none known". Own servers use 900 to 999 (control.md §5.8).
    RegionId(u32)
}
number! {
    /// Capability version: the one integer by which a program tells its feature level (control.md §7.1).
    CapVer(u16)
}

impl CapVer {
    /// What our client announces: peer relay works from 121, and everything up to here is implemented
    /// (control.md §7.1).
    pub const CLIENT: Self = Self(123);
    /// The newest that the documents were read at.
    pub const NEWEST_READ: Self = Self(145);
    /// Below this our server refuses a client (control.md §7.1).
    pub const SERVER_MIN: Self = Self(88);
    /// From here on a client understands the early payload (control.md §1.6).
    pub const EARLY_PAYLOAD: Self = Self(49);
    /// From here on a client reads `Node.HomeDERP`; older ones need `Node.DERP` as well (control.md §5.6).
    pub const HOME_DERP: Self = Self(111);
    /// From here on absent `AllowedIPs` mean the node's own addresses (control.md §5.6).
    pub const ALLOWED_IPS_ABSENT: Self = Self(112);
}

/// A node's name for other programs, unique over all servers (control.md §5.6): any non-empty text.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct StableNodeId(pub String);

impl StableNodeId {
    /// Returns true when absent.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for StableNodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl From<&str> for StableNodeId {
    fn from(text: &str) -> Self {
        Self(text.to_owned())
    }
}

/// Virtual network identifier of a peer relay's tunnel: 24 bits (disco.md).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Vni(u32);

impl Vni {
    /// The largest one.
    pub const MAX: Self = Self((1 << 24) - 1);

    /// Takes a number of at most 24 bits.
    pub const fn new(number: u32) -> Option<Self> {
        if number <= Self::MAX.0 { Some(Self(number)) } else { None }
    }

    /// Takes the three bytes of the wire form, big-endian.
    pub const fn from_bytes([high, middle, low]: [u8; 3]) -> Self {
        Self(u32::from_be_bytes([0, high, middle, low]))
    }

    /// The three bytes of the wire form, big-endian.
    pub const fn to_bytes(self) -> [u8; 3] {
        let [_, high, middle, low] = self.0.to_be_bytes();
        [high, middle, low]
    }

    /// The number.
    pub const fn get(self) -> u32 {
        self.0
    }
}

impl fmt::Display for Vni {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn vni_has_24_bits() {
        assert_eq!(Vni::new(0x00ff_ffff), Some(Vni::MAX));
        assert_eq!(Vni::new(0x0100_0000), None);
        assert_eq!(Vni::from_bytes([0x12, 0x34, 0x56]).get(), 0x0012_3456);
        assert_eq!(Vni::MAX.to_bytes(), [255; 3]);
    }
}
