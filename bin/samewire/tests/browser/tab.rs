//! A headless Chromium driven over WebDriver, and the few things that only Chrome's own protocol tells.

use fantoccini::elements::Element;
use fantoccini::wd::{Capabilities, WebDriverCompatibleCommand};
use fantoccini::{Client, ClientBuilder, Locator};
use http::Method;
use serde_json::{Value, json};
use std::net::TcpListener;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// Longest wait for something the page should show.
pub(crate) const SOON: Duration = Duration::from_secs(15);

/// A browser with one tab.
pub(crate) struct Tab {
    pub(crate) client: Client,
    driver: Child,
    base: String,
    pictures: PathBuf,
    /// Shown in every picture's name: `desktop` or `phone`.
    size: &'static str,
}

impl Drop for Tab {
    fn drop(&mut self) {
        // The driver takes its browser along.
        let _gone = self.driver.kill();
        let _status = self.driver.wait();
    }
}

/// Why there is no browser here, if there is none.
pub(crate) fn missing() -> Option<String> {
    let is_there = |name: &str| Command::new(name).arg("--version").stdout(Stdio::null()).status().is_ok();
    let absent: Vec<&str> = ["chromium", "chromedriver"].into_iter().filter(|name| !is_there(name)).collect();
    (!absent.is_empty()).then(|| format!("{} is not installed", absent.join(" and ")))
}

impl Tab {
    /// Starts a browser that will look at the pages of `base`.
    pub(crate) async fn open(base: &str) -> Self {
        let port = TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr()).expect("a free port").port();
        let driver = Command::new("chromedriver")
            .args([format!("--port={port}"), "--log-level=SEVERE".into()])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("chromedriver starts");
        let mut options =
            vec!["--headless=new", "--disable-gpu", "--hide-scrollbars", "--disable-dev-shm-usage"];
        if rustix::process::geteuid().is_root() {
            options.push("--no-sandbox");
        }
        let wanted = json!({
            "goog:chromeOptions": { "args": options },
            "goog:loggingPrefs": { "browser": "ALL", "performance": "ALL" },
        });
        let Value::Object(wanted) = wanted else { unreachable!("an object was written") };
        let capabilities: Capabilities = wanted;
        let address = format!("http://127.0.0.1:{port}");
        let begun = Instant::now();
        let client = loop {
            let connector = hyper_util::client::legacy::connect::HttpConnector::new();
            match ClientBuilder::new(connector).capabilities(capabilities.clone()).connect(&address).await {
                Ok(client) => break client,
                Err(error) if begun.elapsed() > SOON => panic!("no browser: {error}"),
                Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
            }
        };
        let pictures = std::env::var_os("SAMEWIRE_PICTURES")
            .map_or_else(|| PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("pictures"), PathBuf::from);
        std::fs::create_dir_all(&pictures).expect("a folder for pictures");
        let mut tab = Self { client, driver, base: base.to_owned(), pictures, size: "desktop" };
        tab.desktop().await;
        tab
    }

    /// 1,440 × 900 at one pixel each.
    pub(crate) async fn desktop(&mut self) {
        self.size = "desktop";
        self.screen(1_440, 900, 1, false).await;
    }

    /// 390 × 844 at two, with touch.
    pub(crate) async fn phone(&mut self) {
        self.size = "phone";
        self.screen(390, 844, 2, true).await;
    }

    pub(crate) async fn screen(&self, width: u32, height: u32, scale: u32, is_mobile: bool) {
        let metrics =
            json!({ "width": width, "height": height, "deviceScaleFactor": scale, "mobile": is_mobile });
        self.cdp("Emulation.setDeviceMetricsOverride", metrics).await;
        self.cdp("Emulation.setTouchEmulationEnabled", json!({ "enabled": is_mobile })).await;
    }

    /// `light` or `dark`, as the system would say.
    pub(crate) async fn colours(&self, scheme: &str) {
        let feature = json!({ "features": [{ "name": "prefers-color-scheme", "value": scheme }] });
        self.cdp("Emulation.setEmulatedMedia", feature).await;
    }

    /// A command of Chrome's own protocol.
    pub(crate) async fn cdp(&self, method: &str, params: Value) -> Value {
        let command =
            Custom { path: "goog/cdp/execute".into(), body: json!({ "cmd": method, "params": params }) };
        self.client.issue_cmd(command).await.unwrap_or_else(|error| panic!("{method}: {error}"))
    }

    /// An authenticator as in a laptop, which lets its user in at once.
    pub(crate) async fn add_authenticator(&self) {
        let body = json!({
            "protocol": "ctap2", "transport": "internal",
            "hasResidentKey": true, "hasUserVerification": true, "isUserVerified": true,
        });
        self.client
            .issue_cmd(Custom { path: "webauthn/authenticator".into(), body })
            .await
            .expect("a virtual authenticator");
    }

    /// What was logged since the last call: `browser` (console) or `performance` (requests).
    pub(crate) async fn log(&self, kind: &str) -> Vec<Value> {
        let command = Custom { path: "se/log".into(), body: json!({ "type": kind }) };
        let lines = self.client.issue_cmd(command).await.expect("a log");
        lines.as_array().cloned().unwrap_or_default()
    }

    pub(crate) async fn goto(&self, path: &str) {
        self.client.goto(&format!("{}{path}", self.base)).await.expect("a page");
    }

    /// The path of the page, with its query.
    pub(crate) async fn path(&self) -> String {
        let url = self.client.current_url().await.expect("a URL");
        url.query().map_or_else(|| url.path().to_owned(), |query| format!("{}?{query}", url.path()))
    }

    /// The first element of a CSS selector, once it is there.
    pub(crate) async fn css(&self, selector: &str) -> Element {
        let found = self.client.wait().at_most(SOON).for_element(Locator::Css(selector)).await;
        match found {
            Ok(element) => element,
            Err(error) => panic!("no {selector}: {error}\n{}", self.text().await),
        }
    }

    /// A button or link by its words.
    pub(crate) async fn by_words(&self, words: &str) -> Element {
        let path = format!("//*[self::button or self::a or self::summary][normalize-space(.)=\"{words}\"]");
        match self.client.wait().at_most(SOON).for_element(Locator::XPath(&path)).await {
            Ok(element) => element,
            Err(error) => panic!("nothing says \"{words}\": {error}\n{}", self.text().await),
        }
    }

    pub(crate) async fn press(&self, words: &str) {
        self.by_words(words).await.click().await.unwrap_or_else(|error| panic!("\"{words}\": {error}"));
    }

    /// Keys for whatever has the focus.
    pub(crate) async fn keys(&self, keys: &str) {
        let focused = self.client.active_element().await.expect("something has the focus");
        focused.send_keys(keys).await.expect("keys");
    }

    pub(crate) async fn fill(&self, selector: &str, text: &str) {
        let field = self.css(selector).await;
        field.clear().await.expect("a field");
        field.send_keys(text).await.expect("a field");
    }

    /// Everything that can be read on the page.
    pub(crate) async fn text(&self) -> String {
        self.js("return document.body.innerText").await.as_str().unwrap_or_default().to_owned()
    }

    pub(crate) async fn js(&self, script: &str) -> Value {
        self.client.execute(script, vec![]).await.unwrap_or_else(|error| panic!("{script}: {error}"))
    }

    /// Waits until the page says this.
    pub(crate) async fn until_says(&self, words: &str) {
        self.until(&format!("the page says \"{words}\""), SOON, async || self.text().await.contains(words))
            .await;
    }

    /// Waits for a condition; gives how long it took.
    pub(crate) async fn until(&self, what: &str, limit: Duration, ready: impl AsyncFn() -> bool) -> Duration {
        let begun = Instant::now();
        while !ready().await {
            assert!(begun.elapsed() < limit, "{what}: not in {limit:?}; the page:\n{}", self.text().await);
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        begun.elapsed()
    }

    /// A picture of the window in both colours: `NAME-SIZE-light.png` and `…-dark.png`.
    pub(crate) async fn picture(&self, name: &str) {
        for scheme in ["light", "dark"] {
            self.colours(scheme).await;
            let png = self.client.screenshot().await.expect("a picture");
            let file = self.pictures.join(format!("{name}-{}-{scheme}.png", self.size));
            std::fs::write(&file, png).expect("a file");
        }
        self.colours("light").await;
    }

    /// Ends the browser in good order.
    pub(crate) async fn close(self) {
        self.client.clone().close().await.expect("the browser ends");
    }
}

/// A command that WebDriver's standard does not have.
#[derive(Debug)]
struct Custom {
    path: String,
    body: Value,
}

impl WebDriverCompatibleCommand for Custom {
    fn endpoint(&self, base: &url::Url, session: Option<&str>) -> Result<url::Url, url::ParseError> {
        base.join(&format!("session/{}/{}", session.unwrap_or_default(), self.path))
    }

    fn method_and_body(&self, _url: &url::Url) -> (Method, Option<String>) {
        (Method::POST, Some(self.body.to_string()))
    }
}
