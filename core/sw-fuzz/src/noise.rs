//! Handshake, records and frames of `sw-noise`.

use std::sync::LazyLock;

use sw_noise::{
    EarlySplit, INITIATION_LEN, Initiator, RESPONSE_LEN, accept, initiation_from_header,
    initiation_to_header, push_map_frame, split_early, split_map_frame, split_reply,
};
use sw_types::{CapVer, ControlPrivate, MachinePrivate};

struct Keys {
    machine: MachinePrivate,
    server: ControlPrivate,
}

static KEYS: LazyLock<Keys> = LazyLock::new(|| Keys {
    machine: MachinePrivate::generate([0x11; 32]),
    server: ControlPrivate::generate([0x33; 32]),
});

pub(crate) fn handshake(data: &[u8]) {
    let Keys { machine, server } = &*KEYS;
    if let Ok(text) = std::str::from_utf8(data)
        && let Ok(initiation) = initiation_from_header(text)
    {
        assert_eq!(initiation_to_header(&initiation), text);
        drop(accept(&initiation, server, [0x45; 32]));
    }
    if let Ok(accepted) = accept(data, server, [0x45; 32]) {
        assert_eq!(&data[..2], accepted.version.0.to_be_bytes());
    }
    drop(split_reply(data));
    // The client's side costs three exchanges, so only what has its length gets so far.
    if let Ok(response) = <&[u8; RESPONSE_LEN]>::try_from(data) {
        let (client, initiation) =
            Initiator::start(CapVer::CLIENT, machine, &server.public(), [0x22; 32]).expect("a good key");
        assert_eq!(initiation.len(), INITIATION_LEN);
        drop(client.finish(machine, response));
    }
}

pub(crate) fn records(data: &[u8]) {
    let Keys { machine, server } = &*KEYS;
    // One connection is enough for all inputs: a reader of its own begins at record 0 each time.
    static RESPONSE: LazyLock<([u8; INITIATION_LEN], [u8; RESPONSE_LEN])> = LazyLock::new(|| {
        let (_, initiation) =
            Initiator::start(CapVer::CLIENT, &KEYS.machine, &KEYS.server.public(), [0x22; 32])
                .expect("a good key");
        let response = accept(&initiation, &KEYS.server, [0x45; 32]).expect("our own initiation").response;
        (initiation, response)
    });
    let (cut, data) = data.split_first().map_or((0, data), |(cut, rest)| (usize::from(*cut), rest));
    let (client, _) =
        Initiator::start(CapVer::CLIENT, machine, &server.public(), [0x22; 32]).expect("a good key");
    let (mut writer, mut reader) = client.finish(machine, &RESPONSE.1).expect("our own response").split();

    let mut plain = Vec::new();
    let cut = cut.min(data.len());
    let first = reader.read(&data[..cut], &mut plain);
    if let Err(error) = first.and_then(|()| reader.read(&data[cut..], &mut plain)) {
        assert_eq!(reader.read(&[], &mut plain), Err(error), "a failed connection stays failed");
    }
    assert!(plain.is_empty(), "nobody but the server can seal");

    let mut wire = Vec::new();
    writer.write(data, &mut wire).expect("record numbers are left");
    let mut from_client =
        accept(&RESPONSE.0, server, [0x45; 32]).expect("our own initiation").transport.split().1;
    from_client.read(&wire[..cut], &mut plain).expect("our own record");
    from_client.read(&wire[cut..], &mut plain).expect("our own record");
    assert_eq!(plain, data);
}

pub(crate) fn early_payload(data: &[u8]) {
    match split_early(data) {
        Ok(EarlySplit::Payload { json, rest }) => assert_eq!(9 + json.len() + rest.len(), data.len()),
        Ok(EarlySplit::Http2 { rest }) => assert_eq!(rest, data),
        Ok(EarlySplit::NeedMore) | Err(_) => {}
    }
}

pub(crate) fn map_frame(data: &[u8]) {
    let mut rest = data;
    while let Ok(Some(frame)) = split_map_frame(rest) {
        let mut wire = Vec::new();
        push_map_frame(frame.content, &mut wire).expect("it was read");
        assert_eq!(wire, rest[..wire.len()]);
        rest = frame.rest;
    }
}
