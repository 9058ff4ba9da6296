//! UPnP Internet Gateway Device, version 1: as much of it as port mapping clients ask.

use std::io::{BufRead, Read as _};
use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use super::ports::{LIFE_MAX, Ports, Transport};

/// Longest request that is read, bytes.
const REQUEST_LEN_MAX: usize = 64 << 10;

/// The kind of device and of service.
const DEVICE: &str = "urn:schemas-upnp-org:device:InternetGatewayDevice:1";
const SERVICE: &str = "urn:schemas-upnp-org:service:WANIPConnection:1";

/// Name of this device; one is enough for a lab.
const UUID: &str = "uuid:5e11a5e1-0000-4000-8000-0000000005e1";

/// Error codes of the device (UPnP WANIPConnection:1 §2.4, UPnP device architecture §3.2.2).
const INVALID_ACTION: u16 = 401;
const INVALID_ARGUMENTS: u16 = 402;
const NO_SUCH_ENTRY: u16 = 714;
const CONFLICT: u16 = 718;

/// Returns the answer to a search, if it asks for a device like this one.
pub(super) fn answer_search(datagram: &[u8], inside: Ipv4Addr, port: u16) -> Option<String> {
    let text = std::str::from_utf8(datagram).ok()?;
    if !text.starts_with("M-SEARCH ") {
        return None;
    }
    let target = text.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("ST").then_some(value.trim())
    })?;
    let target = match target {
        "ssdp:all" | "upnp:rootdevice" => DEVICE,
        exact if exact == DEVICE || exact == SERVICE => exact,
        _ => return None,
    };
    Some(format!(
        "HTTP/1.1 200 OK\r\nCACHE-CONTROL: max-age=120\r\nST: {target}\r\nUSN: {UUID}::{target}\r\nEXT:\r\n\
         SERVER: Linux UPnP/1.1 samewire-lab/1\r\nLOCATION: http://{inside}:{port}/rootDesc.xml\r\n\r\n"
    ))
}

/// One HTTP request.
#[derive(Debug)]
pub(super) struct Request {
    path: String,
    action: String,
    body: String,
}

impl Request {
    /// Reads a request; nothing when it is none or too long.
    pub(super) fn read(stream: &mut impl BufRead) -> Option<Self> {
        let mut limited = stream.take(u64::try_from(REQUEST_LEN_MAX).ok()?);
        let mut line = String::new();
        limited.read_line(&mut line).ok()?;
        let path = line.split(' ').nth(1)?.to_owned();
        let (mut action, mut length) = (String::new(), 0);
        loop {
            line.clear();
            if limited.read_line(&mut line).ok()? == 0 {
                return None;
            }
            let Some((name, value)) = line.trim_end().split_once(':') else { break };
            if name.eq_ignore_ascii_case("SOAPAction") {
                value.trim().trim_matches('"').rsplit('#').next()?.clone_into(&mut action);
            } else if name.eq_ignore_ascii_case("Content-Length") {
                length = value.trim().parse().ok().filter(|l| *l <= REQUEST_LEN_MAX)?;
            }
        }
        let mut body = vec![0; length];
        limited.read_exact(&mut body).ok()?;
        Some(Self { path, action, body: String::from_utf8(body).ok()? })
    }

    /// Returns the text of an argument of the action.
    fn argument(&self, name: &str) -> Option<&str> {
        let (_, rest) = self.body.split_once(&format!("<{name}"))?;
        let (_, rest) = rest.split_once('>')?;
        Some(rest.split_once("</")?.0.trim())
    }

    fn transport(&self) -> Option<Transport> {
        match self.argument("NewProtocol")? {
            "UDP" => Some(Transport::Udp),
            "TCP" => Some(Transport::Tcp),
            _ => None,
        }
    }

    fn port(&self, name: &str) -> Option<u16> {
        self.argument(name)?.parse().ok()
    }
}

/// Returns the whole HTTP answer to `request`.
pub(super) fn answer(
    request: &Request,
    client: Ipv4Addr,
    outside: Ipv4Addr,
    ports: &mut Ports,
    now: Instant,
) -> String {
    if request.path == "/rootDesc.xml" {
        return http("200 OK", &description());
    }
    if request.path == "/scpd.xml" {
        return http("200 OK", &service_description());
    }
    if request.path != "/ctl" {
        return http("404 Not Found", "");
    }
    let outcome = match request.action.as_str() {
        "GetExternalIPAddress" => Ok(format!("<NewExternalIPAddress>{outside}</NewExternalIPAddress>")),
        "GetStatusInfo" => Ok("<NewConnectionStatus>Connected</NewConnectionStatus><NewLastConnectionError>ERROR_NONE</NewLastConnectionError><NewUptime>1</NewUptime>".into()),
        "AddPortMapping" => add(request, client, ports, now),
        "DeletePortMapping" => delete(request, ports),
        _ => Err(INVALID_ACTION),
    };
    match outcome {
        Ok(values) => {
            let action = &request.action;
            http(
                "200 OK",
                &envelope(&format!(
                    "<u:{action}Response xmlns:u=\"{SERVICE}\">{values}</u:{action}Response>"
                )),
            )
        }
        Err(code) => http(
            "500 Internal Server Error",
            &envelope(&format!(
                "<s:Fault><faultcode>s:Client</faultcode><faultstring>UPnPError</faultstring><detail>\
                 <UPnPError xmlns=\"urn:schemas-upnp-org:control-1-0\"><errorCode>{code}</errorCode>\
                 <errorDescription>refused</errorDescription></UPnPError></detail></s:Fault>"
            )),
        ),
    }
}

fn add(request: &Request, client: Ipv4Addr, ports: &mut Ports, now: Instant) -> Result<String, u16> {
    let transport = request.transport().ok_or(INVALID_ARGUMENTS)?;
    let outside_port = request.port("NewExternalPort").filter(|p| *p != 0).ok_or(INVALID_ARGUMENTS)?;
    let inside_port = request.port("NewInternalPort").ok_or(INVALID_ARGUMENTS)?;
    let address: Ipv4Addr =
        request.argument("NewInternalClient").and_then(|a| a.parse().ok()).ok_or(INVALID_ARGUMENTS)?;
    if address != client {
        return Err(INVALID_ARGUMENTS);
    }
    let holder = ports.get(transport, outside_port);
    if holder.is_some_and(|m| m.inside != (address, inside_port)) {
        return Err(CONFLICT);
    }
    // 0 stands for a mapping without end.
    let life = match request.argument("NewLeaseDuration").and_then(|l| l.parse().ok()) {
        None | Some(0) => LIFE_MAX,
        Some(seconds) => Duration::from_secs(seconds).min(LIFE_MAX),
    };
    if holder.is_none() {
        ports.close(transport, (address, inside_port));
    }
    ports.open(transport, (address, inside_port), outside_port, now + life).ok_or(CONFLICT)?;
    Ok(String::new())
}

fn delete(request: &Request, ports: &mut Ports) -> Result<String, u16> {
    let transport = request.transport().ok_or(INVALID_ARGUMENTS)?;
    let port = request.port("NewExternalPort").ok_or(INVALID_ARGUMENTS)?;
    let mapping = ports.get(transport, port).ok_or(NO_SUCH_ENTRY)?;
    ports.close(transport, mapping.inside);
    Ok(String::new())
}

fn http(status: &str, body: &str) -> String {
    format!(
        "HTTP/1.1 {status}\r\nContent-Type: text/xml; charset=\"utf-8\"\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
        body.len()
    )
}

fn envelope(inner: &str) -> String {
    format!(
        "<?xml version=\"1.0\"?>\n<s:Envelope xmlns:s=\"http://schemas.xmlsoap.org/soap/envelope/\" \
         s:encodingStyle=\"http://schemas.xmlsoap.org/soap/encoding/\"><s:Body>{inner}</s:Body></s:Envelope>\n"
    )
}

/// The device tree that clients walk down to the service.
fn description() -> String {
    let device = |kind: &str, name: &str, inner: &str| {
        format!(
            "<device><deviceType>{kind}</deviceType><friendlyName>{name}</friendlyName>\
             <manufacturer>samewire</manufacturer><modelName>lab</modelName><UDN>{UUID}</UDN>{inner}</device>"
        )
    };
    let service = format!(
        "<serviceList><service><serviceType>{SERVICE}</serviceType>\
         <serviceId>urn:upnp-org:serviceId:WANIPConn1</serviceId><controlURL>/ctl</controlURL>\
         <eventSubURL>/evt</eventSubURL><SCPDURL>/scpd.xml</SCPDURL></service></serviceList>"
    );
    let connection = device("urn:schemas-upnp-org:device:WANConnectionDevice:1", "connection", &service);
    let wan = device(
        "urn:schemas-upnp-org:device:WANDevice:1",
        "wan",
        &format!("<deviceList>{connection}</deviceList>"),
    );
    let root = device(DEVICE, "samewire lab router", &format!("<deviceList>{wan}</deviceList>"));
    format!(
        "<?xml version=\"1.0\"?>\n<root xmlns=\"urn:schemas-upnp-org:device-1-0\">\
         <specVersion><major>1</major><minor>0</minor></specVersion>{root}</root>\n"
    )
}

/// The actions of the service and the arguments that go in, which some clients read before they ask.
fn service_description() -> String {
    let add = [
        "NewRemoteHost",
        "NewExternalPort",
        "NewProtocol",
        "NewInternalPort",
        "NewInternalClient",
        "NewEnabled",
        "NewPortMappingDescription",
        "NewLeaseDuration",
    ];
    let actions: [(&str, &[&str]); 4] = [
        ("GetExternalIPAddress", &[]),
        ("GetStatusInfo", &[]),
        ("AddPortMapping", &add),
        ("DeletePortMapping", &add[..3]),
    ];
    let action = |(name, arguments): (&str, &[&str])| {
        let arguments: String = arguments
            .iter()
            .map(|argument| format!("<argument><name>{argument}</name><direction>in</direction></argument>"))
            .collect();
        format!("<action><name>{name}</name><argumentList>{arguments}</argumentList></action>")
    };
    format!(
        "<?xml version=\"1.0\"?>\n<scpd xmlns=\"urn:schemas-upnp-org:service-1-0\">\
         <specVersion><major>1</major><minor>0</minor></specVersion><actionList>{}</actionList></scpd>\n",
        actions.map(action).concat()
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    const CLIENT: Ipv4Addr = Ipv4Addr::new(192, 168, 1, 10);
    const OUTSIDE: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 2);

    fn request(action: &str, body: &str) -> Request {
        let text = format!(
            "POST /ctl HTTP/1.1\r\nSOAPAction: \"{SERVICE}#{action}\"\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        );
        Request::read(&mut text.as_bytes()).expect("well formed")
    }

    fn mapping(client: Ipv4Addr, inside_port: u16) -> String {
        format!(
            "<NewRemoteHost></NewRemoteHost><NewExternalPort>5555</NewExternalPort><NewProtocol>UDP</NewProtocol>\
             <NewInternalPort>{inside_port}</NewInternalPort><NewInternalClient>{client}</NewInternalClient>\
             <NewLeaseDuration>600</NewLeaseDuration>"
        )
    }

    #[test]
    fn a_search_for_gateways_is_answered_with_the_description() {
        let search = b"M-SEARCH * HTTP/1.1\r\nHOST: 239.255.255.250:1900\r\nST: ssdp:all\r\nMAN: \"ssdp:discover\"\r\n\r\n";
        let answer = answer_search(search, Ipv4Addr::new(192, 168, 1, 1), 5000).expect("it is asked for");
        assert!(answer.contains("LOCATION: http://192.168.1.1:5000/rootDesc.xml\r\n"));
        assert_eq!(answer_search(b"M-SEARCH * HTTP/1.1\r\nST: urn:printer\r\n\r\n", CLIENT, 1), None);
    }

    #[test]
    fn a_port_is_opened_kept_against_others_and_closed() {
        let (mut ports, now) = (Ports::without_kernel(), Instant::now());
        let mut ask =
            |action: &str, body: &str| answer(&request(action, body), CLIENT, OUTSIDE, &mut ports, now);
        assert!(ask("AddPortMapping", &mapping(CLIENT, 41641)).contains("AddPortMappingResponse"));
        assert!(ask("AddPortMapping", &mapping(CLIENT, 1)).contains("<errorCode>718<"));
        assert!(ask("AddPortMapping", &mapping(OUTSIDE, 1)).contains("<errorCode>402<"));
        assert!(ask("DeletePortMapping", &mapping(CLIENT, 1)).contains("DeletePortMappingResponse"));
        assert!(ask("DeletePortMapping", &mapping(CLIENT, 1)).contains("<errorCode>714<"));
        assert!(ask("AddAnyPortMapping", "").contains("<errorCode>401<"));
        assert!(ask("GetExternalIPAddress", "").contains(">203.0.113.2<"));
    }
}
