//! How lists search. Whatever is asked for, no statement goes through more than a slice of an index, and the connection
//! is another's after a few: a list that finds nothing among millions of records takes its time, and nobody else's.

use std::time::{Duration, SystemTime};

use rusqlite::{Connection, OptionalExtension, Statement, StatementStatus, ToSql, params};

use super::{
    fault::Fault,
    tables::{count, ends, first_since, key_hashes, record, time},
};
use crate::ledger::{Filter, Record, State};

/// How many entries of an index the first slice has; each has four times as many as the one before, up to the second.
const FIRST_SLICE: usize = 64;
const SLICE: usize = 4096;

/// After so many of SQLite's instructions the connection is another's. A record that is looked at takes about ten.
const STEPS: i32 = 40_000;

/// The bits of a row's number that do not tell its era: as in the schema.
const ERA: u32 = 10;

/// The order of ids is that of creation, but for less than this: an id has the time at which its call came.
const LONGEST: Duration = Duration::from_secs(3600);

/// A list that is not whole yet.
#[derive(Debug)]
pub(super) struct Search {
    filter: Filter,
    /// None: not known yet.
    ways: Option<Vec<Way>>,
    /// Ids and records, newest first: at most as many as are wanted.
    found: Vec<(String, String)>,
    /// Only ids behind this one: no other can be among those that are wanted.
    after: String,
    /// Instructions since it got the connection.
    steps: i32,
}

/// Part of the ledger, in the order of ids as an index gives it.
#[derive(Debug)]
struct Way {
    state: Option<State>,
    index: Index,
    before: Option<String>,
    slice: usize,
    /// The next era, and the last one: they are gone through from the newest.
    eras: (i64, i64),
}

/// Those with which the records of a way are found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Index {
    Id,
    Key,
    Unsettled,
    State,
    Era,
    All,
}

impl Index {
    fn sql(self) -> &'static str {
        match self {
            Self::Id | Self::All => "INDEXED BY operations_by_id WHERE true",
            Self::Key => "INDEXED BY one_per_key WHERE key_hash IS NOT NULL",
            Self::Unsettled => {
                "INDEXED BY one_unsettled_per_group WHERE state IN ('IN_PROGRESS', 'IN_DOUBT')"
            }
            Self::State => {
                "INDEXED BY operations_by_state WHERE state IN ('REFUSED', 'RELEASED', 'UNRESOLVED')"
            }
            Self::Era => "INDEXED BY operations_by_era WHERE first >> 10 = :era",
        }
    }

    /// Whether it has the ids in order, so that it can be gone through in slices. The others have few records each, or
    /// few in each era.
    fn is_in_order(self) -> bool {
        matches!(self, Self::State | Self::All)
    }
}

impl Search {
    pub(super) fn new(filter: Filter) -> Self {
        Self { filter, ways: None, found: Vec::new(), after: String::new(), steps: 0 }
    }

    /// Whether it is sure to be short: the others are not to be in the way of such.
    pub(super) fn is_short(&self) -> bool {
        let Filter { id, key, caller, group, since, states, .. } = &self.filter;
        let few = |state: &State| state.is_unsettled();
        id.is_some()
            || (key.is_some() && caller.is_some())
            || (group.is_some() && caller.is_some() && since.is_some())
            || (!states.is_empty() && states.iter().all(few))
    }

    /// A few slices further: what was found, or the search as it goes on; and how many instructions it took.
    pub(super) fn go_on(mut self, conn: &Connection) -> Result<(Found, i32), Fault> {
        let mut ways = match self.ways.take() {
            Some(ways) => ways,
            None => self.ways(conn)?,
        };
        self.steps = 0;
        while self.steps < STEPS
            && let Some(mut way) = ways.pop()
        {
            if !self.slice(conn, &mut way)? {
                ways.push(way);
            }
        }
        if !ways.is_empty() {
            self.ways = Some(ways);
            let steps = self.steps;
            return Ok((Err(self), steps));
        }
        let records: Result<_, Fault> =
            self.found.iter().map(|(id, json)| record(id, json)).collect();
        Ok((Ok(records?), self.steps))
    }

    fn ways(&mut self, conn: &Connection) -> Result<Vec<Way>, Fault> {
        let mut states: Vec<Option<State>> = self.filter.states.iter().copied().map(Some).collect();
        states.sort_unstable_by_key(|state| state.map(State::as_str));
        states.dedup();
        if states.is_empty() {
            states.push(None);
        }
        let (before, eras) = self.bound_by_time(conn)?;
        let Filter { id, key, group, caller, .. } = &self.filter;
        let way = |state| {
            let index = match state {
                _ if id.is_some() => Index::Id,
                _ if key.is_some() && caller.is_some() => Index::Key,
                Some(State::InProgress | State::InDoubt) => Index::Unsettled,
                _ if group.is_some() && caller.is_some() => Index::Era,
                Some(State::Refused | State::Released | State::Unresolved) => Index::State,
                _ if caller.is_some() => Index::Era,
                _ => Index::All,
            };
            Way { state, index, before: before.clone(), slice: FIRST_SLICE, eras }
        };
        Ok(states.into_iter().map(way).collect())
    }

    /// Before and behind which id, and in which eras, what was created at the time is that is asked for.
    fn bound_by_time(&mut self, conn: &Connection) -> Result<(Option<String>, (i64, i64)), Fault> {
        let mut before = self.filter.before.clone();
        let Some((mut first, mut last)) = ends(conn)? else { return Ok((before, (0, 0))) };
        let id = |sql: &str, row: i64| {
            let mut statement = conn.prepare_cached(sql)?;
            statement.query_row(params![row], |row| row.get::<_, String>(0)).optional()
        };
        if let Some(until) = self.filter.until.and_then(|until| until.checked_add(LONGEST)) {
            let edge = first_since(conn, time(until))?;
            let sql = "SELECT id FROM operations WHERE first >= ?1 ORDER BY first LIMIT 1";
            before = before.into_iter().chain(id(sql, edge)?).min();
            last = last.min(edge);
        }
        if let Some(since) = self.filter.since.and_then(|since| since.checked_sub(LONGEST)) {
            let edge = first_since(conn, time(since))?;
            let sql = "SELECT id FROM operations WHERE first < ?1 ORDER BY first DESC LIMIT 1";
            self.after = id(sql, edge)?.unwrap_or_default();
            first = first.max(edge);
        }
        if let Some(created) =
            self.filter.before.as_ref().map(|id| created(conn, id)).transpose()?.flatten()
        {
            last = last.min(first_since(conn, created.saturating_add(longest()))?);
        }
        Ok((before, (last >> ERA, first >> ERA)))
    }

    /// The next slice of a way. True: there is nothing more of it that is wanted.
    fn slice(&mut self, conn: &Connection, way: &mut Way) -> Result<bool, Fault> {
        let (era, oldest) = way.eras;
        if way.index == Index::Era && era < oldest {
            return Ok(true);
        }
        let Filter { id, caller, key, group, account, region, since, until, .. } = &self.filter;
        let Filter { held_until, limit, .. } = &self.filter;
        let (since, until) = (since.map(time_up), until.map(time_up));
        let (held_until, limit) = (held_until.map(time_up), count(*limit));
        let state = way.state.map(State::as_str);
        let hashes = caller.as_ref().zip(key.as_ref()).map(|(caller, key)| key_hashes(caller, key));
        let (from, to) = hashes.map(|[from, to]| (from, to)).unzip();
        // The texts are ours; what callers say is bound. Those of the index come first.
        let conditions: [Condition<'_>; 12] = [
            (&[Index::Id], " AND id = :id", ":id", given(id)),
            (&[Index::Key], " AND key_hash >= :from", ":from", given(&from)),
            (&[Index::Key], " AND key_hash <= :to", ":to", given(&to)),
            (&[], " AND key = :key", ":key", given(key)),
            (&[Index::Era], " AND grp = :group", ":group", given(group)),
            (&[Index::State], " AND state = :state", ":state", given(&state)),
            (&[Index::Era], " AND caller = :caller", ":caller", given(caller)),
            (&[], " AND account = :account", ":account", given(account)),
            (&[], " AND region = :region", ":region", given(region)),
            (&[], " AND created >= :since", ":since", given(&since)),
            (&[], " AND created < :until", ":until", given(&until)),
            (&[], " AND held_until < :held_until", ":held_until", given(&held_until)),
        ];
        let mut of_index = format!("FROM operations {}", way.index.sql());
        let mut named: Vec<(&str, &dyn ToSql)> = Vec::new();
        if way.index == Index::Era {
            named.push((":era", &era));
        }
        if let Some(before) = &way.before {
            of_index.push_str(" AND id < :before");
            named.push((":before", before));
        }
        let (mut others, mut more): (String, Vec<(&str, &dyn ToSql)>) = Default::default();
        for (index, text, name, value) in conditions {
            let Some(value) = value else { continue };
            if index.contains(&way.index) {
                of_index.push_str(text);
                named.push((name, value));
            } else {
                others.push_str(text);
                more.push((name, value));
            }
        }
        let mut steps = 0;
        // Without other conditions all that is passed is found.
        let end: Option<String> = if way.index.is_in_order() && !others.is_empty() {
            let sql = format!(
                "SELECT id {of_index} AND id > :after ORDER BY id DESC LIMIT 1 OFFSET :slice"
            );
            let slice = count(way.slice);
            let mut statement = conn.prepare_cached(&sql)?;
            let mut named = named.clone();
            named.extend([(":after", &self.after as &dyn ToSql), (":slice", &slice)]);
            let end = statement.query_row(named.as_slice(), |row| row.get(0)).optional()?;
            steps += taken(&statement);
            end
        } else {
            None
        };
        named.append(&mut more);
        // Of two bounds SQLite would search by one, and go on to it behind the other.
        let bound = match &end {
            Some(end) => {
                named.push((":end", end));
                "id >= :end"
            }
            None => {
                named.push((":after", &self.after));
                "id > :after"
            }
        };
        named.push((":limit", &limit));
        let sql = format!(
            "SELECT id, record {of_index}{others} AND {bound} ORDER BY id DESC LIMIT :limit"
        );
        let mut statement = conn.prepare_cached(&sql)?;
        let rows = statement.query_map(named.as_slice(), |row| Ok((row.get(0)?, row.get(1)?)))?;
        let found = rows.collect::<Result<Vec<(String, String)>, _>>()?;
        steps += taken(&statement);
        drop(statement);
        let is_full = count(found.len()) >= limit;
        self.add(found);
        self.steps = self.steps.saturating_add(steps);
        if way.index == Index::Era {
            way.eras = (era - 1, oldest.max(self.oldest(conn)?));
            return Ok(limit == 0);
        }
        way.before = end;
        let Filter { group, account, region, .. } = &self.filter;
        let has_era = [group, account, region].iter().any(|text| text.is_some());
        if way.index == Index::All && way.slice > FIRST_SLICE && has_era {
            // There are few, or they are old: the index that has these is gone through faster than the records.
            way.index = Index::Era;
        }
        way.slice = (way.slice * 4).min(SLICE);
        let is_behind = way.before.as_ref().is_none_or(|before| *before <= self.after);
        Ok(is_full || is_behind)
    }

    /// The oldest era that may have what is wanted. An older one may have later ids, but not much later ones.
    fn oldest(&self, conn: &Connection) -> Result<i64, Fault> {
        if self.found.len() < self.filter.limit {
            return Ok(i64::MIN);
        }
        let last = created(conn, &self.after)?.unwrap_or_default();
        Ok(first_since(conn, last.saturating_sub(longest()))? >> ERA)
    }

    fn add(&mut self, found: Vec<(String, String)>) {
        self.found.extend(found);
        self.found.sort_unstable_by(|(a, _), (b, _)| b.cmp(a));
        self.found.truncate(self.filter.limit);
        if self.found.len() == self.filter.limit
            && let Some((last, _)) = self.found.last()
        {
            self.after = self.after.clone().max(last.clone());
        }
    }
}

/// What was found, or the search as it goes on.
type Found = Result<Vec<Record>, Search>;

/// Which indexes begin with it, its text, and its value.
type Condition<'a> = (&'a [Index], &'a str, &'a str, Option<&'a dyn ToSql>);

/// When a record was created, if it is there yet.
fn created(conn: &Connection, id: &str) -> Result<Option<i64>, Fault> {
    let mut statement = conn.prepare_cached("SELECT created FROM operations WHERE id = ?1")?;
    Ok(statement.query_row(params![id], |row| row.get(0)).optional()?)
}

fn longest() -> i64 {
    i64::try_from(LONGEST.as_millis()).unwrap_or(i64::MAX)
}

/// How many instructions a statement took.
fn taken(statement: &Statement<'_>) -> i32 {
    statement.reset_status(StatementStatus::VmStep)
}

fn given<T: ToSql>(value: &Option<T>) -> Option<&dyn ToSql> {
    value.as_ref().map(|value| value as &dyn ToSql)
}

/// A bound of a filter, which may lie between two milliseconds.
fn time_up(at: SystemTime) -> i64 {
    time(at + Duration::from_nanos(999_999))
}
