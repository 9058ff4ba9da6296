//! `serve` (localapi-cli.md §B9).

use std::path::Path;

use clap::Args;
use sw_types::local::{
    HttpHandler, Problem, ServeConfig, Status, TcpPortHandler, Upstream, WebServer, watch_mask,
};
use sw_types::problem::quoted;

use super::client::Response;
use super::{Context, Outcome, misuse, not_connected, print_bytes, say, say_json};

const CONFIG: &str = "/localapi/v0/serve-config";
const USUAL_PORT: u16 = 80;

#[derive(Args, Clone, Debug)]
#[command(
    after_help = "Machines reach what the policy lets them; programs are told who asks in the header Tailscale-User-Login."
)]
pub struct ServeArgs {
    /// Go on when this command ends, and after restarts
    #[arg(long)]
    bg: bool,
    /// Web server on this port (80 when nothing is said)
    #[arg(long, value_name = "PORT", group = "kind")]
    http: Option<u16>,
    #[arg(long, value_name = "PORT", group = "kind", hide = true)]
    https: Option<u16>,
    /// Forward this port
    #[arg(long, value_name = "PORT", group = "kind")]
    tcp: Option<u16>,
    #[arg(long, value_name = "PORT", group = "kind", hide = true)]
    tls_terminated_tcp: Option<u16>,
    /// Serve it below this path
    #[arg(long, value_name = "PATH")]
    set_path: Option<String>,
    /// Tell a forwarded program the true source first (PROXY protocol 1 or 2)
    #[arg(long, value_name = "VERSION", value_parser = clap::value_parser!(u8).range(1..=2))]
    proxy_protocol: Option<u8>,
    /// Capabilities of the policy that the program is told
    #[arg(long, value_name = "NAMES", value_delimiter = ',', hide_short_help = true)]
    accept_app_caps: Vec<String>,
    /// Print one JSON object (status)
    #[arg(long)]
    pub(super) json: bool,
    #[arg(long, hide = true)]
    yes: bool,
    /// A port, HOST:PORT, a URL, a folder or file, unix:/SOCKET, text:WORDS; then "off" to end it. Or: status, reset
    #[arg(value_name = "WHAT")]
    words: Vec<String>,
}

/// Where and how something is served.
enum Place {
    Web { port: u16, mount: String },
    Forward { port: u16 },
}

impl Place {
    const fn port(&self) -> u16 {
        match self {
            Self::Web { port, .. } | Self::Forward { port } => *port,
        }
    }
}

pub(super) fn serve(context: &Context, args: &ServeArgs) -> Outcome {
    let words: Vec<&str> = args.words.iter().map(String::as_str).collect();
    let place = place(args)?;
    match words.as_slice() {
        ["status"] => show(context, args.json),
        ["reset"] => {
            store(context, &ServeConfig::default(), None)?;
            context.done("Nothing is served any more.")
        }
        ["off"] | [_, "off"] => end(context, &place),
        [what] => begin(context, args, what, &place),
        [] => Err(misuse(
            "what to serve is missing.",
            "a port of this machine, for example: samewire serve 3000",
        )),
        [_, word, ..] => Err(misuse(
            format!("{} is one word too many.", quoted(word)),
            "put words with blanks into quotes; see: samewire serve --help",
        )),
    }
}

fn place(args: &ServeArgs) -> Result<Place, super::Failure> {
    let mount = args.set_path.clone().unwrap_or_default();
    let is_forwarded = args.tcp.or(args.tls_terminated_tcp);
    if args.https.is_some() || args.tls_terminated_tcp.is_some() {
        return Err(Problem::other(
            "HTTPS cannot be served in this network.",
            "there are no certificates for its names; the tunnel encrypts everything all the same",
            "serve plain HTTP: samewire serve --http=80 …",
        )
        .into());
    }
    match is_forwarded {
        Some(port) if mount.is_empty() => Ok(Place::Forward { port }),
        Some(_) => Err(misuse("a forwarded port has no paths.", "leave --set-path out")),
        None => {
            let slash = if mount.starts_with('/') { "" } else { "/" };
            Ok(Place::Web { port: args.http.unwrap_or(USUAL_PORT), mount: format!("{slash}{mount}") })
        }
    }
}

fn fetch(context: &Context) -> Result<(ServeConfig, String), Problem> {
    let response = context.client.send("GET", CONFIG, None)?.ok()?;
    let tag = response.header("etag").unwrap_or_default().to_owned();
    Ok((response.json::<Option<ServeConfig>>()?.unwrap_or_default(), tag))
}

fn store(context: &Context, config: &ServeConfig, tag: Option<&str>) -> Result<(), Problem> {
    let body = serde_json::to_vec(config).map_err(|error| Problem::other(error.to_string(), "", ""))?;
    let headers: Vec<(&str, &str)> = tag.map(|tag| ("If-Match", tag)).into_iter().collect();
    context.client.send_with("POST", CONFIG, Some(&body), &headers, None)?.ok().map(drop)
}

/// The full name under which this machine serves.
fn own_name(status: &Status) -> Result<String, Problem> {
    if let Some(problem) = not_connected(status) {
        return Err(problem);
    }
    let name = status.self_node.as_ref().map(|node| node.dns_name.trim_end_matches('.').to_owned());
    name.filter(|name| !name.is_empty()).ok_or_else(|| {
        Problem::other("this machine has no name in its network.", "", "samewire status says how it stands")
    })
}

fn begin(context: &Context, args: &ServeArgs, what: &str, place: &Place) -> Outcome {
    let status = context.status()?;
    let host = own_name(&status)?;
    let mut part = ServeConfig::default();
    match place {
        Place::Web { port, mount } => {
            let (mount, handler) = web_handler(what, mount, &args.accept_app_caps)?;
            let web = TcpPortHandler { http: true, ..TcpPortHandler::default() };
            part.tcp.insert(*port, web);
            part.web.insert(format!("{host}:{port}"), WebServer { handlers: [(mount, handler)].into() });
        }
        Place::Forward { port } => {
            let tcp_forward = forward_target(what)?;
            let proxy_protocol = args.proxy_protocol.unwrap_or(0);
            part.tcp
                .insert(*port, TcpPortHandler { tcp_forward, proxy_protocol, ..TcpPortHandler::default() });
        }
    }
    let watch = if args.bg { None } else { Some(Foreground::open(context)?) };
    let (mut config, tag) = fetch(context)?;
    let target = match &watch {
        Some(watch) => config.foreground.entry(watch.session.clone()).or_default(),
        None => &mut config,
    };
    merge(target, part.clone(), place.port())?;
    store(context, &config, Some(&tag))?;
    let shown =
        if args.bg { "In the network, also after this command:" } else { "In the network, until Ctrl-C:" };
    let shown = if context.is_official { "Available within your tailnet:" } else { shown };
    say(format!("{shown}\n\n{}", picture(&part, &status).join("\n")))?;
    match watch {
        Some(watch) => watch.wait(context),
        None if context.is_official => say("\nServe started and running in the background."),
        None => context.done(format!("\nEnd it: samewire serve --{} off", flag_of(place))),
    }
}

fn flag_of(place: &Place) -> String {
    match place {
        Place::Web { port, mount } if mount == "/" => format!("http={port}"),
        Place::Web { port, mount } => format!("http={port} --set-path={mount}"),
        Place::Forward { port } => format!("tcp={port}"),
    }
}

/// Adds what is new; a port keeps its kind.
fn merge(config: &mut ServeConfig, part: ServeConfig, port: u16) -> Result<(), Problem> {
    let old = config.tcp.get(&port);
    let new = part.tcp.get(&port);
    if let (Some(old), Some(new)) = (old, new)
        && old.http != new.http
    {
        let kind = if old.http { "a web server" } else { "forwarded" };
        return Err(Problem::other(
            format!("port {port} is {kind} already."),
            "",
            format!("end that first: samewire serve --{}={port} off", if old.http { "http" } else { "tcp" }),
        ));
    }
    config.tcp.extend(part.tcp);
    for (place, server) in part.web {
        config.web.entry(place).or_default().handlers.extend(server.handlers);
    }
    Ok(())
}

fn end(context: &Context, place: &Place) -> Outcome {
    let (mut config, tag) = fetch(context)?;
    let port = place.port();
    let nothing = || {
        let fix = "see what is served: samewire serve status";
        Problem::other(format!("nothing is served there (port {port})."), "", fix)
    };
    match place {
        Place::Forward { .. } => {
            let is_one = config.tcp.get(&port).is_some_and(|handler| !handler.http);
            if !is_one {
                return Err(nothing().into());
            }
            config.tcp.remove(&port);
        }
        Place::Web { mount, .. } => {
            let suffix = format!(":{port}");
            let mut is_found = false;
            for (_, server) in config.web.iter_mut().filter(|(place, _)| place.ends_with(&suffix)) {
                let removed =
                    server.handlers.remove(mount).or_else(|| server.handlers.remove(&format!("{mount}/")));
                is_found |= removed.is_some();
            }
            if !is_found {
                return Err(nothing().into());
            }
            config.web.retain(|_, server| !server.handlers.is_empty());
            if !config.web.keys().any(|place| place.ends_with(&suffix)) {
                config.tcp.remove(&port);
            }
        }
    }
    store(context, &config, Some(&tag))?;
    context.done("It is served no more.")
}

fn show(context: &Context, json: bool) -> Outcome {
    let (config, _) = fetch(context)?;
    if json {
        return say_json(&config);
    }
    if config.is_empty() {
        let ours = "Nothing is served. A program on port 3000: samewire serve 3000";
        return say(if context.is_official { "No serve config" } else { ours });
    }
    let status = context.status()?;
    let lines: Vec<String> = config.parts().flat_map(|part| picture(part, &status)).collect();
    print_bytes((lines.join("\n") + "\n").as_bytes())
}

/// What is served, as lines of a small tree.
fn picture(config: &ServeConfig, status: &Status) -> Vec<String> {
    let mut lines = Vec::new();
    for (place, server) in &config.web {
        let shown = place.strip_suffix(":80").unwrap_or(place);
        for (mount, handler) in &server.handlers {
            let (kind, what) = match handler {
                HttpHandler { proxy, .. } if !proxy.is_empty() => ("proxy", proxy.clone()),
                HttpHandler { path, .. } if !path.is_empty() => ("path", path.clone()),
                HttpHandler { redirect, .. } if !redirect.is_empty() => ("to", redirect.clone()),
                HttpHandler { text, .. } => ("text", quoted(text)),
            };
            lines.push(format!("http://{shown}{mount}\n|-- {kind:<5} {what}"));
        }
    }
    for (port, handler) in config.tcp.iter().filter(|(_, handler)| !handler.http) {
        let name =
            status.self_node.as_ref().map(|node| node.dns_name.trim_end_matches('.')).unwrap_or_default();
        let version = handler.proxy_protocol;
        let proxied = if version > 0 { format!(" (PROXY protocol v{version})") } else { String::new() };
        lines.push(format!("|-- tcp://{name}:{port}{proxied}"));
        for ip in status.tailscale_ips.iter().flatten() {
            lines.push(format!("|-- tcp://{}", std::net::SocketAddr::new(*ip, *port)));
        }
        lines.push(format!("|--> tcp://{}", handler.tcp_forward));
    }
    lines
}

/// What people mean by a word after `serve`, and where it stands.
fn web_handler(what: &str, mount: &str, caps: &[String]) -> Result<(String, HttpHandler), Problem> {
    let one = HttpHandler::default();
    if let Some(text) = what.strip_prefix("text:") {
        return Ok((mount.to_owned(), HttpHandler { text: text.to_owned(), ..one }));
    }
    let is_path = what.starts_with('/') || what.starts_with("./") || what.starts_with("../") || what == ".";
    if is_path {
        let path = std::fs::canonicalize(what).map_err(|error| {
            Problem::other(
                format!("{} cannot be served.", quoted(what)),
                error.to_string(),
                "a port of this machine, a folder or a file: samewire serve --help",
            )
        })?;
        let is_directory = path.is_dir();
        let slash = if is_directory && !mount.ends_with('/') { "/" } else { "" };
        let path = path.to_string_lossy().into_owned();
        return Ok((format!("{mount}{slash}"), HttpHandler { path, ..one }));
    }
    let proxy = match (what.parse::<u16>(), what.contains("://") || what.starts_with("unix:")) {
        (Ok(port), _) => format!("http://127.0.0.1:{port}"),
        (Err(_), true) => what.to_owned(),
        (Err(_), false) => format!("http://{what}"),
    };
    if Upstream::parse(&proxy).is_none() || (!what.contains([':', '.']) && what.parse::<u16>().is_err()) {
        let near = if Path::new(what).exists() {
            format!("the file: ./{what}")
        } else {
            "a port of this machine: samewire serve 3000".to_owned()
        };
        return Err(Problem::misuse(format!("{} is nothing that can be served.", quoted(what)), near));
    }
    Ok((mount.to_owned(), HttpHandler { proxy, accept_app_caps: caps.to_vec(), ..one }))
}

fn forward_target(what: &str) -> Result<String, Problem> {
    let target = what.strip_prefix("tcp://").unwrap_or(what);
    if let Ok(port) = target.parse::<u16>() {
        return Ok(format!("127.0.0.1:{port}"));
    }
    let is_target = target.starts_with("unix:/")
        || target
            .rsplit_once(':')
            .is_some_and(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok());
    if is_target {
        return Ok(target.to_owned());
    }
    let what = format!("{} is nothing to forward to.", quoted(what));
    Err(Problem::misuse(what, "a port of this machine, HOST:PORT or unix:/SOCKET"))
}

/// The watcher with which something in the foreground lives and dies.
struct Foreground {
    watch: Response,
    session: String,
}

impl Foreground {
    fn open(context: &Context) -> Result<Self, Problem> {
        let path = format!("/localapi/v0/watch-ipn-bus?mask={}", watch_mask::INITIAL_STATE);
        let mut watch = context.client.send("GET", &path, None)?.ok()?;
        let first = watch.next_line().ok().flatten().unwrap_or_default();
        let first: serde_json::Value = serde_json::from_str(&first).unwrap_or_default();
        let session =
            first.get("SessionID").and_then(serde_json::Value::as_str).unwrap_or_default().to_owned();
        Ok(Self { watch, session })
    }

    /// Serves until this command is ended or the daemon is.
    fn wait(mut self, context: &Context) -> Outcome {
        if context.is_official {
            say("\nPress Ctrl+C to exit.")?;
        }
        while let Ok(Some(_)) = self.watch.next_line() {}
        Err(Problem::other(
            "it is served no more.",
            "the daemon of this machine ended",
            "start it again, or serve over restarts: samewire serve --bg …",
        )
        .into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_mean_what_people_mean() {
        let proxy = |what: &str| web_handler(what, "/", &[]).map(|(_, handler)| handler.proxy);
        assert_eq!(proxy("3000").as_deref(), Ok("http://127.0.0.1:3000"));
        assert_eq!(proxy("localhost:3000").as_deref(), Ok("http://localhost:3000"));
        assert_eq!(proxy("https+insecure://nas:8443").as_deref(), Ok("https+insecure://nas:8443"));
        assert_eq!(proxy("unix:/run/app").as_deref(), Ok("unix:/run/app"));
        for bad in ["", "app", "ftp://x", "99999"] {
            assert!(proxy(bad).is_err(), "{bad:?}");
        }
        let text = web_handler("text:good morning", "/hi", &[]).map(|(mount, handler)| (mount, handler.text));
        assert_eq!(text, Ok(("/hi".to_owned(), "good morning".to_owned())));
        let folder = web_handler("/", "/root", &[]).map(|(mount, handler)| (mount, handler.path));
        assert_eq!(folder, Ok(("/root/".to_owned(), "/".to_owned())));
        assert_eq!(forward_target("5432").as_deref(), Ok("127.0.0.1:5432"));
        assert_eq!(forward_target("tcp://db:5432").as_deref(), Ok("db:5432"));
        assert!(forward_target("db").is_err());
    }
}
