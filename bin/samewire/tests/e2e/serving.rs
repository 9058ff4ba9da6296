//! `serve`: programs, folders and texts of a machine under its name.

use std::io::{Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, TcpListener};
use std::time::Duration;

use sw_lab::{Interrupt, Nat};

use crate::scene::{Cast, SAMEWIRE, SOON, Scene, curl, listen, programs, says, skip, two_sites};

/// The official command line sets and takes back what our daemon serves.
#[test]
fn the_official_command_line_serves_by_our_daemon() {
    let cast = Cast { alder: SAMEWIRE, birch: SAMEWIRE, server: SAMEWIRE };
    let programs = programs();
    let official = match programs.official_node() {
        Ok((_, cli)) => cli,
        Err(why) => return skip(&format!("serveofficial: {}", why.what)),
    };
    let Some(mut scene) = two_sites("serveoff", cast, [Nat::Easy, Nat::Easy]) else { return };
    scene.join("alder");
    scene.join("birch");
    scene.ping("birch", "alder");
    echo_requests(listen(&scene, "alder", IpAddr::V4(Ipv4Addr::LOCALHOST), 3000));
    let run = |scene: &mut Scene, words: &[&str]| {
        let machine = scene.world.machine("alder").expect("a machine");
        let socket = format!("--socket={}", machine.dir().join("daemon.sock").display());
        let program = official.to_string_lossy();
        let words: Vec<&str> = [&*program, socket.as_str(), "serve"].iter().chain(words).copied().collect();
        let output = machine.exec(&words, SOON, &Interrupt::default()).expect("it runs");
        let said = String::from_utf8_lossy(&[&output.stdout[..], &output.stderr].concat()).into_owned();
        assert!(output.status.success(), "{words:?}: {said}");
        said
    };
    let said = run(&mut scene, &["--bg", "--http=8080", "3000"]);
    assert!(said.contains("proxy http://127.0.0.1:3000"), "{said}");
    until_fetched(&scene, "http://alder:8080/official", "GET /official");
    assert!(run(&mut scene, &["status"]).contains("proxy http://127.0.0.1:3000"));
    run(&mut scene, &["--http=8080", "off"]);
    assert_eq!(curl(&scene, "birch", &["http://alder:8080/"]), "");
}

/// Answers each connection with what came in.
fn echo_requests(listener: TcpListener) {
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { return };
            let mut request = [0; 4096];
            let read = stream.read(&mut request).unwrap_or(0);
            let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {read}\r\nconnection: close\r\n\r\n");
            let _gone = stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(&request[..read]));
        }
    });
}

/// Fetches until the answer has the words.
fn until_fetched(scene: &Scene, url: &str, words: &str) -> String {
    scene.until(&format!("{url} says {words:?}"), || {
        Some(curl(scene, "birch", &["-H", "Tailscale-User-Login: root@evil", url]))
            .filter(|page| page.contains(words))
    })
}

#[test]
fn programs_and_folders_are_served_by_name_until_they_are_taken_back() {
    let cast = Cast { alder: SAMEWIRE, birch: SAMEWIRE, server: SAMEWIRE };
    let Some(mut scene) = two_sites("serve", cast, [Nat::Easy, Nat::Easy]) else { return };
    scene.join("alder");
    scene.join("birch");
    scene.ping("birch", "alder");
    let birch = scene.address("birch");
    let program = listen(&scene, "alder", IpAddr::V4(Ipv4Addr::LOCALHOST), 3000);
    echo_requests(program);

    let said = says(&mut scene, "alder", &["serve", "--bg", "--set-path=/app", "3000"]);
    assert!(said.contains("/app\n|-- proxy http://127.0.0.1:3000"), "{said}");
    let page = until_fetched(&scene, "http://alder/app/x?y=z", "GET /x?y=z HTTP/1.1").to_ascii_lowercase();
    for line in [
        format!("x-forwarded-for: {birch}"),
        "x-forwarded-host: alder".into(),
        "tailscale-user-login: ".into(),
    ] {
        assert!(page.contains(&line), "{line}: {page}");
    }
    assert!(!page.contains("evil"), "who asks cannot say who it is: {page}");

    let folder = scene.world.machine("alder").expect("a machine").dir().join("book");
    std::fs::create_dir(&folder).expect("a folder");
    std::fs::write(folder.join("a page.txt"), "once upon a time").expect("a file");
    says(&mut scene, "alder", &["serve", "--bg", "--set-path=/book", &folder.to_string_lossy()]);
    until_fetched(&scene, "http://alder/book/", "a%20page.txt");
    until_fetched(&scene, "http://alder/book/a%20page.txt", "once upon a time");
    until_fetched(&scene, "http://alder/book/%2e%2e/daemon.log", "no such file");

    says(&mut scene, "alder", &["serve", "--bg", "--tcp=5432", "3000"]);
    until_fetched(&scene, "http://alder:5432/raw", "GET /raw HTTP/1.1");

    // The keeper of the configuration is the daemon's state.
    let machine = scene.world.machine("alder").expect("a machine");
    machine.kill();
    machine.start(&Interrupt::default()).expect("it starts again");
    until_fetched(&scene, "http://alder/app/again", "GET /again");
    let shown = says(&mut scene, "alder", &["serve", "status"]);
    for line in ["/app\n|-- proxy", "/book/\n|-- path", "|--> tcp://127.0.0.1:3000"] {
        assert!(shown.contains(line), "{shown}");
    }
    says(&mut scene, "alder", &["serve", "--tcp=5432", "off"]);
    says(&mut scene, "alder", &["serve", "--set-path=/app", "off"]);
    assert_eq!(curl(&scene, "birch", &["http://alder:5432/"]), "");
    until_fetched(&scene, "http://alder/app/", "nothing is served here");
    says(&mut scene, "alder", &["serve", "reset"]);
    assert_eq!(curl(&scene, "birch", &["http://alder/book/"]), "");
}

#[test]
fn what_is_served_in_the_foreground_ends_with_its_command() {
    let cast = Cast { alder: SAMEWIRE, birch: SAMEWIRE, server: SAMEWIRE };
    let Some(mut scene) = two_sites("servefg", cast, [Nat::Easy, Nat::Easy]) else { return };
    scene.join("alder");
    scene.join("birch");
    scene.ping("birch", "alder");
    let machine = scene.world.machine("alder").expect("a machine");
    let socket = machine.dir().join("daemon.sock");
    let mut command = machine.command(&[env!("CARGO_BIN_EXE_samewire")]).expect("a command");
    command.arg("--socket").arg(&socket).args(["serve", "text:good morning"]);
    let mut serving = command.stdout(std::process::Stdio::null()).spawn().expect("it runs");
    until_fetched(&scene, "http://alder/", "good morning");
    serving.kill().expect("it ran");
    serving.wait().expect("it ended");
    let is_gone = || curl(&scene, "birch", &["http://alder/"]).is_empty().then_some(());
    scene.within(SOON + Duration::from_secs(5), "it is served no more", is_gone);
}
