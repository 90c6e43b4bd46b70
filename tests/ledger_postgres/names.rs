//! Writes have named statements, until a pooler loses one.

use std::sync::Arc;

use portcullis::ledger::{Ledger, State};
use tokio_postgres::{NoTls, SimpleQueryMessage};

use crate::{
    bouncer::one_session,
    suite::{all, intent, step, to, write},
    world::{open, shared},
};

/// The first column of what it answers, in the session that everybody has.
async fn run(url: &str, sql: &str) -> Vec<String> {
    let (client, connection) = tokio_postgres::connect(url, NoTls).await.unwrap();
    tokio::spawn(async move { drop(connection.await) });
    let said = client.simple_query(sql).await.unwrap();
    let rows = said.iter().filter_map(|said| match said {
        SimpleQueryMessage::Row(row) => Some(row.get(0).unwrap().to_owned()),
        _ => None,
    });
    rows.collect()
}

/// What the statement that writes is called there.
async fn names(url: &str) -> Vec<String> {
    let names =
        "SELECT name FROM pg_prepared_statements WHERE statement LIKE '%portcullis.write(%'";
    run(url, names).await
}

/// What may stand under a name when it is not what was put there.
const OTHERS: [(&str, &str); 4] = [
    ("nothing", "DEALLOCATE NAME"),
    ("fewer parameters", "DEALLOCATE NAME; PREPARE NAME (int) AS SELECT $1"),
    ("arrays", "DEALLOCATE NAME; PREPARE NAME (ARRAYS) AS SELECT $1"),
    ("numbers", "DEALLOCATE NAME; PREPARE NAME (NUMBERS) AS SELECT $22"),
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_name_that_is_lost_costs_no_write() {
    for (what, change) in OTHERS {
        let database = shared().database();
        let url = database.url_at(&one_session().address(), "postgres");
        let ledger: Arc<dyn Ledger> = Arc::new(open(&url).await.unwrap());
        // The first of a ledger looks before it writes, and what the database's clock says is known from then on.
        let mut record = write(&ledger, &intent(1)).await;
        let had = names(&url).await;
        assert_eq!(had.len(), 1, "{what}: a name");
        let change = change
            .replace("NAME", &had[0])
            .replace("ARRAYS", &["text[]"; 22].join(", "))
            .replace("NUMBERS", &["int"; 22].join(", "));
        run(&url, &change).await;
        record = step(&ledger, &record, &to(State::Succeeded)).await;
        assert_eq!((record.version, record.state), (2, State::Succeeded), "{what}");
        write(&ledger, &intent(2)).await;
        assert_eq!(all(&ledger).await.len(), 2, "{what}");
        assert!(names(&url).await.is_empty(), "{what}: no new name");
        let events = "SELECT (SELECT count(*) FROM portcullis.tail) + (SELECT count(*) FROM portcullis.events)";
        assert_eq!(run(&url, events).await, ["3"], "{what}: each was written once");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_name_that_is_taken_costs_no_write() {
    let database = shared().database();
    let url = database.url_at(&one_session().address(), "postgres");
    let ledger: Arc<dyn Ledger> = Arc::new(open(&url).await.unwrap());
    write(&ledger, &intent(1)).await;
    // Names are numbers that rise in the process: the next ones.
    let [name] = &*names(&url).await else { panic!("a name") };
    let next: u32 = name.strip_prefix('s').unwrap().parse().unwrap();
    let taken: String =
        (next + 1..next + 3000).map(|n| format!("PREPARE s{n} AS SELECT 1;")).collect();
    run(&url, &taken).await;
    let ledger: Arc<dyn Ledger> = Arc::new(open(&url).await.unwrap());
    write(&ledger, &intent(2)).await;
    assert_eq!(names(&url).await, std::slice::from_ref(name));
    assert_eq!(all(&ledger).await.len(), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn names_can_be_forbidden() {
    let database = shared().database();
    let url = database.url_at(&one_session().address(), "postgres");
    let ledger: Arc<dyn Ledger> =
        Arc::new(open(&format!("{url}&prepared_statements=false")).await.unwrap());
    write(&ledger, &intent(1)).await;
    assert!(names(&url).await.is_empty());
}
