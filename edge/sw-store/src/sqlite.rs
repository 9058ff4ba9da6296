//! The default store: one SQLite file.
//!
//! Besides SQLite's own structure checks, every record carries a hash, the log is a hash chain, and
//! the exclusive-or of all record hashes is kept: a flipped byte in any payload is found at start.

use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::{
    Connection, ErrorCode, OpenFlags, OptionalExtension, Transaction, TransactionBehavior, params,
};
use sha2::{Digest, Sha256};
use sw_tailnet::{Change, Entry};
use sw_types::NodeId;

use crate::witness::Witness;
use crate::{Loaded, Seq, Store, StoreError};

/// `user_version` of the schema below. Migrations go forward only.
const FORMAT: i64 = 1;

const SCHEMA: &str = "
CREATE TABLE meta (key TEXT PRIMARY KEY, value BLOB NOT NULL) STRICT, WITHOUT ROWID;
CREATE TABLE record (kind TEXT NOT NULL, id TEXT NOT NULL, body TEXT NOT NULL, hash BLOB NOT NULL,
                     PRIMARY KEY (kind, id)) STRICT, WITHOUT ROWID;
CREATE UNIQUE INDEX one_address ON record (json_extract(body, '$.ipv4')) WHERE kind = 'node';
CREATE UNIQUE INDEX one_label ON record (json_extract(body, '$.label')) WHERE kind = 'node';
CREATE UNIQUE INDEX one_node_key ON record (json_extract(body, '$.node_key')) WHERE kind = 'node';
CREATE TABLE log (seq INTEGER PRIMARY KEY, body TEXT NOT NULL, hash BLOB NOT NULL) STRICT;
CREATE TABLE volatile (node INTEGER PRIMARY KEY, body TEXT NOT NULL, hash BLOB NOT NULL) STRICT;
";

type Hash = [u8; 32];

/// Keeps one tailnet in one SQLite file.
#[derive(Debug)]
pub struct SqliteStore {
    file: PathBuf,
    db: Connection,
    /// `None` for a copy that is only looked at.
    witness: Option<Witness>,
    seen: Option<Seq>,
    head: Head,
}

/// What each append changes besides rows.
#[derive(Debug, Clone, Copy, Default)]
struct Head {
    seq: Seq,
    /// Hash of the last log entry.
    chain: Hash,
    /// Exclusive-or of all record hashes.
    records: Hash,
}

impl SqliteStore {
    /// Opens `file` or makes it, for this process alone.
    ///
    /// # Errors
    /// [`StoreError::Busy`] when another process has it, [`StoreError::Corrupt`] when SQLite cannot
    /// read it, [`StoreError::TooNew`].
    pub fn open(file: &Path) -> Result<Self, StoreError> {
        let io = |action, source| StoreError::Io { action, file: file.to_owned(), source };
        let existed = file.try_exists().map_err(|e| io("looking for", e))?;
        if !existed && Witness::path(file).exists() {
            let what = "it is missing, but its .seen file is there; restore a backup".to_owned();
            return Err(StoreError::Corrupt { file: file.to_owned(), what });
        }
        if existed
            && std::fs::metadata(file).map_err(|e| io("reading", e))?.len() == 0
            && Witness::path(file).exists()
        {
            return Err(StoreError::Corrupt { file: file.to_owned(), what: "it is empty".to_owned() });
        }
        create_private(file).map_err(|e| io("creating", e))?;
        let wrap = |source| sqlite_error(file, source);
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let db = Connection::open_with_flags(file, flags).map_err(wrap)?;
        db.busy_timeout(Duration::from_secs(5)).map_err(wrap)?;
        prepare(&db).map_err(wrap)?;
        let found: i64 = db.query_row("PRAGMA user_version", [], |row| row.get(0)).map_err(wrap)?;
        if found > FORMAT {
            return Err(StoreError::TooNew { file: file.to_owned(), found, known: FORMAT });
        }
        if found == 0 {
            let sql = format!("BEGIN IMMEDIATE; {SCHEMA} PRAGMA user_version = {FORMAT}; COMMIT;");
            db.execute_batch(&sql).map_err(wrap)?;
        }
        let (witness, seen) = Witness::open(file).map_err(|e| io("opening the .seen file of", e))?;
        Ok(Self { file: file.to_owned(), db, witness: Some(witness), seen, head: Head::default() })
    }

    /// Checks a copy (a backup) completely without touching it, and returns where its log ends.
    ///
    /// # Errors
    /// As [`Store::load`].
    pub fn verify(file: &Path) -> Result<Seq, StoreError> {
        let wrap = |source| sqlite_error(file, source);
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let db = Connection::open_with_flags(file, flags).map_err(wrap)?;
        let found: i64 = db.query_row("PRAGMA user_version", [], |row| row.get(0)).map_err(wrap)?;
        if found > FORMAT {
            return Err(StoreError::TooNew { file: file.to_owned(), found, known: FORMAT });
        }
        let mut copy = Self { file: file.to_owned(), db, witness: None, seen: None, head: Head::default() };
        if found == 0 {
            return Err(copy.corrupt("it is no database of a control server"));
        }
        copy.check().map(|loaded| loaded.seq)
    }

    /// Checks structure and every hash; the cost is one pass over the file.
    fn check(&mut self) -> Result<Loaded, StoreError> {
        self.check_structure()?;
        let (records, digest) = self.read_records()?;
        let (seq, chain) = self.check_log()?;
        let stored: Option<Vec<u8>> = self.meta("records")?;
        // Only the first start of all has no digest; then there is nothing else either.
        let untouched = stored.is_none() && records.is_empty() && seq == Seq(0);
        if !untouched && stored.as_deref() != Some(&digest[..]) {
            return Err(self.corrupt("table record: the records together do not match their digest"));
        }
        if let Some(seen) = self.seen
            && seen > seq
        {
            let what = format!("it ends at change {}, but change {} was acknowledged", seq.0, seen.0);
            return Err(self.corrupt(&what));
        }
        self.head = Head { seq, chain, records: digest };
        let volatile = self.read_volatile()?;
        Ok(Loaded { seq, records, volatile })
    }

    fn check_structure(&self) -> Result<(), StoreError> {
        let mut statement = self.db.prepare("PRAGMA integrity_check(5)").map_err(|e| self.wrap(e))?;
        let lines = statement.query_map([], |row| row.get::<_, String>(0)).map_err(|e| self.wrap(e))?;
        let faults: Vec<String> = lines.collect::<Result<_, _>>().map_err(|e| self.wrap(e))?;
        if faults.iter().all(|line| line == "ok") {
            return Ok(());
        }
        Err(self.corrupt(&faults.join("; ")))
    }

    fn read_records(&self) -> Result<(Vec<Change>, Hash), StoreError> {
        let sql = "SELECT kind, id, body, hash FROM record ORDER BY kind DESC, id";
        let mut statement = self.db.prepare(sql).map_err(|e| self.wrap(e))?;
        let mut rows = statement.query([]).map_err(|e| self.wrap(e))?;
        let (mut records, mut digest) = (Vec::new(), Hash::default());
        while let Some(row) = rows.next().map_err(|e| self.wrap(e))? {
            let get = |i| row.get::<_, String>(i).map_err(|e| self.wrap(e));
            let (kind, id, body) = (get(0)?, get(1)?, get(2)?);
            let at = |fault: &str| self.corrupt(&format!("table record, {kind} {id:?}: {fault}"));
            let hash = record_hash(&kind, &id, &body);
            if row.get::<_, Vec<u8>>(3).map_err(|e| self.wrap(e))? != hash {
                return Err(at("its content does not match its hash"));
            }
            let change = Row { kind: kind.clone(), id: id.clone(), body }.into_change();
            records.push(change.ok_or_else(|| at("it is no record of this program"))?);
            xor(&mut digest, &hash);
        }
        Ok((records, digest))
    }

    fn check_log(&self) -> Result<(Seq, Hash), StoreError> {
        let base = self.meta("log_base")?;
        let (mut seq, mut chain) = match base.as_deref().map(split_base) {
            None => (Seq(0), Hash::default()),
            Some(Some(base)) => base,
            Some(None) => return Err(self.corrupt("table meta: log_base has a wrong length")),
        };
        let mut statement =
            self.db.prepare("SELECT seq, body, hash FROM log ORDER BY seq").map_err(|e| self.wrap(e))?;
        let mut rows = statement.query([]).map_err(|e| self.wrap(e))?;
        while let Some(row) = rows.next().map_err(|e| self.wrap(e))? {
            let found: i64 = row.get(0).map_err(|e| self.wrap(e))?;
            let body: String = row.get(1).map_err(|e| self.wrap(e))?;
            seq.0 += 1;
            chain = log_hash(&chain, seq, &body);
            if found != seq.0.cast_signed() || row.get::<_, Vec<u8>>(2).map_err(|e| self.wrap(e))? != chain {
                return Err(self
                    .corrupt(&format!("table log, entry {found}: it does not follow from the one before")));
            }
        }
        match self.meta("head")? {
            None if seq == Seq(0) => Ok((seq, chain)),
            Some(head) if split_base(&head) == Some((seq, chain)) => Ok((seq, chain)),
            Some(_) | None => Err(self.corrupt("table log: its end is not the end that table meta names")),
        }
    }

    /// A damaged volatile row is left out: these facts may be lost.
    fn read_volatile(&self) -> Result<Vec<(NodeId, String)>, StoreError> {
        let mut statement =
            self.db.prepare("SELECT node, body, hash FROM volatile").map_err(|e| self.wrap(e))?;
        let mut rows = statement.query([]).map_err(|e| self.wrap(e))?;
        let mut facts = Vec::new();
        while let Some(row) = rows.next().map_err(|e| self.wrap(e))? {
            let (node, body): (i64, String) =
                (row.get(0).map_err(|e| self.wrap(e))?, row.get(1).map_err(|e| self.wrap(e))?);
            if row.get::<_, Vec<u8>>(2).map_err(|e| self.wrap(e))?
                == record_hash("volatile", &node.to_string(), &body)
            {
                facts.push((NodeId(node), body));
            }
        }
        Ok(facts)
    }

    fn read_log(&self, sql: &str, seq: Seq, limit: usize) -> Result<Vec<(Seq, Entry)>, StoreError> {
        let mut statement = self.db.prepare_cached(sql).map_err(|e| self.wrap(e))?;
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        let bound = i64::try_from(seq.0).unwrap_or(i64::MAX);
        let mut rows = statement.query(params![bound, limit]).map_err(|e| self.wrap(e))?;
        let mut entries = Vec::new();
        while let Some(row) = rows.next().map_err(|e| self.wrap(e))? {
            let (seq, body): (i64, String) =
                (row.get(0).map_err(|e| self.wrap(e))?, row.get(1).map_err(|e| self.wrap(e))?);
            let entry = serde_json::from_str(&body);
            entries.push((
                Seq(seq.cast_unsigned()),
                entry.map_err(|e| self.corrupt(&format!("table log, entry {seq}: {e}")))?,
            ));
        }
        Ok(entries)
    }

    fn meta(&self, key: &str) -> Result<Option<Vec<u8>>, StoreError> {
        let sql = "SELECT value FROM meta WHERE key = ?1";
        self.db.query_row(sql, [key], |row| row.get(0)).optional().map_err(|e| self.wrap(e))
    }

    fn wrap(&self, source: rusqlite::Error) -> StoreError {
        sqlite_error(&self.file, source)
    }

    fn corrupt(&self, what: &str) -> StoreError {
        StoreError::Corrupt { file: self.file.clone(), what: what.to_owned() }
    }
}

impl Store for SqliteStore {
    fn load(&mut self) -> Result<Loaded, StoreError> {
        let loaded = self.check()?;
        // From here on the file is known good: note its end, should the note be missing.
        let noted = self.witness.as_mut().map_or(Ok(()), |witness| witness.set(loaded.seq));
        let action = "writing the .seen file of";
        noted.map_err(|source| StoreError::Io { action, file: self.file.clone(), source })?;
        Ok(loaded)
    }

    fn append(&mut self, expected: Seq, entries: &[Entry]) -> Result<Seq, StoreError> {
        if entries.is_empty() && expected == self.head.seq {
            return Ok(expected);
        }
        let file = self.file.clone();
        let wrap = |source| sqlite_error(&file, source);
        let tx = self.db.transaction_with_behavior(TransactionBehavior::Immediate).map_err(wrap)?;
        let found =
            tx.query_row("SELECT value FROM meta WHERE key = 'head'", [], |row| row.get::<_, Vec<u8>>(0));
        let found =
            found.optional().map_err(wrap)?.as_deref().and_then(split_base).map_or(Seq(0), |(seq, _)| seq);
        if found != expected || self.head.seq != expected {
            return Err(StoreError::Moved { expected, found });
        }
        let mut head = self.head;
        for entry in entries {
            write_entry(&tx, &mut head, entry).map_err(wrap)?;
        }
        put_meta(&tx, "head", &join_base(head.seq, &head.chain)).map_err(wrap)?;
        put_meta(&tx, "records", &head.records).map_err(wrap)?;
        tx.commit().map_err(wrap)?;
        self.head = head;
        // The entries are durable whether or not this note can be written.
        if let Some(Err(error)) = self.witness.as_mut().map(|witness| witness.set(head.seq)) {
            tracing::warn!(%error, "the .seen file cannot be written");
        }
        Ok(head.seq)
    }

    fn entries_after(&mut self, seq: Seq, limit: usize) -> Result<Vec<(Seq, Entry)>, StoreError> {
        self.read_log("SELECT seq, body FROM log WHERE seq > ?1 ORDER BY seq LIMIT ?2", seq, limit)
    }

    fn entries_before(&mut self, seq: Option<Seq>, limit: usize) -> Result<Vec<(Seq, Entry)>, StoreError> {
        let seq = seq.unwrap_or(Seq(u64::MAX));
        self.read_log("SELECT seq, body FROM log WHERE seq < ?1 ORDER BY seq DESC LIMIT ?2", seq, limit)
    }

    fn put_volatile(&mut self, facts: &[(NodeId, Option<String>)]) -> Result<(), StoreError> {
        let file = self.file.clone();
        let wrap = |source| sqlite_error(&file, source);
        let tx = self.db.transaction_with_behavior(TransactionBehavior::Immediate).map_err(wrap)?;
        for (node, body) in facts {
            match body {
                Some(body) => tx
                    .prepare_cached("INSERT OR REPLACE INTO volatile (node, body, hash) VALUES (?1, ?2, ?3)")
                    .and_then(|mut s| {
                        s.execute(params![node.0, body, record_hash("volatile", &node.to_string(), body)])
                    }),
                None => tx
                    .prepare_cached("DELETE FROM volatile WHERE node = ?1")
                    .and_then(|mut s| s.execute([node.0])),
            }
            .map_err(wrap)?;
        }
        tx.commit().map_err(wrap)
    }

    fn trim(&mut self, seq: Seq) -> Result<(), StoreError> {
        let file = self.file.clone();
        let wrap = |source| sqlite_error(&file, source);
        let tx = self.db.transaction_with_behavior(TransactionBehavior::Immediate).map_err(wrap)?;
        let bound = i64::try_from(seq.0).unwrap_or(i64::MAX);
        let hash =
            tx.query_row("SELECT hash FROM log WHERE seq = ?1", [bound], |row| row.get::<_, Vec<u8>>(0));
        let Some(hash) = hash.optional().map_err(wrap)? else {
            return Ok(());
        };
        let base = [&seq.0.to_be_bytes()[..], &hash].concat();
        put_meta(&tx, "log_base", &base).map_err(wrap)?;
        tx.execute("DELETE FROM log WHERE seq <= ?1", [bound]).map_err(wrap)?;
        tx.commit().map_err(wrap)
    }

    fn backup(&mut self, to: &Path) -> Result<(), StoreError> {
        let io = |action, source| StoreError::Io { action, file: to.to_owned(), source };
        let taken = std::io::Error::from(std::io::ErrorKind::AlreadyExists);
        if to.exists() {
            return Err(io("writing", taken));
        }
        let partial = to.with_extension("partial");
        drop(std::fs::remove_file(&partial));
        create_private(&partial).map_err(|e| io("creating", e))?;
        let wrap = |source| sqlite_error(&partial, source);
        let mut copy = Connection::open(&partial).map_err(wrap)?;
        let backup = rusqlite::backup::Backup::new(&self.db, &mut copy).map_err(wrap)?;
        backup.run_to_completion(1_000, Duration::ZERO, None).map_err(wrap)?;
        drop(backup);
        // One file, without a write-ahead log beside it.
        copy.pragma_update(None, "journal_mode", "DELETE").map_err(wrap)?;
        copy.close().map_err(|(_, source)| wrap(source))?;
        std::fs::File::open(&partial).and_then(|f| f.sync_all()).map_err(|e| io("syncing", e))?;
        std::fs::rename(&partial, to).map_err(|e| io("renaming to", e))
    }
}

fn prepare(db: &Connection) -> Result<(), rusqlite::Error> {
    // WHY exclusive: two servers on one directory would give out the same addresses.
    db.pragma_update(None, "locking_mode", "EXCLUSIVE")?;
    db.pragma_update(None, "journal_mode", "WAL")?;
    db.pragma_update(None, "synchronous", "FULL")?;
    db.pragma_update(None, "cell_size_check", true)?;
    db.pragma_update(None, "trusted_schema", false)?;
    // Takes the lock that `locking_mode` then keeps.
    db.execute_batch("BEGIN IMMEDIATE; COMMIT;")
}

fn create_private(file: &Path) -> std::io::Result<()> {
    use std::os::unix::fs::OpenOptionsExt;
    std::fs::OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(file).map(drop)
}

fn write_entry(tx: &Transaction<'_>, head: &mut Head, entry: &Entry) -> Result<(), rusqlite::Error> {
    for change in &entry.changes {
        write_change(tx, &mut head.records, change)?;
    }
    let body = to_json(entry);
    head.seq.0 += 1;
    head.chain = log_hash(&head.chain, head.seq, &body);
    let mut insert = tx.prepare_cached("INSERT INTO log (seq, body, hash) VALUES (?1, ?2, ?3)")?;
    insert.execute(params![i64::try_from(head.seq.0).unwrap_or(i64::MAX), body, head.chain]).map(drop)
}

fn write_change(tx: &Transaction<'_>, digest: &mut Hash, change: &Change) -> Result<(), rusqlite::Error> {
    let (row, put) = Row::of(change);
    let mut old = tx.prepare_cached("SELECT hash FROM record WHERE kind = ?1 AND id = ?2")?;
    let old: Option<Hash> = old.query_row([&row.kind, &row.id], |r| r.get(0)).optional()?;
    if let Some(old) = old {
        xor(digest, &old);
    }
    if !put {
        let mut delete = tx.prepare_cached("DELETE FROM record WHERE kind = ?1 AND id = ?2")?;
        return delete.execute([&row.kind, &row.id]).map(drop);
    }
    let hash = record_hash(&row.kind, &row.id, &row.body);
    xor(digest, &hash);
    let sql = "INSERT INTO record (kind, id, body, hash) VALUES (?1, ?2, ?3, ?4)
               ON CONFLICT (kind, id) DO UPDATE SET body = excluded.body, hash = excluded.hash";
    tx.prepare_cached(sql)?.execute(params![row.kind, row.id, row.body, hash]).map(drop)
}

/// A record as it lies in its table.
struct Row {
    kind: String,
    id: String,
    body: String,
}

impl Row {
    /// The row of a change, and whether it is put (or removed).
    fn of(change: &Change) -> (Self, bool) {
        fn row<T: serde::Serialize>(kind: &str, id: String, new: Option<&T>) -> (Row, bool) {
            let body = new.map(to_json).unwrap_or_default();
            (Row { kind: kind.to_owned(), id, body }, new.is_some())
        }
        match change {
            Change::User(id, new) => row("user", id.to_string(), new.as_ref()),
            Change::Node(id, new) => row("node", id.to_string(), new.as_ref()),
            Change::AuthKey(id, new) => row("auth-key", id.clone(), new.as_ref()),
            Change::ApiKey(id, new) => row("api-key", id.clone(), new.as_ref()),
            Change::Session(id, new) => row("session", id.clone(), new.as_ref()),
            Change::Settings(new) => row("settings", String::new(), new.as_ref()),
            Change::Policy(new) => row("policy", String::new(), new.as_ref()),
            Change::NextIds(new) => row("ids", String::new(), Some(new)),
        }
    }

    fn into_change(self) -> Option<Change> {
        fn parse<T: serde::de::DeserializeOwned>(body: &str) -> Option<Option<Box<T>>> {
            serde_json::from_str(body).ok().map(|value| Some(Box::new(value)))
        }
        Some(match self.kind.as_str() {
            "user" => Change::User(self.id.parse().ok()?, parse(&self.body)?),
            "node" => Change::Node(self.id.parse().ok()?, parse(&self.body)?),
            "auth-key" => Change::AuthKey(self.id, parse(&self.body)?),
            "api-key" => Change::ApiKey(self.id, parse(&self.body)?),
            "session" => Change::Session(self.id, parse(&self.body)?),
            "settings" => Change::Settings(parse(&self.body)?),
            "policy" => Change::Policy(parse(&self.body)?),
            "ids" => Change::NextIds(serde_json::from_str(&self.body).ok()?),
            _ => return None,
        })
    }
}

fn to_json<T: serde::Serialize>(value: &T) -> String {
    serde_json::to_string(value).expect("records have string keys and no fallible parts")
}

fn put_meta(tx: &Transaction<'_>, key: &str, value: &[u8]) -> Result<(), rusqlite::Error> {
    tx.prepare_cached("INSERT OR REPLACE INTO meta (key, value) VALUES (?1, ?2)")?
        .execute(params![key, value])
        .map(drop)
}

fn record_hash(kind: &str, id: &str, body: &str) -> Hash {
    let mut hash = Sha256::new();
    for part in [kind, id, body] {
        hash.update((part.len() as u64).to_be_bytes());
        hash.update(part);
    }
    hash.finalize().into()
}

fn log_hash(before: &Hash, seq: Seq, body: &str) -> Hash {
    let mut hash = Sha256::new();
    hash.update(before);
    hash.update(seq.0.to_be_bytes());
    hash.update(body);
    hash.finalize().into()
}

fn xor(into: &mut Hash, with: &Hash) {
    for (a, b) in into.iter_mut().zip(with) {
        *a ^= b;
    }
}

fn join_base(seq: Seq, chain: &Hash) -> Vec<u8> {
    [&seq.0.to_be_bytes()[..], chain].concat()
}

fn split_base(bytes: &[u8]) -> Option<(Seq, Hash)> {
    let (seq, chain) = bytes.split_first_chunk::<8>()?;
    Some((Seq(u64::from_be_bytes(*seq)), chain.try_into().ok()?))
}

fn sqlite_error(file: &Path, source: rusqlite::Error) -> StoreError {
    let file = file.to_owned();
    match source.sqlite_error_code() {
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => StoreError::Busy { file },
        Some(ErrorCode::DiskFull) => StoreError::Full { file },
        Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => {
            StoreError::Corrupt { file, what: source.to_string() }
        }
        Some(_) | None => StoreError::Sqlite { file, source },
    }
}
