//! Watches every move of every record, right above the engine.

use std::{sync::Arc, time::Duration};

use portcullis::ledger::{
    Answer, Filter, Intended, Intent, Ledger, LedgerError, Look, Looked, Move, Record, State, Turn,
};
use tokio::time::Instant;

use crate::world::{Begun, World};

#[derive(Clone, Debug)]
pub struct Watch(pub Arc<World>);

impl Watch {
    fn seen(&self, record: &Record) {
        self.0.book().records.insert(record.id.clone(), record.clone());
    }

    fn known(&self, id: &str) -> Option<Record> {
        self.0.book().records.get(id).cloned()
    }

    fn trace(&self, record: &Record, step: Option<&Move>) {
        let note = step.and_then(|step| step.note.as_deref()).unwrap_or_default();
        self.0.trace(|| {
            format!("ledger: {} {} fence {} {note}", record.id, record.state, record.fence)
        });
    }

    async fn intended(&self, intent: &Intent, record: &Record) {
        let world = &self.0;
        self.trace(record, None);
        let before = self.known(&intent.id);
        let others: Vec<Record> = {
            let book = world.book();
            book.records.values().filter(|other| other.id != intent.id).cloned().collect()
        };
        if let Some(other) =
            others.iter().find(|other| other.group == intent.group && other.state.is_unsettled())
        {
            world.broken(|| format!("two unsettled of a group: {} and {}", intent.id, other.id));
        }
        if intent.key.is_some()
            && let Some(other) = others.iter().find(|other| {
                (&other.scope, &other.caller, &other.key)
                    == (&intent.scope, &intent.caller, &intent.key)
            })
        {
            world.broken(|| format!("two records of a key: {} and {}", intent.id, other.id));
        }
        match &before {
            None if record.state.may_begin() => {}
            None => world.broken(|| format!("born {}", record.state)),
            Some(before) if before.fence != intent.fence || record.fence <= before.fence => {
                world.broken(|| format!("{} begun again past its fence", intent.id));
            }
            Some(before) => self.moved(before, record),
        }
        self.seen(record);
        if record.state == State::InProgress {
            world.book().begun.insert(intent.id.clone(), Begun::Attempt);
        } else {
            world.check_settled(record).await;
        }
    }

    fn moved(&self, before: &Record, after: &Record) {
        if !before.state.may_become(after.state) {
            let (from, to) = (before.state, after.state);
            self.0.broken(|| format!("no such move: {} from {from} to {to}", after.id));
        }
        if after.version < before.version || after.fence < before.fence {
            self.0.broken(|| format!("{} went back in version or fence", after.id));
        }
        let lost = |before: &[String], after: &[String]| before.len() > after.len();
        if lost(&before.ec2_request_ids, &after.ec2_request_ids)
            || lost(&before.notes, &after.notes)
        {
            self.0.broken(|| format!("{} lost notes", after.id));
        }
    }

    async fn advanced(&self, fence: u64, step: &Move, after: &Record) {
        let Some(before) = self.known(&after.id) else {
            self.0.broken(|| format!("{} came from nowhere", after.id));
            return;
        };
        self.trace(after, Some(step));
        self.seen(after);
        if step.to.is_none() {
            if (before.state, before.fence) != (after.state, after.fence) {
                self.0.broken(|| format!("a note moved {}", after.id));
            }
            return;
        }
        if before.fence != fence {
            self.0.broken(|| format!("{} was moved past its fence", after.id));
        }
        if before == *after {
            return;
        }
        self.moved(&before, after);
        if after.state == State::InProgress {
            let mut book = self.0.book();
            let rest =
                before.state == State::InDoubt || book.begun.get(&after.id) == Some(&Begun::Rest);
            book.begun.insert(after.id.clone(), if rest { Begun::Rest } else { Begun::Round });
        } else if !after.state.is_unsettled() {
            self.0.check_settled(after).await;
        }
    }

    fn taken(&self, fence: u64, after: &Record) {
        self.trace(after, None);
        let Some(before) = self.known(&after.id) else { return };
        let free = before.state.is_unsettled() && before.held_until <= self.0.now();
        if !free || before.fence != fence || after.fence <= fence {
            self.0.broken(|| format!("{} was taken over though it was held or settled", after.id));
        }
        self.moved(&before, after);
        self.seen(after);
    }
}

impl Ledger for Watch {
    fn turn<'a>(&'a self, group: &'a str, until: Instant) -> Answer<'a, Turn> {
        self.0.engine.turn(group, until)
    }

    fn look<'a>(&'a self, question: &'a Look) -> Answer<'a, Looked> {
        self.0.engine.look(question)
    }

    fn intend<'a>(&'a self, intent: &'a Intent) -> Answer<'a, Intended> {
        Box::pin(async move {
            let intended = self.0.engine.intend(intent).await;
            if let Ok(Intended::Written(record)) = &intended {
                self.intended(intent, record).await;
            }
            intended
        })
    }

    fn advance<'a>(&'a self, id: &'a str, fence: u64, step: &'a Move) -> Answer<'a, Record> {
        Box::pin(async move {
            let advanced = self.0.engine.advance(id, fence, step).await;
            match &advanced {
                Ok(record) => self.advanced(fence, step, record).await,
                Err(LedgerError::Forbidden(what)) if self.known(id).is_some() => {
                    self.0.broken(|| format!("a move was asked for that there is not: {what}"));
                }
                Err(_) => {}
            }
            advanced
        })
    }

    fn take_over<'a>(
        &'a self,
        id: &'a str,
        fence: u64,
        hold: Duration,
    ) -> Answer<'a, Option<Record>> {
        Box::pin(async move {
            let taken = self.0.engine.take_over(id, fence, hold).await;
            if let Ok(Some(record)) = &taken {
                self.taken(fence, record);
            }
            taken
        })
    }

    fn changed<'a>(&'a self, id: &'a str, version: u64) -> Answer<'a, ()> {
        self.0.engine.changed(id, version)
    }

    fn list<'a>(&'a self, filter: &'a Filter) -> Answer<'a, Vec<Record>> {
        self.0.engine.list(filter)
    }

    fn sweep(&self, limit: usize) -> Answer<'_, usize> {
        self.0.engine.sweep(limit)
    }

    fn check(&self) -> Answer<'_, ()> {
        self.0.engine.check()
    }
}
