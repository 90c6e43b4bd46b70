//! What becomes of calls when the database does not answer, and afterwards.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::Duration,
};

use portcullis::ledger::{Filter, Intended, Intent, Ledger, LedgerError, State};
use tokio::{
    io::copy_bidirectional,
    net::{TcpListener, TcpStream},
    task::AbortHandle,
    time::Instant,
};

use crate::{
    server::{PASSWORD, Server},
    suite::{all, comes, group, id, intent, step, stored, to, write},
    world::{open, open_bounded, shared},
};

/// Long enough for a connection on a busy machine.
const BOUND: Duration = Duration::from_secs(3);

async fn bounded(url: &str) -> Arc<dyn Ledger> {
    Arc::new(open_bounded(url, BOUND).await.unwrap())
}

fn unavailable<T: std::fmt::Debug>(answer: Result<T, LedgerError>) -> String {
    match answer {
        Err(LedgerError::Unavailable(why)) => why,
        other => panic!("{other:?}"),
    }
}

/// Every method says that it cannot.
async fn refuses_everything(ledger: &Arc<dyn Ledger>, known: &portcullis::ledger::Record) {
    let (settle, everything) = (to(State::Succeeded), Filter::default());
    let (new, question) = (intent(900), crate::suite::question(&intent(1)));
    let (id, fence) = (&known.id, known.fence);
    let answers = comes(async {
        tokio::join!(
            async { unavailable(ledger.intend(&new).await) },
            async { unavailable(ledger.advance(id, fence, &settle).await) },
            async { unavailable(ledger.take_over(id, fence, BOUND).await) },
            async { unavailable(ledger.look(&question).await) },
            async { unavailable(ledger.list(&everything).await) },
            async { unavailable(ledger.sweep(1).await) },
            async { unavailable(ledger.check().await) },
            async { unavailable(ledger.changed(id, known.version).await) },
            async {
                let far = Instant::now() + Duration::from_secs(60);
                unavailable(ledger.turn("g", far).await)
            },
        )
    })
    .await;
    let said = format!("{answers:?}");
    assert!(said.contains("PostgreSQL at 127.0.0.1:") && !said.contains(PASSWORD), "{said}");
}

/// It recovers by itself: some call is the first that is answered again.
async fn recovers(ledger: &Arc<dyn Ledger>) {
    comes(async { while ledger.check().await.is_err() {} }).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_paused_database_hangs_nothing() {
    let server = Server::start(&["fsync=off"]);
    let database = server.database();
    let ledger = bounded(&database.url()).await;
    let record = write(&ledger, &intent(1)).await;
    let turn = comes(ledger.turn("held", Instant::now() + BOUND)).await.unwrap();
    server.pause();
    refuses_everything(&ledger, &record).await;
    drop(turn);
    // Many at once, more than there are connections: each ends.
    let calls: Vec<_> = (0..64)
        .map(|n| {
            let ledger = ledger.clone();
            tokio::spawn(async move { ledger.intend(&intent(100 + n)).await })
        })
        .collect();
    for call in calls {
        unavailable(comes(call).await.unwrap());
    }
    server.go_on();
    recovers(&ledger).await;
    let record = stored(&ledger, &record.id).await.unwrap();
    step(&ledger, &record, &to(State::Succeeded)).await;
    comes(ledger.turn("held", Instant::now() + Duration::from_secs(60))).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stopped_database_is_said_and_a_started_one_is_used() {
    let mut server = Server::start(&["fsync=off"]);
    let url = server.database().url();
    let ledger = bounded(&url).await;
    let record = write(&ledger, &intent(1)).await;
    server.stop();
    refuses_everything(&ledger, &record).await;
    server.begin();
    recovers(&ledger).await;
    // The first answer after a stop may still be that of a dead connection.
    let settled = step(&ledger, &record, &to(State::Succeeded)).await;
    assert_eq!(stored(&ledger, &record.id).await, Some(settled));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_acknowledged_survives_a_crash_and_turns_go_on() {
    // With fsync, and a role that would do without.
    let mut server = Server::start(&["synchronous_commit=off", "wal_writer_delay=10s"]);
    let url = server.database().url();
    let ledger = bounded(&url).await;
    let held = comes(ledger.turn("g", Instant::now() + BOUND)).await.unwrap();
    let tasks: Vec<_> = (0..4)
        .map(|task| {
            let ledger = ledger.clone();
            tokio::spawn(async move {
                let mut acknowledged = Vec::new();
                for n in 0..1000 {
                    let n = task * 1000 + n;
                    match ledger.intend(&intent(n)).await {
                        Ok(Intended::Written(_)) => acknowledged.push(id(n)),
                        Ok(other) => panic!("{other:?}"),
                        Err(_) => break,
                    }
                }
                acknowledged
            })
        })
        .collect();
    comes(async { while all(&ledger).await.len() < 50 {} }).await;
    server.kill();
    let mut acknowledged = Vec::new();
    for task in tasks {
        acknowledged.extend(comes(task).await.unwrap());
    }
    assert!(acknowledged.len() >= 50 && acknowledged.len() < 4000, "{}", acknowledged.len());
    server.begin();
    recovers(&ledger).await;
    for id in acknowledged {
        assert!(stored(&ledger, &id).await.is_some(), "{id} is lost");
    }
    // The table of turns is empty after a crash. That the holder is not first any more is not the next one's harm.
    comes(ledger.turn("h", Instant::now() + Duration::from_secs(60))).await.unwrap();
    drop(held);
    comes(ledger.turn("g", Instant::now() + Duration::from_secs(60))).await.unwrap();
}

/// A commit waits for the log to be on disk although the role's default does not; a turn does not.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn commits_wait_for_the_disk_and_turns_do_not() {
    let server =
        Server::start(&["synchronous_commit=off", "wal_writer_delay=10s", "autovacuum=off"]);
    let database = server.database();
    let ledger = bounded(&database.url()).await;
    let flushed =
        || database.psql("SELECT pg_current_wal_flush_lsn() = pg_current_wal_insert_lsn()");
    let lag = "CREATE TABLE IF NOT EXISTS lag (n int); INSERT INTO lag VALUES (1); INSERT INTO lag VALUES (2)";
    for n in 0..3 {
        database.psql(lag);
        assert_eq!(flushed(), "f", "the role's commits wait as well: this shows nothing");
        write(&ledger, &intent(n)).await;
        assert_eq!(flushed(), "t", "the intent's commit did not wait");
    }
    // What seals the intents waits for the disk, too.
    comes(async { while database.psql("SELECT count(*) FROM portcullis.tail") != "0" {} }).await;
    let end = || database.psql("SELECT pg_current_wal_flush_lsn()");
    database.psql(lag);
    let before = end();
    for _ in 0..3 {
        drop(comes(ledger.turn("g", Instant::now() + BOUND)).await.unwrap());
    }
    assert_eq!(end(), before, "a turn waits for the disk");
}

/// A way to the server that can be cut.
struct Proxy {
    address: SocketAddr,
    open: Arc<Mutex<Vec<AbortHandle>>>,
    listens: AbortHandle,
}

impl Proxy {
    async fn to(server: String, at: SocketAddr) -> Self {
        let listener = TcpListener::bind(at).await.unwrap();
        let address = listener.local_addr().unwrap();
        let open: Arc<Mutex<Vec<AbortHandle>>> = Arc::default();
        let connections = open.clone();
        let listens = tokio::spawn(async move {
            loop {
                let (mut near, _) = listener.accept().await.unwrap();
                let server = server.clone();
                let pipe = tokio::spawn(async move {
                    let mut far = TcpStream::connect(server).await.unwrap();
                    drop(copy_bidirectional(&mut near, &mut far).await);
                });
                connections.lock().unwrap().push(pipe.abort_handle());
            }
        });
        Self { address, open, listens: listens.abort_handle() }
    }

    fn cut(&self) {
        self.open.lock().unwrap().drain(..).for_each(|pipe| pipe.abort());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cut_connections_are_made_again() {
    let database = shared().database();
    let proxy = Proxy::to(shared().address(), "127.0.0.1:0".parse().unwrap()).await;
    let url = database.url_at(&proxy.address.to_string(), "postgres");
    let ledger: Arc<dyn Ledger> = Arc::new(open(&url).await.unwrap());
    let mut written = Vec::new();
    for round in 0..5 {
        let tasks: Vec<_> = (0..20)
            .map(|n| {
                let (ledger, n) = (ledger.clone(), round * 100 + n);
                tokio::spawn(async move { (n, ledger.intend(&intent(n)).await) })
            })
            .collect();
        tokio::task::yield_now().await;
        proxy.cut();
        for task in tasks {
            match comes(task).await.unwrap() {
                (n, Ok(Intended::Written(_))) => written.push(id(n)),
                (_, Err(LedgerError::Unavailable(_))) => {}
                other => panic!("{other:?}"),
            }
        }
        recovers(&ledger).await;
        write(&ledger, &intent(round * 100 + 50)).await;
    }
    for id in written {
        assert!(stored(&ledger, &id).await.is_some(), "{id} is lost");
    }
    // Nobody listens any more, then somebody does again.
    let address = proxy.address;
    proxy.listens.abort();
    proxy.cut();
    comes(async { while ledger.check().await.is_ok() {} }).await;
    let _proxy = comes(async {
        while std::net::TcpStream::connect(address).is_ok() {}
        Proxy::to(shared().address(), address).await
    })
    .await;
    recovers(&ledger).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lock_of_an_administrator_hangs_nothing() {
    let database = shared().database();
    let ledger = bounded(&database.url()).await;
    let record = write(&ledger, &intent(1)).await;
    let url = database.url();
    let (mut locks, _connection) = raw(&url).await;
    let lock = locks.transaction().await.unwrap();
    lock.batch_execute("LOCK TABLE portcullis.records IN ACCESS EXCLUSIVE MODE").await.unwrap();
    unavailable(comes(ledger.intend(&Intent { group: group(7), ..intent(2) })).await);
    unavailable(comes(ledger.advance(&record.id, record.fence, &to(State::Succeeded))).await);
    // A read waits for as long as a call may take.
    unavailable(comes(ledger.list(&Filter::default())).await);
    // What was given up does not stay in the server, waiting for the lock: it was told to stop.
    let waits = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'";
    comes(async { while database.psql(waits) != "0" {} }).await;
    lock.rollback().await.unwrap();
    recovers(&ledger).await;
    step(&ledger, &record, &to(State::Succeeded)).await;
    assert_eq!(stored(&ledger, &id(2)).await, None, "it was written after it had been given up");
}

async fn raw(url: &str) -> (tokio_postgres::Client, AbortHandle) {
    let (client, connection) = tokio_postgres::connect(url, tokio_postgres::NoTls).await.unwrap();
    let task = tokio::spawn(async move { drop(connection.await) });
    (client, task.abort_handle())
}
