//! The style sheet, the script and the icon, with a hash in their URLs so that they can be cached for ever.

/// One file that the page loads.
#[derive(Clone, Copy, Debug)]
pub struct Asset {
    name: &'static str,
    pub content_type: &'static str,
    pub text: &'static str,
}

pub const CSS: Asset = Asset {
    name: "app.css",
    content_type: "text/css; charset=utf-8",
    text: include_str!("../assets/app.css"),
};
pub const JS: Asset = Asset {
    name: "app.js",
    content_type: "text/javascript; charset=utf-8",
    text: include_str!("../assets/app.js"),
};
pub const ICON: Asset =
    Asset { name: "icon.svg", content_type: "image/svg+xml", text: include_str!("../assets/icon.svg") };

impl Asset {
    /// `/assets/app.css?v=…`; the query changes with the content.
    pub fn url(self) -> String {
        format!("/assets/{}?v={:08x}", self.name, fingerprint(self.text))
    }

    /// The file of this name (`app.css`), if there is one.
    pub fn by_name(name: &str) -> Option<Self> {
        [CSS, JS, ICON].into_iter().find(|asset| asset.name == name)
    }
}

/// FNV-1a; it only has to differ when the content does.
fn fingerprint(text: &str) -> u32 {
    text.bytes().fold(0x811c_9dc5, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193))
}
