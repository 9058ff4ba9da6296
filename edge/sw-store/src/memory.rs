//! A store without files, for tests and for servers that may forget.

use std::collections::BTreeMap;

use sw_tailnet::{Change, Entry, Settings, State};
use sw_types::NodeId;

use crate::{Loaded, Seq, Store, StoreError};

/// Keeps everything in memory.
#[derive(Debug, Default)]
pub struct MemoryStore {
    log: Vec<(Seq, Entry)>,
    seq: Seq,
    state: Option<State>,
    volatile: BTreeMap<NodeId, String>,
}

impl Store for MemoryStore {
    fn load(&mut self) -> Result<Loaded, StoreError> {
        let records = self.state.as_ref().map(State::records).unwrap_or_default();
        let volatile = self.volatile.iter().map(|(id, text)| (*id, text.clone())).collect();
        Ok(Loaded { seq: self.seq, records, volatile })
    }

    fn append(&mut self, expected: Seq, entries: &[Entry]) -> Result<Seq, StoreError> {
        if expected != self.seq {
            return Err(StoreError::Moved { expected, found: self.seq });
        }
        for entry in entries {
            self.seq.0 += 1;
            for change in &entry.changes {
                self.fold(change.clone());
            }
            self.log.push((self.seq, entry.clone()));
        }
        Ok(self.seq)
    }

    fn entries_after(&mut self, seq: Seq, limit: usize) -> Result<Vec<(Seq, Entry)>, StoreError> {
        Ok(self.log.iter().filter(|(s, _)| *s > seq).take(limit).cloned().collect())
    }

    fn entries_before(&mut self, seq: Option<Seq>, limit: usize) -> Result<Vec<(Seq, Entry)>, StoreError> {
        let newest_first = self.log.iter().rev();
        Ok(newest_first.filter(|(s, _)| seq.is_none_or(|seq| *s < seq)).take(limit).cloned().collect())
    }

    fn put_volatile(&mut self, facts: &[(NodeId, Option<String>)]) -> Result<(), StoreError> {
        for (id, text) in facts {
            match text {
                Some(text) => self.volatile.insert(*id, text.clone()),
                None => self.volatile.remove(id),
            };
        }
        Ok(())
    }

    fn trim(&mut self, seq: Seq) -> Result<(), StoreError> {
        self.log.retain(|(s, _)| *s > seq);
        Ok(())
    }

    fn backup(&mut self, _to: &std::path::Path) -> Result<(), StoreError> {
        Err(StoreError::NoFiles)
    }
}

impl MemoryStore {
    fn fold(&mut self, change: Change) {
        match (&mut self.state, change) {
            (Some(state), change) => drop(state.apply(change)),
            (state @ None, Change::Settings(Some(settings))) => *state = Some(State::new(*settings)),
            (state @ None, change) => {
                // A log that does not begin with settings is a test's; it gets settings of no meaning.
                let mut new = State::new(Settings::new("T".to_owned(), sw_tailnet::Pool::default()));
                drop(new.apply(change));
                *state = Some(new);
            }
        }
    }
}
