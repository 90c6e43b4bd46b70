//! What is refused at open, with what words.

use std::{
    io,
    sync::{Arc, Mutex},
    time::Duration,
};

use portcullis::{
    ledger::{
        Filter, Ledger, Terms,
        postgres::{OpenError, Postgres, Settings},
    },
    random::SystemRandom,
    telemetry::metrics::Metrics,
};

use crate::{
    server::{Database, PASSWORD, Server},
    suite::{TERMS, intent, write},
    world::{BACKEND, ledger, open, shared},
};

/// Opens it, sees it refused, and gives the words.
async fn refused(url: &str) -> (OpenError, String) {
    let error = open(url).await.unwrap_err();
    let words = error.to_string();
    assert!(!format!("{words} {error:?}").contains(PASSWORD), "{words}");
    (error, words)
}

fn role(database: &Database<'_>, name: &str, and: &str) -> String {
    let role = format!("{}_{name}", database.name);
    database.psql(
        &format!("CREATE ROLE {role} LOGIN PASSWORD '{PASSWORD}'; {and}").replace("ROLE_", &role),
    );
    role
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_replicas_open_an_empty_database_at_once() {
    let database = shared().database();
    let tasks: Vec<_> = (0..8)
        .map(|_| {
            let url = database.url();
            tokio::spawn(async move { open(&url).await.unwrap() })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
    assert_eq!(
        database.psql("SELECT schema_version, backend FROM portcullis.meta"),
        format!("4|{BACKEND}")
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_older_schema_is_brought_up_to_date() {
    let database = shared().database();
    database.psql("CREATE SCHEMA portcullis");
    for version in [
        include_str!("../../src/ledger/postgres/schema.sql"),
        include_str!("../../src/ledger/postgres/schema_2.sql"),
    ] {
        database.psql(version);
    }
    database.psql(&format!(
        "INSERT INTO portcullis.meta (schema_version, backend) VALUES (2, '{BACKEND}')"
    ));
    let ledger: Arc<dyn Ledger> = Arc::new(open(&database.url()).await.unwrap());
    write(&ledger, &intent(1)).await;
    assert_eq!(database.psql("SELECT schema_version FROM portcullis.meta"), "4");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_newer_schema_is_refused() {
    let database = shared().database();
    drop(open(&database.url()).await.unwrap());
    database.psql("UPDATE portcullis.meta SET schema_version = 5");
    let (error, words) = refused(&database.url()).await;
    assert!(matches!(error, OpenError::Newer { found: 5, .. }), "{error:?}");
    assert!(words.contains("schema version 5, and this program knows 4"), "{words}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_schema_of_somebody_else_is_refused_and_left_alone() {
    for made in [
        "CREATE TABLE portcullis.things (a int)",
        "CREATE TABLE portcullis.meta (a int)",
        "CREATE TABLE portcullis.meta (schema_version text, backend int); INSERT INTO portcullis.meta VALUES ('1', 1)",
        "CREATE TABLE portcullis.meta (schema_version int, backend text)",
    ] {
        let database = shared().database();
        database.psql(&format!("CREATE SCHEMA portcullis; {made}"));
        let (error, words) = refused(&database.url()).await;
        assert!(matches!(error, OpenError::Foreign(_)), "{made}: {error:?}");
        assert!(words.contains("use another database"), "{words}");
        let tables = "SELECT count(*) FROM pg_tables WHERE schemaname = 'portcullis'";
        assert_eq!(database.psql(tables), "1");
    }
    // A whole meta table, and nothing else.
    let database = shared().database();
    drop(open(&database.url()).await.unwrap());
    database.psql("DROP TABLE portcullis.records");
    assert!(matches!(refused(&database.url()).await.0, OpenError::Foreign(_)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_backend_is_refused() {
    let database = shared().database();
    drop(open(&database.url()).await.unwrap());
    let settings = Settings::parse(&database.url()).unwrap();
    let other = Postgres::open(&settings, "sandbox", TERMS, Arc::new(SystemRandom)).await;
    let words = other.unwrap_err().to_string();
    assert!(
        words.contains(&format!("belongs to the backend `{BACKEND}`, not to `sandbox`")),
        "{words}"
    );
    open(&database.url()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_role_without_rights_is_told_which() {
    let database = shared().database();
    let address = shared().address();
    let nobody = role(&database, "nobody", "");
    let url = database.url_at(&address, &nobody);
    let (error, words) = refused(&url).await;
    assert!(matches!(error, OpenError::Rights(_)), "{error:?}");
    let wanted = format!(
        "CREATE SCHEMA portcullis AUTHORIZATION \"{nobody}\" in database \"{}\"",
        database.name
    );
    assert!(words.contains("permission denied") && words.contains(&wanted), "{words}");

    // Made by an administrator, it is used by a role that may not make anything.
    drop(open(&database.url()).await.unwrap());
    let (error, words) = refused(&url).await;
    assert!(matches!(error, OpenError::Rights(_)), "{error:?}");
    assert!(words.contains("GRANT USAGE ON SCHEMA portcullis"), "{words}");
    database.psql(&format!("GRANT USAGE ON SCHEMA portcullis TO {nobody}; GRANT SELECT ON ALL TABLES IN SCHEMA portcullis TO {nobody}"));
    let (error, words) = refused(&url).await;
    assert!(matches!(error, OpenError::Rights(_)), "{error:?}");
    assert!(
        words.contains("INSERT on portcullis.records") && words.contains("GRANT SELECT, INSERT"),
        "{words}"
    );
    database.psql(&format!(
        "GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA portcullis TO {nobody}"
    ));
    let ledger = ledger(&url).await;
    write(&ledger, &intent(1)).await;
    ledger.sweep(10).await.unwrap();
    ledger.check().await.unwrap();

    // And a role that was given the schema makes the rest itself.
    let database = shared().database();
    let owner = role(&database, "owner", "CREATE SCHEMA portcullis AUTHORIZATION ROLE_");
    let ledger = self::ledger(&database.url_at(&address, &owner)).await;
    write(&ledger, &intent(1)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_that_cannot_hold_a_ledger_is_refused() {
    let database = shared().database();
    let (name, address) = (&database.name, shared().address());
    database.psql(&format!("ALTER DATABASE {name} SET default_transaction_read_only = on"));
    let (error, words) = refused(&database.url()).await;
    assert!(matches!(error, OpenError::Server(_)), "{error:?}");
    assert!(words.contains("standby or read-only"), "{words}");
    shared().psql(
        "postgres",
        &format!("CREATE DATABASE {name}_latin ENCODING 'LATIN1' TEMPLATE template0"),
    );
    let url =
        database.url().replace(&format!("{address}/{name}"), &format!("{address}/{name}_latin"));
    let (error, words) = refused(&url).await;
    assert!(matches!(error, OpenError::Server(_)) && words.contains("not UTF8"), "{error:?}");
    let (error, words) = refused(&database.url().replace("/test_", "/no_such_")).await;
    assert!(
        matches!(error, OpenError::Unreachable(_)) && words.contains("does not exist"),
        "{error:?}"
    );
    let (error, words) = refused(&database.url_at("127.0.0.1:1", "postgres")).await;
    assert!(matches!(error, OpenError::Unreachable(_)), "{error:?}");
    assert!(words.contains("PostgreSQL at 127.0.0.1:1/"), "{words}");
}

/// A primary becomes a standby: a call says so and the connection is not used again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_becomes_read_only_is_left() {
    let database = shared().database();
    let ledger = ledger(&database.url()).await;
    write(&ledger, &intent(1)).await;
    let name = &database.name;
    let others = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity
        WHERE datname = current_database() AND pid <> pg_backend_pid()";
    database
        .psql(&format!("ALTER DATABASE {name} SET default_transaction_read_only = on; {others}"));
    let mut failed = String::new();
    // Dead connections first.
    while !failed.contains("read-only") {
        failed = ledger.check().await.unwrap_err().to_string();
    }
    shared()
        .psql("postgres", &format!("ALTER DATABASE {name} RESET default_transaction_read_only"));
    while ledger.check().await.is_err() {}
    write(&ledger, &intent(2)).await;
}

/// What is logged, as text.
#[derive(Clone, Default)]
struct Logged(Arc<Mutex<Vec<u8>>>);

impl io::Write for Logged {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Logged {
    fn text(&self) -> String {
        String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
    }
}

/// All tests of this program log to one place: what any of them has shown so far is looked through.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_password_is_shown_nowhere() {
    let logged = Logged::default();
    let to = logged.clone();
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(tracing::Level::TRACE)
        .with_ansi(false)
        .with_writer(move || to.clone())
        .finish();
    tracing::subscriber::set_global_default(subscriber).unwrap();
    let mut server = Server::start(&["fsync=off"]);
    let url = server.database().url();
    let settings = Settings::parse(&url).unwrap();
    let ledger = Postgres::open(&settings, BACKEND, TERMS, Arc::new(SystemRandom)).await.unwrap();
    let shown = format!("{settings:?} {ledger:?}");
    assert!(shown.contains("127.0.0.1") && !shown.contains(PASSWORD), "{shown}");
    server.stop();
    let error = ledger.list(&Filter::default()).await.unwrap_err();
    assert!(!format!("{error} {error:?}").contains(PASSWORD), "{error}");
    let (_, words) = refused(&url).await;
    assert!(words.contains("PostgreSQL at 127.0.0.1:"), "{words}");
    let text = logged.text();
    // That fsync is off is said; and it shows that this log is the one.
    assert!(text.contains("fsync is off"), "{text}");
    assert!(!text.contains(PASSWORD), "{text}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_wrong_password_is_said_without_it() {
    let database = shared().database();
    let url = database.url().replace(PASSWORD, "wrong-horse");
    let error = open(&url).await.unwrap_err();
    let words = format!("{error} {error:?}");
    assert!(words.contains("password authentication failed for user \"postgres\""), "{words}");
    assert!(!words.contains("wrong-horse"), "{words}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_socket_in_the_file_system_will_do() {
    let database = shared().database();
    let port = shared().address().rsplit_once(':').unwrap().1.to_owned();
    let folder = shared().folder().display().to_string().replace('/', "%2F");
    let url = format!("postgres://postgres:{PASSWORD}@{folder}:{port}/{}", database.name);
    let ledger = ledger(&url).await;
    write(&ledger, &intent(1)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stricter_transactions_of_the_role_are_no_harm() {
    let database = shared().database();
    let name = &database.name;
    database
        .psql(&format!("ALTER DATABASE {name} SET default_transaction_isolation = 'serializable'"));
    let ledger = ledger(&database.url()).await;
    let tasks: Vec<_> = (0..30)
        .map(|n| {
            let ledger = ledger.clone();
            tokio::spawn(async move {
                let record = write(&ledger, &intent(n)).await;
                crate::suite::step(
                    &ledger,
                    &record,
                    &crate::suite::to(portcullis::ledger::State::Succeeded),
                )
                .await;
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
    let short = Terms { record_retention: Duration::ZERO, ..TERMS };
    let settings = Settings::parse(&database.url()).unwrap();
    let sweeps = Postgres::open(&settings, BACKEND, short, Arc::new(SystemRandom)).await.unwrap();
    assert_eq!(sweeps.sweep(100).await.unwrap(), 30);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn its_commits_are_counted() {
    let database = shared().database();
    let metrics = Metrics::open(|readers| readers).unwrap();
    let ledger: Arc<dyn Ledger> = Arc::new(open(&database.url()).await.unwrap().counted(&metrics));
    let record = write(&ledger, &intent(1)).await;
    crate::suite::step(&ledger, &record, &crate::suite::to(portcullis::ledger::State::Succeeded))
        .await;
    let text = metrics.text().unwrap();
    for name in ["duration_seconds_count", "writes_count", "writes_sum"] {
        let line = format!("portcullis_ledger_commit_{name}{{engine=\"postgres\"}} 2\n");
        assert!(text.contains(&line), "{line}{text}");
    }
}
