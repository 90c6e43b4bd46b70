//! A replica's line to the ledger: any call may fail, be done and fail, be done twice, hang, or be the replica's last.

use std::{
    future::{Future, pending},
    sync::{Arc, Mutex},
    time::Duration,
};

use portcullis::ledger::{
    Answer, Filter, Held, Intended, Intent, Ledger, LedgerError, Look, Looked, Move, Record, Turn,
};
use tokio::time::Instant;

use crate::{
    bugs::Bug,
    life::Life,
    program::Dice,
    watch::Watch,
    world::{World, rest},
};

#[derive(Debug)]
pub struct Link {
    pub world: Arc<World>,
    pub life: Arc<Life>,
    pub dice: Arc<Mutex<Dice>>,
    pub call: Option<usize>,
    pub calm: bool,
    pub ledger: Watch,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    FailBefore,
    FailAfter,
    CrashBefore,
    CrashAfter,
    HangBefore(Duration),
    HangAfter(Duration),
    Twice,
}

/// A turn that was lost on the way: PostgreSQL's go with their connection.
#[derive(Debug)]
struct Lost;

impl Held for Lost {}

fn failed() -> LedgerError {
    LedgerError::Unavailable("by the model".to_owned())
}

impl Link {
    fn draw(&self) -> Option<Fault> {
        let mut dice = self.dice.lock().unwrap();
        if self.calm || self.world.is_calm() {
            return None;
        }
        let terms = self.world.terms;
        if dice.chance(terms.crash) {
            return Some(dice.one_of(&[Fault::CrashBefore, Fault::CrashAfter]));
        }
        if !dice.chance(terms.ledger) {
            return None;
        }
        let short = dice.up_to(terms.attempt);
        let past_the_lease = dice.up_to(terms.attempt * 6 + terms.grace);
        let hang = dice.one_of(&[short, past_the_lease]);
        let all = [
            Fault::FailBefore,
            Fault::FailBefore,
            Fault::FailAfter,
            Fault::FailAfter,
            Fault::HangBefore(hang),
            Fault::HangAfter(hang),
            Fault::Twice,
        ];
        Some(dice.one_of(&all))
    }

    async fn crash<T>(&self) -> T {
        self.life.end();
        pending().await
    }

    async fn call<T, F>(&self, what: &str, act: impl Fn() -> F) -> Result<T, LedgerError>
    where
        F: Future<Output = Result<T, LedgerError>>,
    {
        self.life.go_on().await;
        let fault = self.draw();
        if let Some(fault) = fault {
            self.world.book().tally.ledger_faults += 1;
            self.world.trace(|| format!("{} {what}: {fault:?}", self.who()));
        }
        match fault {
            Some(Fault::FailBefore) => return Err(failed()),
            Some(Fault::CrashBefore) => return self.crash().await,
            Some(Fault::HangBefore(by)) => rest(by).await,
            _ => {}
        }
        self.life.go_on().await;
        let mut done = act().await;
        match fault {
            Some(Fault::FailAfter) => return Err(failed()),
            Some(Fault::CrashAfter) => return self.crash().await,
            Some(Fault::HangAfter(by)) => rest(by).await,
            Some(Fault::Twice) if what == "advance" => done = act().await,
            _ => {}
        }
        self.life.go_on().await;
        done
    }

    fn who(&self) -> String {
        self.call.map_or_else(|| "the background".to_owned(), |call| format!("call {call}"))
    }
}

impl Ledger for Link {
    fn turn<'a>(&'a self, group: &'a str, until: Instant) -> Answer<'a, Turn> {
        Box::pin(async move {
            let turn = self.call("turn", || self.ledger.turn(group, until)).await?;
            let lost = !self.calm
                && !self.world.is_calm()
                && self.dice.lock().unwrap().chance(self.world.terms.ledger / 2);
            if lost {
                self.world.book().tally.ledger_faults += 1;
                self.world.trace(|| format!("{} loses its turn", self.who()));
            }
            Ok(if lost { Turn::new(Lost) } else { turn })
        })
    }

    fn look<'a>(&'a self, question: &'a Look) -> Answer<'a, Looked> {
        Box::pin(async move {
            if self.world.has(Bug::SternLedger) {
                return Err(LedgerError::Forbidden("by a bug".to_owned()));
            }
            self.call("look", || self.ledger.look(question)).await
        })
    }

    fn intend<'a>(&'a self, intent: &'a Intent) -> Answer<'a, Intended> {
        Box::pin(async move {
            self.world.book().asked.insert(intent.id.clone(), Instant::now());
            if self.world.has(Bug::NoIntent) && intent.fence == 0 && intent.conclusion.is_none() {
                let record = Record::begin(intent, self.world.now()).unwrap();
                return Ok(Intended::Written(Box::new(record)));
            }
            self.call("intend", || self.ledger.intend(intent)).await
        })
    }

    fn advance<'a>(&'a self, id: &'a str, fence: u64, step: &'a Move) -> Answer<'a, Record> {
        Box::pin(self.call("advance", move || self.ledger.advance(id, fence, step)))
    }

    fn take_over<'a>(
        &'a self,
        id: &'a str,
        fence: u64,
        hold: Duration,
    ) -> Answer<'a, Option<Record>> {
        Box::pin(self.call("take_over", move || self.ledger.take_over(id, fence, hold)))
    }

    fn changed<'a>(&'a self, id: &'a str, version: u64) -> Answer<'a, ()> {
        Box::pin(self.call("changed", move || self.ledger.changed(id, version)))
    }

    fn list<'a>(&'a self, filter: &'a Filter) -> Answer<'a, Vec<Record>> {
        Box::pin(self.call("list", move || self.ledger.list(filter)))
    }

    fn sweep(&self, limit: usize) -> Answer<'_, usize> {
        Box::pin(self.call("sweep", move || self.ledger.sweep(limit)))
    }

    fn check(&self) -> Answer<'_, ()> {
        Box::pin(self.call("check", || self.ledger.check()))
    }
}
