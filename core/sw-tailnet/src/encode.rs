//! Map messages as JSON in parts that many streams share.
//!
//! A full map is a head for one viewer, then blocks of up to 64 peers that every viewer of a class
//! shares, then a tail. A part is compressed once, by whoever sends it first, as a zstd frame of its
//! own; frames one after the other decode to the parts one after the other (RFC 8878 §3.1).

use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use serde::Serialize;

/// A piece of a message.
#[derive(Debug)]
pub struct Part {
    json: Bytes,
    zstd: OnceLock<Bytes>,
}

impl Part {
    pub(crate) fn new(json: Vec<u8>) -> Arc<Self> {
        Arc::new(Self { json: json.into(), zstd: OnceLock::new() })
    }

    /// The JSON text of this piece alone (rarely valid alone).
    pub fn json(&self) -> &Bytes {
        &self.json
    }

    /// The piece as one zstd frame, made by `compress` at the first call.
    pub fn zstd(&self, compress: impl FnOnce(&[u8]) -> Vec<u8>) -> &Bytes {
        self.zstd.get_or_init(|| compress(&self.json).into())
    }
}

/// One message of a map stream: the concatenation of its parts.
#[derive(Debug, Clone)]
pub struct MapMessage {
    parts: Vec<Arc<Part>>,
}

impl MapMessage {
    pub(crate) fn of(parts: Vec<Arc<Part>>) -> Self {
        Self { parts }
    }

    pub(crate) fn one(part: Arc<Part>) -> Self {
        Self { parts: vec![part] }
    }

    /// The parts in order.
    pub fn parts(&self) -> &[Arc<Part>] {
        &self.parts
    }

    /// The whole text, for tests and one-shot answers.
    pub fn to_json(&self) -> Vec<u8> {
        let mut json = Vec::with_capacity(self.parts.iter().map(|p| p.json.len()).sum());
        for part in &self.parts {
            json.extend_from_slice(&part.json);
        }
        json
    }
}

/// Writes one JSON object field by field.
#[derive(Debug)]
pub(crate) struct Object {
    json: Vec<u8>,
}

impl Object {
    pub(crate) fn new() -> Self {
        Self { json: vec![b'{'] }
    }

    /// Begins a field whose value the caller appends to what [`Self::json`] returns.
    pub(crate) fn key(&mut self, name: &str) -> &mut Vec<u8> {
        if self.json.len() > 1 {
            self.json.push(b',');
        }
        self.json.push(b'"');
        self.json.extend_from_slice(name.as_bytes());
        self.json.extend_from_slice(b"\":");
        &mut self.json
    }

    pub(crate) fn raw(&mut self, name: &str, value: &[u8]) {
        self.key(name).extend_from_slice(value);
    }

    pub(crate) fn field(&mut self, name: &str, value: &(impl Serialize + ?Sized)) {
        let json = self.key(name);
        serde_json::to_writer(json, value).expect("map values have string keys and no fallible parts");
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.json.len() == 1
    }

    pub(crate) fn finish(mut self) -> Vec<u8> {
        self.json.push(b'}');
        self.json
    }

    /// The object without its closing brace, for a message that goes on in another part.
    pub(crate) fn unfinished(self) -> Vec<u8> {
        self.json
    }
}

/// Appends `[a,b,…]` of ready JSON values.
pub(crate) fn list<'a>(json: &mut Vec<u8>, items: impl IntoIterator<Item = &'a [u8]>) {
    json.push(b'[');
    for (i, item) in items.into_iter().enumerate() {
        if i > 0 {
            json.push(b',');
        }
        json.extend_from_slice(item);
    }
    json.push(b']');
}

pub(crate) fn to_json(value: &(impl Serialize + ?Sized)) -> Vec<u8> {
    serde_json::to_vec(value).expect("map values have string keys and no fallible parts")
}
