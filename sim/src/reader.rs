//! Reads what the server says as machines do, each text once: machines of a large network are sent the same messages,
//! and whole maps of the same blocks of peers.

use std::collections::HashMap;
use std::sync::Arc;

use sw_tailcfg::{MapResponse, Node};
use sw_tailnet::{MapMessage, Part};

/// A message is on its way for some 100 ms; so many texts are remembered at most.
const MESSAGES_MAX: usize = 256;
/// Blocks of 64 peers last longer.
const BLOCKS_MAX: usize = 256;

/// What was read, by the address of its text. The text is kept with it, so that the address stays its own.
#[derive(Debug, Default)]
pub(crate) struct Reader {
    messages: HashMap<usize, (Arc<Part>, MapResponse)>,
    blocks: HashMap<usize, (Arc<Part>, Vec<Arc<Node>>)>,
}

impl Reader {
    /// Reads a message; `None` if a machine could not.
    pub(crate) fn read(&mut self, message: &MapMessage) -> Option<MapResponse> {
        match message.parts() {
            [] => None,
            [only] => self.read_one(only),
            // The head ends where the list of peers begins, the tail only closes it.
            [head, blocks @ .., tail] => {
                let mut response = read_text(&[&head.json()[..], &tail.json()[..]].concat())?;
                for block in blocks {
                    response.peers.extend_from_slice(self.read_block(block)?);
                }
                debug_assert_eq!(Some(&response), read_text(&message.to_json()).as_ref());
                Some(response)
            }
        }
    }

    fn read_one(&mut self, part: &Arc<Part>) -> Option<MapResponse> {
        let place = Arc::as_ptr(part).addr();
        if let Some((_, response)) = self.messages.get(&place) {
            return Some(response.clone());
        }
        let response = read_text(part.json())?;
        if self.messages.len() >= MESSAGES_MAX {
            self.messages.clear();
        }
        self.messages.insert(place, (Arc::clone(part), response.clone()));
        Some(response)
    }

    fn read_block(&mut self, part: &Arc<Part>) -> Option<&[Arc<Node>]> {
        let place = Arc::as_ptr(part).addr();
        if !self.blocks.contains_key(&place) {
            let json = part.json();
            let text = [&br#"{"Peers":["#[..], json.strip_prefix(b",").unwrap_or(json), b"]}"].concat();
            let peers = read_text(&text)?.peers;
            if self.blocks.len() >= BLOCKS_MAX {
                self.blocks.clear();
            }
            self.blocks.insert(place, (Arc::clone(part), peers));
        }
        self.blocks.get(&place).map(|(_, peers)| peers.as_slice())
    }
}

/// Reads a text as a machine does; a peer that cannot be read is one too many.
pub(crate) fn read_text(text: &[u8]) -> Option<MapResponse> {
    let decoded = sw_tailcfg::decode_map_response(text).ok()?;
    decoded.rejected.is_empty().then_some(decoded.response)
}
