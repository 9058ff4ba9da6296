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

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    /// The colours that a block of the style sheet sets.
    fn tokens(block: &str) -> BTreeMap<&str, [f64; 3]> {
        let pairs = block.split(['{', ';', '}']).filter_map(|line| line.trim().split_once(":#"));
        pairs
            .map(|(name, hex)| {
                let part = |at: usize| f64::from(u8::from_str_radix(&hex[at..at + 2], 16).expect("hex"));
                (name, [part(0), part(2), part(4)])
            })
            .collect()
    }

    /// WCAG 2.2, relative luminance.
    fn luminance(colour: [f64; 3]) -> f64 {
        let linear = colour.map(|part| {
            let part = part / 255.0;
            if part <= 0.040_45 { part / 12.92 } else { ((part + 0.055) / 1.055).powf(2.4) }
        });
        0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
    }

    fn contrast(a: [f64; 3], b: [f64; 3]) -> f64 {
        let (a, b) = (luminance(a), luminance(b));
        (a.max(b) + 0.05) / (a.min(b) + 0.05)
    }

    #[test]
    fn every_text_can_be_read_in_both_themes() {
        let css = CSS.text;
        let dark = css.split(":root[data-theme=dark]{").nth(1).expect("dark by choice");
        let by_system = css.split(":root:not([data-theme=light]){").nth(1).expect("dark by the system");
        let end = |block: &str| block.find('}').expect("an end");
        let (light, dark, by_system) =
            (tokens(&css[..end(css)]), tokens(&dark[..end(dark)]), tokens(&by_system[..end(by_system)]));
        assert_eq!(dark, by_system, "dark is dark either way");
        assert_eq!(light.len(), 19);
        for (theme, colours) in [("light", &light), ("dark", &dark)] {
            let check = |text: &str, ground: &str, least: f64| {
                let ratio = contrast(colours[text], colours[ground]);
                assert!(ratio >= least, "{theme}: {text} on {ground} has {ratio:.2}, needs {least}");
            };
            for text in ["--ink", "--muted", "--accent", "--direct", "--relay", "--peer", "--off", "--bad"] {
                for ground in ["--paper", "--surface", "--sunk"] {
                    check(text, ground, 4.5);
                }
            }
            for tinted in ["--direct", "--relay", "--peer", "--bad", "--accent"] {
                check(tinted, &format!("{tinted}bg"), 4.5);
                check("--ink", &format!("{tinted}bg"), 4.5);
            }
            check("--onaccent", "--accent", 4.5);
            for ground in ["--paper", "--surface"] {
                check("--edge", ground, 3.0);
            }
        }
    }
}
