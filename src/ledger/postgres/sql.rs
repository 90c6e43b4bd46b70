//! All SQL but the functions that it calls (`schema.sql`), and how a record becomes columns.
//!
//! Moves are written by one statement, so one round trip and no transaction that a paused replica could keep open: a
//! record is read, moved by the pure functions, and written if its version is still the one that was read. Sessions have no state, and
//! statements no name: PgBouncer may give each to another connection. Only those that write have one where it is kept
//! (`Lease::rows_again`).

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use sha2::{Digest, Sha256};
use tokio_postgres::{
    Error, Row,
    types::{ToSql, Type},
};

use crate::ledger::{Filter, Intent, LedgerError, Record, chain, record::to_millis};

/// What a parameter is.
pub(super) type Param<'a> = (&'a (dyn ToSql + Sync), Type);

/// Writes a record: `writer.rs` has the parameters. The time, below zero if it was not written.
pub(super) const WRITE: &str =
    "SELECT portcullis.write($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15,
        $16, $17, $18, $19, $20, $21, $22)";

/// Writes several, in order: the parameters are arrays. A row for each, as of [`WRITE`].
pub(super) const WRITE_ALL: &str = "SELECT CASE WHEN portcullis.put(now, a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p, q,
        r, s, t, u, v) THEN now ELSE -now END
    FROM portcullis.durable() AS now, unnest($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17,
        $18, $19, $20, $21, $22) WITH ORDINALITY AS w (a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p, q, r, s, t, u, v, nth)
    ORDER BY nth";

/// The end of a transaction that was begun with [`BEGIN_READING`] or [`BEGIN_MAKING`].
pub(super) const COMMIT: &str = "COMMIT";

/// What concerns a call. Parameters: an id, the key's hash, the group.
pub(super) const LOOK: &str = "SELECT at_now, mine, held, busy FROM portcullis.look($1, $2, $3)";

/// Versions. Parameter: ids.
pub(super) const VERSIONS: &str = "SELECT id, version FROM portcullis.records WHERE id = ANY($1)";

/// Each condition is folded away where its parameter is null: the statement is planned with its parameters.
pub(super) const LIST: &str = "SELECT record FROM portcullis.records
    WHERE ($1 IS NULL OR id = $1)
        AND ($2 IS NULL OR state = ANY($2))
        AND (NOT $3 OR id = ANY(ARRAY(SELECT p.id FROM portcullis.pending p)))
        AND (NOT $4 OR id = ANY(ARRAY(SELECT u.id FROM portcullis.unresolved u)))
        AND ($5 IS NULL OR (left(caller, 256) = left($5, 256) AND caller = $5))
        AND ($6 IS NULL OR key = $6)
        AND ($7 IS NULL OR \"group\" = $7)
        AND ($8 IS NULL OR account = $8) AND ($9 IS NULL OR region = $9)
        AND ($10 IS NULL OR created >= $10) AND ($11 IS NULL OR created < $11)
        AND ($12 IS NULL OR held_until < $12)
        AND ($13 IS NULL OR id < $13)
    ORDER BY id DESC LIMIT $14";

/// The same where only the account or only the Region is known: each place that there is has its part of an index, in the
/// order of ids, and is found by a step of it.
pub(super) const LIST_IN: &str = "WITH RECURSIVE accounts (account) AS (
        SELECT coalesce($5, (SELECT min(r.account) FROM portcullis.records r))
        UNION ALL SELECT (SELECT min(r.account) FROM portcullis.records r WHERE r.account > a.account)
        FROM accounts a WHERE $5 IS NULL AND a.account IS NOT NULL),
    places (account, region) AS (
        SELECT a.account,
            coalesce($6, (SELECT min(r.region) FROM portcullis.records r WHERE r.account = a.account))
        FROM accounts a WHERE a.account IS NOT NULL
        UNION ALL SELECT p.account, (SELECT min(r.region) FROM portcullis.records r
            WHERE r.account = p.account AND r.region > p.region)
        FROM places p WHERE $6 IS NULL AND p.region IS NOT NULL)
    SELECT l.record FROM places p CROSS JOIN LATERAL (
        SELECT r.id, r.record FROM portcullis.records r
        WHERE r.account = p.account AND r.region = p.region
            AND ($1 IS NULL OR r.state = ANY($1))
            AND ($2 IS NULL OR r.created >= $2) AND ($3 IS NULL OR r.created < $3)
            AND ($4 IS NULL OR r.id < $4)
        ORDER BY r.id DESC LIMIT $7) l
    ORDER BY l.id DESC LIMIT $7";

/// Parameters: the retention, the most. What went leaves an event. What is looked at was created before the retention:
/// beside what goes, only the few that were not settled by then.
pub(super) const SWEEP: &str = "WITH durable AS MATERIALIZED (SELECT portcullis.durable() AS now),
    gone AS (
        DELETE FROM portcullis.records WHERE id IN (
            SELECT id FROM portcullis.records WHERE created <= (SELECT now FROM durable) - $1
                AND settled <= (SELECT now FROM durable) - $1
            ORDER BY created LIMIT $2 FOR UPDATE SKIP LOCKED)
        RETURNING id, version),
    event AS (
        INSERT INTO portcullis.tail (id, version, state, at, digest)
        SELECT gone.id, gone.version, 'SWEPT', now, '\\x' FROM gone, durable)
    SELECT count(*) FROM gone";

/// Lines that nobody stands in any more.
pub(super) const SWEEP_TURNS: &str =
    "WITH fleeting AS MATERIALIZED (SELECT portcullis.fleeting() AS now)
    DELETE FROM portcullis.turns WHERE NOT EXISTS
        (SELECT FROM unnest(leases) lease WHERE lease > (SELECT now FROM fleeting))";

/// A replica is there. Parameter: its number.
pub(super) const PRESENT: &str = "SELECT replicas FROM portcullis.present($1)";

/// Slots of a budget. Parameters: account, Region, action, the replica, then as [`crate::pacing::shared::Ask`] has it.
pub(super) const TAKE_SLOTS: &str = "SELECT granted, wait, left_over, pace_now
    FROM portcullis.take_slots($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14)";

/// Whether it can be written.
pub(super) const CHECK: &str = "WITH durable AS MATERIALIZED (SELECT portcullis.durable() AS now)
    UPDATE portcullis.meta SET checked = now FROM durable RETURNING now";

/// Enters the line of a group, or stays in it. Parameters: the group, the ticket, its lease, the longest line.
pub(super) const ENTER: &str = "SELECT place FROM portcullis.enter($1, $2, $3, $4)";

/// Leaves the line. Parameters: the group, the ticket.
pub(super) const LEAVE: &str = "SELECT FROM portcullis.leave($1, $2)";

/// Seals. Parameter: the most events. How many there were.
pub(super) const SEAL: &str = "SELECT portcullis.seal($1)";

/// Cuts the chain's beginning. Parameters: the retention, the most events. How many went.
pub(super) const CUT: &str = "SELECT portcullis.cut($1, $2)";

/// One picture of everything, however long it takes to look at.
pub(super) const BEGIN_READING: &str = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY;
    SET LOCAL idle_in_transaction_session_timeout = 60000";

/// The chain's ends.
pub(super) const CHAIN: &str = "SELECT anchor_place, anchor_hash, head_place, head_hash,
    (SELECT count(*) FROM portcullis.tail) FROM portcullis.chain";

/// A page of the chain. Parameters: after which place, the most.
pub(super) const SEALED: &str =
    "SELECT place, hash, id, version, state, at, digest FROM portcullis.events
    WHERE place > $1 ORDER BY place LIMIT $2";

/// A page of records with their last events, sealed or not: those of the highest version. A last event may be said again
/// while its record moves on, and stands behind the newer one then. Parameters: after which id, the most.
pub(super) const PROVEN: &str = "SELECT r.record, r.id, r.scope, r.caller, r.key, r.\"group\", r.account, r.region,
        r.state, r.fence, r.version, r.created, r.held_until, r.settled,
        CASE WHEN t.version < e.version THEN e.version ELSE coalesce(t.version, e.version) END,
        CASE WHEN t.version < e.version THEN e.state ELSE coalesce(t.state, e.state) END,
        CASE WHEN t.version < e.version THEN e.digest ELSE coalesce(t.digest, e.digest) END, r.key_hash
    FROM portcullis.records r
    LEFT JOIN (SELECT DISTINCT ON (id) id, version, state, digest FROM portcullis.tail
        ORDER BY id, version DESC, seq DESC) t ON t.id = r.id
    LEFT JOIN LATERAL (SELECT version, state, digest FROM portcullis.events WHERE id = r.id
        ORDER BY version DESC, place DESC LIMIT 1) e ON true
    WHERE r.id > $1 ORDER BY r.id LIMIT $2";

/// All events, record by record, each in the order of its versions. It is read in one go, whose order takes room on the
/// server's disk: with a cursor nothing of it is in memory here.
pub(super) const STEPS: &str =
    "DECLARE steps NO SCROLL CURSOR FOR SELECT id, version, state, digest
    FROM (SELECT id, version, state, digest, 0 AS part, place AS nth FROM portcullis.events
        UNION ALL SELECT id, version, state, digest, 1, seq FROM portcullis.tail) e
    ORDER BY id, version, state = 'SWEPT', part, nth";
pub(super) const NEXT_STEPS: &str = "FETCH 500 FROM steps";

/// Two records of what there is one of at most, and what that is. The indexes see to it, as long as they are there.
/// Parameter: the most.
pub(super) const DOUBLES: &str = "(SELECT min(id), max(id), 'both have the same key of the same caller'
        FROM portcullis.records WHERE key_hash IS NOT NULL GROUP BY key_hash HAVING count(*) > 1 LIMIT $1)
    UNION ALL (SELECT min(id), max(id), 'both are unsettled, and of the same group'
        FROM portcullis.records WHERE state IN ('IN_PROGRESS', 'IN_DOUBT') GROUP BY \"group\" HAVING count(*) > 1 LIMIT $1)";

/// Records that have events and are gone without having been swept. Parameter: the most.
pub(super) const LOST: &str = "SELECT DISTINCT e.id
    FROM (SELECT id FROM portcullis.events UNION ALL SELECT id FROM portcullis.tail) e
    WHERE NOT EXISTS (SELECT FROM portcullis.records r WHERE r.id = e.id)
        AND NOT EXISTS (SELECT FROM portcullis.events s WHERE s.id = e.id AND s.state = 'SWEPT')
        AND NOT EXISTS (SELECT FROM portcullis.tail s WHERE s.id = e.id AND s.state = 'SWEPT')
    LIMIT $1";

/// Records that are unsettled and do not stand for their group, or do not wait for people although nobody else can tell;
/// and the other way round. Parameter: the most.
pub(super) const ASTRAY: &str = "SELECT coalesce(r.id, p.id)
    FROM (SELECT id, \"group\" FROM portcullis.records WHERE state IN ('IN_PROGRESS', 'IN_DOUBT')) r
    FULL JOIN portcullis.pending p ON p.id = r.id AND p.\"group\" = r.\"group\"
    WHERE r.id IS NULL OR p.id IS NULL
    UNION ALL SELECT coalesce(r.id, u.id)
    FROM (SELECT id FROM portcullis.records WHERE state = 'UNRESOLVED') r
    FULL JOIN portcullis.unresolved u ON u.id = r.id
    WHERE r.id IS NULL OR u.id IS NULL
    LIMIT $1";

/// Records in order. Parameters: after which id, the most.
pub(super) const EXPORT: &str =
    "SELECT record FROM portcullis.records WHERE id > $1 ORDER BY id LIMIT $2";

/// What the server is, and what it holds already.
pub(super) const SERVER: &str = "SELECT current_setting('server_version_num')::int,
    pg_is_in_recovery() OR current_setting('transaction_read_only') = 'on',
    current_setting('server_encoding'), current_setting('fsync'), current_setting('full_page_writes'),
    current_user::text, current_database()::text,
    EXISTS (SELECT FROM pg_catalog.pg_namespace WHERE nspname = 'portcullis'),
    (SELECT count(*) FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
        WHERE n.nspname = 'portcullis' AND c.relname = 'meta'),
    (SELECT count(*) FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
        WHERE n.nspname = 'portcullis')";

/// Only one process makes the schema: the others wait for it.
pub(super) const BEGIN_MAKING: &str =
    "BEGIN ISOLATION LEVEL READ COMMITTED; SET LOCAL lock_timeout = 20000;
    SET LOCAL statement_timeout = 25000; SET LOCAL idle_in_transaction_session_timeout = 10000;
    SET LOCAL synchronous_commit = on";
pub(super) const LOCK_SCHEMA: &str = "SELECT pg_advisory_xact_lock(7239016550918276)::text";
pub(super) const MAKE_SCHEMA: &str = "CREATE SCHEMA portcullis";
/// What each version adds, from the first on. A replica of the version before goes on working beside it.
pub(super) const VERSIONS_OF_SCHEMA: [&str; 4] = [
    include_str!("schema.sql"),
    include_str!("schema_2.sql"),
    include_str!("schema_3.sql"),
    include_str!("schema_4.sql"),
];
/// Parameter: the version.
pub(super) const NEW_VERSION: &str = "UPDATE portcullis.meta SET schema_version = $1";
pub(super) const NEW_META: &str =
    "INSERT INTO portcullis.meta (schema_version, backend) VALUES ($1, $2)";
pub(super) const META: &str = "SELECT schema_version, backend FROM portcullis.meta";

/// What the role may not do, of all that it has to.
pub(super) const LACKING: &str = "SELECT string_agg(may || ' on portcullis.' || name, ', ')
    FROM unnest(ARRAY['records', 'pending', 'unresolved', 'tail', 'events', 'turns', 'replicas', 'budget',
        'budget_held']) AS t (name),
        unnest(ARRAY['SELECT', 'INSERT', 'UPDATE', 'DELETE']) AS m (may)
    WHERE NOT has_table_privilege('portcullis.' || name, may)
        OR NOT has_table_privilege('portcullis.meta', 'UPDATE')
        OR NOT has_table_privilege('portcullis.chain', 'UPDATE')";

/// A record as it is stored. The one place where columns are made.
#[derive(Debug, PartialEq)]
pub(super) struct Columns {
    pub id: String,
    pub scope: String,
    pub caller: String,
    pub key: Option<String>,
    pub group: String,
    pub account: String,
    pub region: String,
    pub state: &'static str,
    pub fence: i64,
    pub version: i64,
    pub created: i64,
    pub held_until: i64,
    pub settled: Option<i64>,
    pub record: String,
    pub digest: Vec<u8>,
}

impl Columns {
    pub fn of(record: &Record) -> Result<Self, LedgerError> {
        let text = serde_json::to_string(record)
            .map_err(|error| LedgerError::Forbidden(format!("{}: {error}", record.id)))?;
        let number = |number: u64| {
            i64::try_from(number).map_err(|_| LedgerError::Forbidden(format!("{number}")))
        };
        Ok(Self {
            id: storable(&record.id),
            scope: storable(&record.scope),
            caller: storable(&record.caller),
            key: record.key.as_ref().map(ToString::to_string),
            group: storable(&record.group),
            account: storable(&record.account),
            region: storable(&record.region),
            state: record.state.as_str(),
            fence: number(record.fence)?,
            version: number(record.version)?,
            created: millis(record.created_at),
            held_until: millis(record.held_until),
            settled: record.settled_at.map(millis),
            digest: Sha256::digest(&text).to_vec(),
            record: text,
        })
    }

    /// Whether a row of [`PROVEN`] has the same.
    pub fn are_in(&self, row: &Row) -> Result<bool, Error> {
        let texts = [&self.id, &self.scope, &self.caller];
        let more = [&self.group, &self.account, &self.region];
        for (at, text) in (1..).zip(texts).chain((5..).zip(more)) {
            if row.try_get::<_, &str>(at)? != text {
                return Ok(false);
            }
        }
        for (at, number) in
            [(9, self.fence), (10, self.version), (11, self.created), (12, self.held_until)]
        {
            if row.try_get::<_, i64>(at)? != number {
                return Ok(false);
            }
        }
        Ok(row.try_get::<_, Option<&str>>(4)? == self.key.as_deref()
            && row.try_get::<_, &str>(8)? == self.state
            && row.try_get::<_, Option<i64>>(13)? == self.settled)
    }
}

/// A filter as parameters of [`LIST`].
pub(super) struct Sought {
    id: Option<String>,
    states: Option<Vec<&'static str>>,
    unsettled: bool,
    unresolved: bool,
    caller: Option<String>,
    key: Option<String>,
    group: Option<String>,
    account: Option<String>,
    region: Option<String>,
    since: Option<i64>,
    until: Option<i64>,
    held_until: Option<i64>,
    before: Option<String>,
    limit: i64,
}

impl Sought {
    pub fn by(filter: &Filter) -> Self {
        let text = |text: &Option<String>| text.as_deref().map(storable);
        let states: Vec<_> = filter.states.iter().map(|state| state.as_str()).collect();
        let all = |is: fn(&crate::ledger::State) -> bool| {
            !filter.states.is_empty() && filter.states.iter().all(is)
        };
        Self {
            id: text(&filter.id),
            unsettled: all(|state| state.is_unsettled()),
            unresolved: all(|state| *state == crate::ledger::State::Unresolved),
            states: (!states.is_empty()).then_some(states),
            caller: text(&filter.caller),
            key: text(&filter.key),
            group: text(&filter.group),
            account: text(&filter.account),
            region: text(&filter.region),
            since: filter.since.map(millis_up),
            until: filter.until.map(millis_up),
            held_until: filter.held_until.map(millis_up),
            before: text(&filter.before),
            limit: i64::try_from(filter.limit).unwrap_or(i64::MAX),
        }
    }

    /// Whether it is sure to be short: others may take as long as a call may.
    pub fn is_short(&self) -> bool {
        let Self { id, key, group, unsettled, unresolved, .. } = self;
        id.is_some() || key.is_some() || group.is_some() || *unsettled || *unresolved
    }

    /// The statement, and its parameters.
    pub fn statement(&self) -> (&'static str, Vec<Param<'_>>) {
        let Self { caller, account, region, held_until, .. } = self;
        let is_in_places = account.is_some() != region.is_some();
        if self.is_short() || caller.is_some() || held_until.is_some() || !is_in_places {
            return (LIST, self.params());
        }
        let params: Vec<Param<'_>> = vec![
            (&self.states, Type::TEXT_ARRAY),
            (&self.since, Type::INT8),
            (&self.until, Type::INT8),
            (&self.before, Type::TEXT),
            (&self.account, Type::TEXT),
            (&self.region, Type::TEXT),
            (&self.limit, Type::INT8),
        ];
        (LIST_IN, params)
    }

    fn params(&self) -> Vec<Param<'_>> {
        vec![
            (&self.id, Type::TEXT),
            (&self.states, Type::TEXT_ARRAY),
            (&self.unsettled, Type::BOOL),
            (&self.unresolved, Type::BOOL),
            (&self.caller, Type::TEXT),
            (&self.key, Type::TEXT),
            (&self.group, Type::TEXT),
            (&self.account, Type::TEXT),
            (&self.region, Type::TEXT),
            (&self.since, Type::INT8),
            (&self.until, Type::INT8),
            (&self.held_until, Type::INT8),
            (&self.before, Type::TEXT),
            (&self.limit, Type::INT8),
        ]
    }
}

/// What stands for a key in the index: texts of any length and no two alike.
pub(super) fn key_hash(scope: &str, caller: &str, key: &str) -> Vec<u8> {
    chain::digest_of(&[scope, caller, key]).to_vec()
}

/// The same for an intent.
pub(super) fn key_hash_of(intent: &Intent) -> Option<Vec<u8>> {
    intent.key.as_ref().map(|key| key_hash(&intent.scope, &intent.caller, key.as_str()))
}

/// And for a record.
pub(super) fn key_hash_of_record(record: &Record) -> Option<Vec<u8>> {
    record.key.as_ref().map(|key| key_hash(&record.scope, &record.caller, key.as_str()))
}

/// PostgreSQL's texts have no NUL, the names of callers may. No two texts become one.
pub(super) fn storable(text: &str) -> String {
    if text.contains(['\0', '\u{1}']) {
        text.replace('\u{1}', "\u{1}1").replace('\0', "\u{1}0")
    } else {
        text.to_owned()
    }
}

pub(super) fn millis(time: SystemTime) -> i64 {
    i64::try_from(to_millis(time)).unwrap_or(i64::MAX)
}

/// The first millisecond that is not before `time`.
fn millis_up(time: SystemTime) -> i64 {
    millis(time + Duration::from_nanos(999_999))
}

pub(super) fn from_millis(millis: i64) -> SystemTime {
    UNIX_EPOCH + Duration::from_millis(u64::try_from(millis).unwrap_or_default())
}

pub(super) fn as_millis(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}
