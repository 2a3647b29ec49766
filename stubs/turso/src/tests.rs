//! The statements are those of `cubecl-environment`.

use core::future::Future;
use core::pin::pin;
use core::task::{Context, Poll, Waker};
use std::path::Path;
use std::time::{Duration, Instant};

use crate::transaction::TransactionBehavior;
use crate::{Builder, Connection, Database, Error, Result};

const TABLE: &str = "CREATE TABLE IF NOT EXISTS entries (namespace TEXT NOT NULL, key BLOB NOT NULL, \
     value BLOB NOT NULL, origin INTEGER NOT NULL, PRIMARY KEY (namespace, key))";
const INSERT: &str = "INSERT INTO entries (namespace, key, value, origin) VALUES (?1, ?2, ?3, ?4) \
     ON CONFLICT(namespace, key) DO UPDATE SET value = excluded.value, origin = excluded.origin \
     WHERE entries.origin = 1 AND excluded.origin = 0";
const SELECT: &str = "SELECT value FROM entries WHERE namespace = ?1 AND key = ?2";
const SUMMARY: &str = "SELECT namespace, COUNT(*), SUM(length(key) + length(value)) FROM entries \
     GROUP BY namespace ORDER BY namespace";

/// The output of a future that is ready at once.
fn now<T>(future: impl Future<Output = T>) -> T {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(output) => output,
        Poll::Pending => panic!("every future here is ready"),
    }
}

fn open(path: &Path, read_only: bool) -> Result<Database> {
    let builder = Builder::new_local(path.to_str().unwrap()).read_only(read_only);
    now(builder.experimental_multiprocess_wal(true).build())
}

fn connect(path: &Path) -> Connection {
    let connection = open(path, false).unwrap().connect().unwrap();
    now(connection.pragma_query("synchronous = NORMAL", |_| Ok(()))).unwrap();
    now(connection.execute(TABLE, ())).unwrap();
    connection
}

fn insert(connection: &Connection, key: &[u8], value: &[u8], origin: i64) -> Result<u64> {
    now(connection.execute(INSERT, ("cuda/sm_90", key.to_vec(), value.to_vec(), origin)))
}

fn get(connection: &Connection, key: &[u8]) -> Option<Vec<u8>> {
    let mut rows = now(connection.query(SELECT, ("cuda/sm_90", key.to_vec()))).unwrap();
    now(rows.next()).unwrap().map(|row| row.get(0).unwrap())
}

#[test]
fn a_value_stays_unless_it_was_imported() {
    let folder = tempfile::tempdir().unwrap();
    let connection = connect(&folder.path().join("a.db"));
    assert_eq!(insert(&connection, b"k", b"imported", 1).unwrap(), 1);
    assert_eq!(insert(&connection, b"k", b"local", 0).unwrap(), 1);
    assert_eq!(insert(&connection, b"k", b"other", 0).unwrap(), 0);
    assert_eq!(insert(&connection, b"k", b"other", 1).unwrap(), 0);
    assert_eq!(get(&connection, b"k"), Some(b"local".to_vec()));
    assert_eq!(get(&connection, b"l"), None);

    let mut rows = now(connection.query(SUMMARY, ())).unwrap();
    let row = now(rows.next()).unwrap().unwrap();
    assert_eq!(row.get::<String>(0).unwrap(), "cuda/sm_90");
    assert_eq!((row.get::<i64>(1).unwrap(), row.get::<i64>(2).unwrap()), (1, 6));
    assert!(row.get::<i64>(0).is_err() && row.get::<i64>(3).is_err());
    assert!(now(rows.next()).unwrap().is_none());
}

#[test]
fn a_transaction_counts_as_a_whole() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.db");
    let (mut connection, other) = (connect(&path), connect(&path));
    let transaction =
        now(connection.transaction_with_behavior(TransactionBehavior::Immediate)).unwrap();
    insert(&transaction, b"k", b"1", 0).unwrap();
    drop(transaction);
    assert_eq!(get(&other, b"k"), None);

    let transaction =
        now(connection.transaction_with_behavior(TransactionBehavior::Immediate)).unwrap();
    insert(&transaction, b"k", b"2", 0).unwrap();
    assert_eq!(get(&other, b"k"), None);
    now(transaction.commit()).unwrap();
    assert_eq!(get(&other, b"k"), Some(b"2".to_vec()));
}

#[test]
fn a_writer_waits_for_another_and_then_says_busy() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.db");
    let (mut connection, mut other) = (connect(&path), connect(&path));
    other.busy_timeout(Duration::from_millis(100)).unwrap();
    let transaction =
        now(connection.transaction_with_behavior(TransactionBehavior::Immediate)).unwrap();
    let start = Instant::now();
    assert!(matches!(insert(&other, b"k", b"1", 0), Err(Error::Busy(_))));
    assert!(start.elapsed() >= Duration::from_millis(90));
    let second = now(other.transaction_with_behavior(TransactionBehavior::Immediate));
    assert!(matches!(second, Err(Error::Busy(_))));
    drop(second);
    drop(transaction);
    assert_eq!(insert(&other, b"k", b"1", 0).unwrap(), 1);
}

#[test]
fn many_writers_lose_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.db");
    std::thread::scope(|scope| {
        for writer in 0..8u8 {
            let path = &path;
            scope.spawn(move || {
                let connection = connect(path);
                for key in 0..25 {
                    assert_eq!(insert(&connection, &[writer, key], &[7; 9000], 0).unwrap(), 1);
                    // The same for all: exactly one wins.
                    insert(&connection, &[key], &[writer], 0).unwrap();
                }
            });
        }
    });
    let connection = connect(&path);
    let mut rows = now(connection.query(SUMMARY, ())).unwrap();
    assert_eq!(now(rows.next()).unwrap().unwrap().get::<i64>(1).unwrap(), 225);
}

#[test]
fn a_file_to_read_is_neither_made_nor_changed() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.db");
    assert!(open(&path, true).is_err() && !path.exists());
    insert(&connect(&path), b"k", b"1", 0).unwrap();
    let reader = open(&path, true).unwrap().connect().unwrap();
    assert_eq!(get(&reader, b"k"), Some(b"1".to_vec()));
    assert!(insert(&reader, b"l", b"1", 0).is_err());
    let none = now(reader.query("SELECT v FROM meta WHERE k = ?1", ("schema_version",)));
    assert!(none.unwrap_err().to_string().contains("no such table"));
}

#[test]
fn one_file_holds_everything_as_its_header_says() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.db");
    let connection = connect(&path);
    insert(&connection, b"k", b"1", 0).unwrap();
    let mut busy = Vec::new();
    let visit = |row: &crate::Row| {
        busy.push(row.get::<i64>(0)?);
        Ok(())
    };
    now(connection.pragma_query("wal_checkpoint(TRUNCATE)", visit)).unwrap();
    assert_eq!(busy, [0]);
    // What `cubecl-environment` writes there to mark a file without a log beside it.
    assert_eq!(std::fs::read(&path).unwrap()[18..20], [1, 1]);
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
}

#[test]
fn a_damaged_file_is_emptied_if_it_may_be_written() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.db");
    let damages: [fn(&mut Vec<u8>); 4] = [
        |bytes| bytes[..100].fill(b'x'),
        |bytes| bytes[4096..].fill(0xA5),
        |bytes| bytes.truncate(bytes.len() / 2),
        |bytes| *bytes = b"no database\n".repeat(9000),
    ];
    for damage in damages {
        let connection = connect(&path);
        for key in 0..50 {
            insert(&connection, &[key], &[key; 3000], 0).unwrap();
        }
        drop(connection);
        let mut bytes = std::fs::read(&path).unwrap();
        damage(&mut bytes);
        std::fs::write(&path, bytes).unwrap();
        assert!(matches!(open(&path, true), Err(Error::Corrupt(_))));
        let connection = connect(&path);
        assert_eq!(get(&connection, &[3]), None);
        assert_eq!(insert(&connection, &[3], b"new", 0).unwrap(), 1);
        assert_eq!(get(&connect(&path), &[3]), Some(b"new".to_vec()));
    }
}

#[test]
fn notes_on_sources_are_not_kept() {
    let folder = tempfile::tempdir().unwrap();
    let connection = connect(&folder.path().join("a.db"));
    let row = ("cuda-second-line/0.11.3/ptx_sm90-cpp", b"k".to_vec(), b"v".to_vec(), 0);
    assert_eq!(now(connection.execute(INSERT, row)).unwrap(), 1);
    let mut rows = now(connection.query(SUMMARY, ())).unwrap();
    assert!(now(rows.next()).unwrap().is_none());
}
