//! A real PostgreSQL below the model. The database's clock is the model's, so that leases end when the program says, and
//! the model stands still while the database works. Each call is made through the connections of the next of three
//! replicas. Turns are those of the ledger in memory: PostgreSQL's poll by the real clock (tests/ledger_postgres has
//! them).

use std::{
    fs,
    future::Future,
    pin::Pin,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
        mpsc,
    },
    time::{Duration, UNIX_EPOCH},
};

use portcullis::{
    clock::Clock,
    ledger::{
        Answer, Filter, Intended, Intent, Ledger, Look, Looked, Move, Record, Terms, Turn,
        memory::Memory,
        postgres::{Postgres, Settings},
    },
    random::SystemRandom,
};
use tokio::{
    runtime::Runtime,
    sync::mpsc::{UnboundedSender, unbounded_channel},
    time::Instant,
};
use tokio_postgres::{Client, NoTls};

use crate::{
    server::Server,
    world::{Time, rest},
};

type Later<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;
type Job = Box<dyn for<'a> FnOnce(&'a Store) -> Later<'a, ()> + Send>;

const REPLICAS: usize = 3;

/// How often it is asked whether a record has changed, by the model's clock.
const POLL: Duration = Duration::from_millis(100);

/// Empties the database for each program; what the one before left is verified first.
pub fn engine() -> impl Fn(&str, Arc<Time>) -> Arc<dyn Ledger> + Send + Sync {
    let runtime = Runtime::new().unwrap();
    let server = Server::start_with(&["fsync=off", "full_page_writes=off"], |folder| {
        // A password is checked by hashing it thousands of times, for each of many connections.
        let trust = "local all all trust\nhost all all 127.0.0.1/32 trust\n";
        fs::write(folder.join("data/pg_hba.conf"), trust).unwrap();
    });
    let last: Mutex<Option<mpsc::Receiver<Vec<String>>>> = Mutex::default();
    let url = server.database().url();
    move |_, time| {
        // Moved in here: it goes with the last program.
        let _ = &server;
        let mut last = last.lock().unwrap();
        if let Some(last) = last.take() {
            assert_eq!(last.recv().unwrap(), [""; 0], "of the program before");
        }
        let url = url.clone();
        let (jobs, mut asked) = unbounded_channel::<Job>();
        let (ready, is_ready) = mpsc::channel();
        let (ended, verified) = mpsc::channel();
        *last = Some(verified);
        runtime.spawn(async move {
            let store = Store::open(&url).await;
            ready.send(()).unwrap();
            while let Some(job) = asked.recv().await {
                job(&store).await;
            }
            // Nobody may be waiting.
            drop(ended.send(store.replicas[0].verify().await.unwrap().findings));
        });
        is_ready.recv().unwrap();
        let turns = Memory::new(Terms::default(), time.clone());
        Arc::new(OnPostgres { jobs, turns, time, next: AtomicUsize::new(0) })
    }
}

struct Store {
    replicas: Vec<Postgres>,
    clock: Client,
}

/// The model's clock is the database's, and nothing is in it.
const OURS: &str = "
    CREATE TABLE IF NOT EXISTS public.clock (millis bigint NOT NULL);
    INSERT INTO public.clock SELECT 0 WHERE NOT EXISTS (SELECT FROM public.clock);
    CREATE OR REPLACE FUNCTION portcullis.now_ms() RETURNS bigint LANGUAGE sql VOLATILE
        AS 'SELECT millis FROM public.clock';
    DO $$
    DECLARE name text;
    BEGIN
        FOR name IN SELECT tablename FROM pg_tables WHERE schemaname = 'portcullis' AND tablename <> 'meta' LOOP
            EXECUTE format('DELETE FROM portcullis.%I', name);
        END LOOP;
    END $$;
    INSERT INTO portcullis.chain VALUES (true, 0, '\\x', 0, '\\x');";

impl Store {
    async fn open(url: &str) -> Self {
        let mut settings = Settings::parse(url).unwrap();
        settings.connections = 2;
        let open = || Postgres::open(&settings, "model", Terms::default(), Arc::new(SystemRandom));
        let mut replicas = Vec::new();
        for _ in 0..REPLICAS {
            replicas.push(open().await.unwrap());
        }
        let (clock, connection) = tokio_postgres::connect(url, NoTls).await.unwrap();
        tokio::spawn(connection);
        clock.batch_execute(OURS).await.unwrap();
        Self { replicas, clock }
    }
}

#[derive(Debug)]
struct OnPostgres {
    jobs: UnboundedSender<Job>,
    turns: Memory,
    time: Arc<Time>,
    next: AtomicUsize,
}

impl OnPostgres {
    /// The thread waits, so the call is made as a whole and no clock goes on.
    fn ask<T, F>(&self, act: F) -> T
    where
        T: Send + 'static,
        F: for<'a> FnOnce(&'a Postgres) -> Later<'a, T> + Send + 'static,
    {
        let replica = self.next.fetch_add(1, Ordering::Relaxed) % REPLICAS;
        let now = self.time.now().duration_since(UNIX_EPOCH).unwrap().as_millis();
        let now = i64::try_from(now).unwrap();
        let (reply, answer) = mpsc::channel();
        let job: Job = Box::new(move |store| {
            Box::pin(async move {
                let set = "UPDATE public.clock SET millis = $1";
                store.clock.execute(set, &[&now]).await.unwrap();
                assert!(reply.send(act(&store.replicas[replica]).await).is_ok());
            })
        });
        assert!(self.jobs.send(job).is_ok());
        answer.recv().unwrap()
    }
}

impl Ledger for OnPostgres {
    fn turn<'a>(&'a self, group: &'a str, until: Instant) -> Answer<'a, Turn> {
        self.turns.turn(group, until)
    }

    fn look<'a>(&'a self, question: &'a Look) -> Answer<'a, Looked> {
        let question = question.clone();
        Box::pin(
            async move { self.ask(|ledger| Box::pin(async move { ledger.look(&question).await })) },
        )
    }

    fn intend<'a>(&'a self, intent: &'a Intent) -> Answer<'a, Intended> {
        let intent = intent.clone();
        Box::pin(
            async move { self.ask(|ledger| Box::pin(async move { ledger.intend(&intent).await })) },
        )
    }

    fn advance<'a>(&'a self, id: &'a str, fence: u64, step: &'a Move) -> Answer<'a, Record> {
        let (id, step) = (id.to_owned(), step.clone());
        Box::pin(async move {
            self.ask(move |ledger| Box::pin(async move { ledger.advance(&id, fence, &step).await }))
        })
    }

    fn take_over<'a>(
        &'a self,
        id: &'a str,
        fence: u64,
        hold: Duration,
    ) -> Answer<'a, Option<Record>> {
        let id = id.to_owned();
        Box::pin(async move {
            self.ask(move |ledger| {
                Box::pin(async move { ledger.take_over(&id, fence, hold).await })
            })
        })
    }

    fn changed<'a>(&'a self, id: &'a str, version: u64) -> Answer<'a, ()> {
        Box::pin(async move {
            let filter = Filter { id: Some(id.to_owned()), limit: 1, ..Filter::default() };
            while self.list(&filter).await?.first().is_some_and(|is| is.version == version) {
                rest(POLL).await;
            }
            Ok(())
        })
    }

    fn list<'a>(&'a self, filter: &'a Filter) -> Answer<'a, Vec<Record>> {
        let filter = filter.clone();
        Box::pin(
            async move { self.ask(|ledger| Box::pin(async move { ledger.list(&filter).await })) },
        )
    }

    fn sweep(&self, limit: usize) -> Answer<'_, usize> {
        Box::pin(async move {
            self.ask(move |ledger| Box::pin(async move { ledger.sweep(limit).await }))
        })
    }

    fn check(&self) -> Answer<'_, ()> {
        Box::pin(async move { self.ask(|ledger| Box::pin(async move { ledger.check().await })) })
    }
}
