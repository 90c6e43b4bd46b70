//! How lists search. Whatever is asked for, no statement goes through more than a slice of an index, and the connection
//! is another's between two: a list that finds nothing among millions of records takes its time, and nobody else's.

use std::time::{Duration, SystemTime};

use rusqlite::{Connection, OptionalExtension, ToSql, params};

use super::{
    fault::Fault,
    tables::{count, record, time},
};
use crate::ledger::{Filter, Record, State};

/// How many entries of an index the first slice has; each has four times as many as the one before, up to the second.
const FIRST_SLICE: usize = 64;
const SLICE: usize = 4096;

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
}

/// Part of the ledger, in the order of ids as an index gives it.
#[derive(Debug)]
struct Way {
    state: Option<State>,
    account: Option<String>,
    region: Option<String>,
    index: Index,
    before: Option<String>,
    slice: usize,
}

/// Those with which the records of a way are found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Index {
    Id,
    Key,
    Unsettled,
    Group,
    State,
    Caller,
    Target,
    Created,
    All,
}

impl Index {
    fn sql(self) -> &'static str {
        match self {
            Self::Id | Self::All => "INDEXED BY operations_by_id WHERE true",
            Self::Key => "INDEXED BY one_per_key WHERE key IS NOT NULL",
            Self::Unsettled => {
                "INDEXED BY one_unsettled_per_group WHERE state IN ('IN_PROGRESS', 'IN_DOUBT')"
            }
            Self::Group => "INDEXED BY operations_by_group WHERE true",
            Self::State => {
                "INDEXED BY operations_by_state WHERE state IN ('REFUSED', 'RELEASED', 'UNRESOLVED')"
            }
            Self::Caller => "INDEXED BY operations_by_caller WHERE true",
            Self::Target => "INDEXED BY operations_by_account WHERE true",
            Self::Created => "INDEXED BY operations_by_created WHERE true",
        }
    }

    /// Whether it has the ids in order, so that it can be gone through in slices. The others have few records each.
    fn is_in_order(self) -> bool {
        !matches!(self, Self::Id | Self::Key | Self::Unsettled | Self::Created)
    }
}

impl Search {
    pub(super) fn new(filter: Filter) -> Self {
        Self { filter, ways: None, found: Vec::new(), after: String::new() }
    }

    /// Whether it is sure to be short: the others are not to be in the way of such.
    pub(super) fn is_short(&self) -> bool {
        let Filter { id, key, group, states, .. } = &self.filter;
        let few = |state: &State| state.is_unsettled();
        id.is_some()
            || key.is_some()
            || group.is_some()
            || (!states.is_empty() && states.iter().all(few))
    }

    /// A slice further: what was found, or the search as it goes on.
    pub(super) fn go_on(mut self, conn: &Connection) -> Result<Result<Vec<Record>, Self>, Fault> {
        let mut ways = match self.ways.take() {
            Some(ways) => ways,
            None => self.ways(conn)?,
        };
        if let Some(mut way) = ways.pop()
            && !self.slice(conn, &mut way)?
        {
            ways.push(way);
        }
        if !ways.is_empty() {
            self.ways = Some(ways);
            return Ok(Err(self));
        }
        let records: Result<Vec<Record>, Fault> =
            self.found.iter().map(|(id, json)| record(id, json)).collect();
        records.map(Ok)
    }

    fn ways(&mut self, conn: &Connection) -> Result<Vec<Way>, Fault> {
        let mut states: Vec<Option<State>> = self.filter.states.iter().copied().map(Some).collect();
        states.sort_unstable_by_key(|state| state.map(State::as_str));
        states.dedup();
        if states.is_empty() {
            states.push(None);
        }
        let before = self.bound_by_time(conn)?;
        let Filter { id, key, group, caller, account, region, since, until, .. } = &self.filter;
        let lasts = since.zip(*until).and_then(|(since, until)| until.duration_since(since).ok());
        let is_short = lasts.is_some_and(|lasts| lasts <= 2 * LONGEST);
        let mut ways = Vec::new();
        for state in states {
            let index = match state {
                _ if id.is_some() => Index::Id,
                _ if key.is_some() => Index::Key,
                Some(State::InProgress | State::InDoubt) => Index::Unsettled,
                _ if group.is_some() => Index::Group,
                Some(State::Refused | State::Released | State::Unresolved) => Index::State,
                _ if caller.is_some() => Index::Caller,
                _ if account.is_some() || region.is_some() => Index::Target,
                _ if is_short => Index::Created,
                _ => Index::All,
            };
            let places = match index {
                Index::Target => places(conn, account.as_deref(), region.as_deref())?,
                _ => vec![(account.clone(), region.clone())],
            };
            ways.extend(places.into_iter().map(|(account, region)| Way {
                state,
                account,
                region,
                index,
                before: before.clone(),
                slice: FIRST_SLICE,
            }));
        }
        Ok(ways)
    }

    /// Where ids begin and end that may be of the time that is asked for.
    fn bound_by_time(&mut self, conn: &Connection) -> Result<Option<String>, Fault> {
        let mut before = self.filter.before.clone();
        let edge = |sql: &str, at: SystemTime| {
            let mut statement = conn.prepare_cached(sql)?;
            statement.query_row(params![time(at)], |row| row.get::<_, String>(0)).optional()
        };
        if let Some(until) = self.filter.until.and_then(|until| until.checked_add(LONGEST)) {
            let sql = "SELECT id FROM operations WHERE created >= ?1 ORDER BY created LIMIT 1";
            let edge = edge(sql, until)?;
            before = before.into_iter().chain(edge).min();
        }
        if let Some(since) = self.filter.since.and_then(|since| since.checked_sub(LONGEST)) {
            let sql = "SELECT id FROM operations WHERE created < ?1 ORDER BY created DESC LIMIT 1";
            self.after = edge(sql, since)?.unwrap_or_default();
        }
        Ok(before)
    }

    /// The next slice of a way. True: there is nothing more of it that is wanted.
    fn slice(&mut self, conn: &Connection, way: &mut Way) -> Result<bool, Fault> {
        let Filter { id, caller, key, group, since, until, held_until, limit, .. } = &self.filter;
        let (since, until) = (since.map(time_up), until.map(time_up));
        let (held_until, limit) = (held_until.map(time_up), count(*limit));
        let state = way.state.map(State::as_str);
        // The texts are ours; what callers say is bound. Those of the index come first.
        let conditions: [Condition<'_>; 10] = [
            (&[Index::Id], " AND id = :id", ":id", given(id)),
            (&[Index::Key], " AND key = :key", ":key", given(key)),
            (&[Index::Group], " AND grp = :group", ":group", given(group)),
            (&[Index::State], " AND state = :state", ":state", given(&state)),
            (&[Index::Caller], " AND caller = :caller", ":caller", given(caller)),
            (&[Index::Target], " AND account = :account", ":account", given(&way.account)),
            (&[Index::Target], " AND region = :region", ":region", given(&way.region)),
            (&[], " AND created >= :since", ":since", given(&since)),
            (&[], " AND created < :until", ":until", given(&until)),
            (&[], " AND held_until < :held_until", ":held_until", given(&held_until)),
        ];
        let mut of_index = format!("FROM operations {} AND id > :after", way.index.sql());
        let mut named: Vec<(&str, &dyn ToSql)> = vec![(":after", &self.after)];
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
        // Without other conditions all that is passed is found.
        let end: Option<String> = if way.index.is_in_order() && !others.is_empty() {
            let sql = format!("SELECT id {of_index} ORDER BY id DESC LIMIT 1 OFFSET :slice");
            let slice = count(way.slice);
            let mut statement = conn.prepare_cached(&sql)?;
            let mut named = named.clone();
            named.push((":slice", &slice));
            let end = statement.query_row(named.as_slice(), |row| row.get(0)).optional()?;
            #[cfg(test)]
            super::tests::note_steps(&statement);
            end
        } else {
            None
        };
        let mut sql = format!("SELECT id, record {of_index}{others}");
        named.append(&mut more);
        if let Some(end) = &end {
            sql.push_str(" AND id >= :end");
            named.push((":end", end));
        }
        sql.push_str(" ORDER BY id DESC LIMIT :limit");
        named.push((":limit", &limit));
        let mut statement = conn.prepare_cached(&sql)?;
        let rows = statement.query_map(named.as_slice(), |row| Ok((row.get(0)?, row.get(1)?)))?;
        let found = rows.collect::<Result<Vec<(String, String)>, _>>()?;
        #[cfg(test)]
        super::tests::note_steps(&statement);
        drop(statement);
        let is_full = count(found.len()) >= limit;
        self.add(found);
        way.before = end;
        way.slice = (way.slice * 4).min(SLICE);
        let is_behind = way.before.as_ref().is_none_or(|before| *before <= self.after);
        Ok(is_full || is_behind)
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

/// Which indexes begin with it, its text, and its value.
type Condition<'a> = (&'a [Index], &'a str, &'a str, Option<&'a dyn ToSql>);

type Place = (Option<String>, Option<String>);

/// The accounts and Regions that there are, of those that are asked for: a step of the index for each.
fn places(
    conn: &Connection,
    account: Option<&str>,
    region: Option<&str>,
) -> Result<Vec<Place>, Fault> {
    let from = "FROM operations INDEXED BY operations_by_account";
    let accounts = match account {
        Some(account) => vec![account.to_owned()],
        None => each(conn, &format!("SELECT min(account) {from} WHERE account > ?1"), &[])?,
    };
    let mut places = Vec::new();
    for account in accounts {
        let regions = match region {
            Some(region) => vec![region.to_owned()],
            None => {
                let sql = format!("SELECT min(region) {from} WHERE region > ?1 AND account = ?2");
                each(conn, &sql, &[&account])?
            }
        };
        let place = |region| (Some(account.clone()), Some(region));
        places.extend(regions.into_iter().map(place));
    }
    Ok(places)
}

/// One after the other, each by the one before it.
fn each(conn: &Connection, sql: &str, more: &[&dyn ToSql]) -> Result<Vec<String>, Fault> {
    let mut statement = conn.prepare_cached(sql)?;
    let (mut all, mut last) = (Vec::new(), String::new());
    loop {
        let mut values: Vec<&dyn ToSql> = vec![&last];
        values.extend(more);
        let next: Option<String> = statement.query_row(values.as_slice(), |row| row.get(0))?;
        #[cfg(test)]
        super::tests::note_steps(&statement);
        let Some(next) = next else { return Ok(all) };
        all.push(next.clone());
        last = next;
    }
}

fn given<T: ToSql>(value: &Option<T>) -> Option<&dyn ToSql> {
    value.as_ref().map(|value| value as &dyn ToSql)
}

/// A bound of a filter, which may lie between two milliseconds.
fn time_up(at: SystemTime) -> i64 {
    time(at + Duration::from_nanos(999_999))
}
