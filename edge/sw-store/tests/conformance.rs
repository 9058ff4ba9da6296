//! What every store must do, asked of each in turn; and what SQLite must notice.
#![expect(clippy::unwrap_used, reason = "tests, in their helpers too")]

use std::path::{Path, PathBuf};

use sw_store::{MemoryStore, Seq, SqliteStore, Store, StoreError};
use sw_tailnet::{Change, Entry, Ids, Pool, Role, Settings, User};
use sw_types::{NodeId, UnixTime, UserId};

struct Dir(PathBuf);

impl Dir {
    fn new(name: &str) -> Self {
        let dir = std::env::temp_dir().join(format!("sw-store-{name}-{}", std::process::id()));
        drop(std::fs::remove_dir_all(&dir));
        std::fs::create_dir(&dir).unwrap();
        Self(dir)
    }

    fn db(&self) -> PathBuf {
        self.0.join("control.db")
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        drop(std::fs::remove_dir_all(&self.0));
    }
}

fn entry(user: i64) -> Entry {
    let record = User {
        id: UserId(user),
        name: format!("user{user}"),
        email: None,
        display_name: "x".repeat(200),
        picture: None,
        role: Role::Member,
        suspended: false,
        provider: None,
        groups: Vec::new(),
        passkeys: Vec::new(),
        created: UnixTime::from_secs(1),
    };
    let settings = Settings::new("S1".to_owned(), Pool::default());
    let changes = vec![
        Change::Settings(Some(Box::new(settings))),
        Change::NextIds(Ids { user: user + 1, ..Ids::default() }),
        Change::User(UserId(user), Some(Box::new(record))),
    ];
    Entry { at: UnixTime::from_secs(1), actor: "test".to_owned(), audit: Vec::new(), changes }
}

fn users(store: &mut dyn Store) -> usize {
    store.load().unwrap().records.iter().filter(|c| matches!(c, Change::User(..))).count()
}

/// The suite; a new back end joins by being handed in.
fn conforms(store: &mut dyn Store) {
    assert_eq!(store.load().unwrap().seq, Seq(0));
    assert_eq!(store.append(Seq(0), &[entry(1), entry(2)]).unwrap(), Seq(2));
    assert!(matches!(store.append(Seq(0), &[entry(3)]), Err(StoreError::Moved { found: Seq(2), .. })));
    assert_eq!(users(store), 2, "a refused append leaves nothing");
    assert_eq!(store.append(Seq(2), &[entry(3)]).unwrap(), Seq(3));
    let removal = Entry { changes: vec![Change::User(UserId(2), None)], ..entry(2) };
    assert_eq!(store.append(Seq(3), &[removal]).unwrap(), Seq(4));
    assert_eq!(users(store), 2);
    let newest: Vec<Seq> = store.entries_before(None, 2).unwrap().into_iter().map(|(seq, _)| seq).collect();
    assert_eq!(newest, [Seq(4), Seq(3)]);
    let after: Vec<Seq> = store.entries_after(Seq(1), 2).unwrap().into_iter().map(|(seq, _)| seq).collect();
    assert_eq!(after, [Seq(2), Seq(3)]);
    store.put_volatile(&[(NodeId(7), Some("{}".to_owned())), (NodeId(8), Some("[]".to_owned()))]).unwrap();
    store.put_volatile(&[(NodeId(8), None)]).unwrap();
    assert_eq!(store.load().unwrap().volatile, [(NodeId(7), "{}".to_owned())]);
    store.trim(Seq(2)).unwrap();
    assert_eq!(store.entries_after(Seq(0), 9).unwrap().len(), 2);
    assert_eq!(users(store), 2, "records stay when the log is trimmed");
    assert_eq!(store.append(Seq(4), &[entry(9)]).unwrap(), Seq(5));
}

#[test]
fn memory_conforms() {
    conforms(&mut MemoryStore::default());
}

#[test]
fn sqlite_conforms() {
    let dir = Dir::new("conforms");
    conforms(&mut SqliteStore::open(&dir.db()).unwrap());
    let mut again = SqliteStore::open(&dir.db()).unwrap();
    assert_eq!(again.load().unwrap().seq, Seq(5), "it is all there after a restart");
}

#[test]
fn a_second_server_on_the_same_file_is_refused() {
    let dir = Dir::new("second");
    let mut first = SqliteStore::open(&dir.db()).unwrap();
    first.append(Seq(0), &[]).unwrap();
    assert!(matches!(SqliteStore::open(&dir.db()), Err(StoreError::Busy { .. })));
}

fn filled(file: &Path) -> Seq {
    let mut store = SqliteStore::open(file).unwrap();
    store.load().unwrap();
    let entries: Vec<Entry> = (1..=200).map(entry).collect();
    store.append(Seq(0), &entries).unwrap()
}

fn opens(file: &Path) -> Result<(Seq, usize), StoreError> {
    let mut store = SqliteStore::open(file)?;
    let loaded = store.load()?;
    let users = loaded.records.iter().filter(|c| matches!(c, Change::User(..))).count();
    Ok((loaded.seq, users))
}

#[test]
fn a_flipped_byte_is_refused_or_does_not_matter_and_restore_brings_it_back() {
    let dir = Dir::new("flip");
    let seq = filled(&dir.db());
    let backup = dir.0.join("backup.db");
    {
        let mut store = SqliteStore::open(&dir.db()).unwrap();
        store.load().unwrap();
        store.backup(&backup).unwrap();
    }
    let good = std::fs::read(&backup).unwrap();
    let (mut refused, mut harmless) = (0, 0);
    for at in (0..good.len()).step_by(good.len() / 150) {
        let mut bad = good.clone();
        bad[at] ^= 0x41;
        std::fs::write(dir.db(), &bad).unwrap();
        for suffix in ["-wal", "-shm"] {
            drop(std::fs::remove_file(dir.0.join(format!("control.db{suffix}"))));
        }
        match opens(&dir.db()) {
            Ok(found) => {
                assert_eq!(found, (seq, 200), "damage at {at} was served");
                harmless += 1;
            }
            Err(error) => {
                assert!(error.to_string().contains("control.db"), "{error}");
                refused += 1;
            }
        }
    }
    println!("{refused} of {} flips refused, {harmless} lay in unused bytes", refused + harmless);
    assert!(refused > harmless);
    assert_eq!(sw_store::restore(&backup, &dir.db(), &dir.0.join("control.keys")).unwrap(), seq);
    assert_eq!(opens(&dir.db()).unwrap(), (seq, 200));
}

#[test]
fn an_older_or_emptied_database_is_refused() {
    let dir = Dir::new("older");
    filled(&dir.db());
    let mut old = SqliteStore::open(&dir.db()).unwrap();
    old.load().unwrap();
    let copy = dir.0.join("copy.db");
    old.backup(&copy).unwrap();
    old.append(Seq(200), &[entry(201)]).unwrap();
    drop(old);
    for suffix in ["-wal", "-shm"] {
        drop(std::fs::remove_file(dir.0.join(format!("control.db{suffix}"))));
    }
    std::fs::copy(&copy, dir.db()).unwrap();
    assert!(opens(&dir.db()).is_err_and(|error| error.to_string().contains("201 was acknowledged")));
    std::fs::write(dir.db(), b"").unwrap();
    assert!(opens(&dir.db()).is_err(), "an empty file is not a new network");
    std::fs::remove_file(dir.db()).unwrap();
    assert!(opens(&dir.db()).is_err(), "a missing file is not a new network");
}
