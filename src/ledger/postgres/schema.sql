-- Version 1. What is searched stands beside the record; the record itself is the text that was hashed.

-- The ledger's clock. All times are milliseconds since 1970.
CREATE FUNCTION portcullis.now_ms() RETURNS bigint LANGUAGE sql VOLATILE
    AS 'SELECT floor(extract(epoch FROM clock_timestamp()) * 1000)::bigint';

CREATE TABLE portcullis.meta (
    one boolean PRIMARY KEY DEFAULT true CHECK (one),
    schema_version integer NOT NULL,
    backend text NOT NULL,
    checked bigint
);

-- No index holds anything that an outcome changes, and room is left on each page: so its update stays on the page and
-- touches no index.
CREATE TABLE portcullis.records (
    id text COLLATE "C" PRIMARY KEY,
    scope text NOT NULL,
    caller text COLLATE "C" NOT NULL,
    key text,
    -- Of scope, caller and key, as long as the key is taken: it is freed by the intent that wants it after its retention.
    key_hash bytea,
    "group" text COLLATE "C" NOT NULL,
    account text COLLATE "C" NOT NULL,
    region text COLLATE "C" NOT NULL,
    state text NOT NULL,
    fence bigint NOT NULL,
    version bigint NOT NULL,
    created bigint NOT NULL,
    held_until bigint NOT NULL,
    settled bigint,
    record text NOT NULL
) WITH (fillfactor = 50);
CREATE UNIQUE INDEX records_key ON portcullis.records (key_hash) WHERE key_hash IS NOT NULL;
-- For people: who asks for what.
CREATE INDEX records_caller ON portcullis.records (left(caller, 256), id);
CREATE INDEX records_group ON portcullis.records ("group", id);
CREATE INDEX records_target ON portcullis.records (account, region, id);
-- For them, and for the sweep: what is settled was created before.
CREATE INDEX records_created ON portcullis.records (created);

-- The unsettled record of each group: no replica can begin a second one.
CREATE TABLE portcullis.pending (
    "group" text COLLATE "C" PRIMARY KEY,
    id text COLLATE "C" NOT NULL
) WITH (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000);

-- What waits for people.
CREATE TABLE portcullis.unresolved (
    id text COLLATE "C" PRIMARY KEY
);

-- One row for each write of a record, appended in its transaction, until it is sealed.
CREATE TABLE portcullis.tail (
    seq bigint GENERATED ALWAYS AS IDENTITY,
    id text COLLATE "C" NOT NULL,
    version bigint NOT NULL,
    state text NOT NULL,
    at bigint NOT NULL,
    -- SHA-256 of the record's text.
    digest bytea NOT NULL
) WITH (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000);

-- The chain: what was sealed, never changed again.
CREATE TABLE portcullis.events (
    place bigint PRIMARY KEY,
    id text COLLATE "C" NOT NULL,
    version bigint NOT NULL,
    state text NOT NULL,
    at bigint NOT NULL,
    digest bytea NOT NULL,
    hash bytea NOT NULL
);
CREATE INDEX events_id ON portcullis.events (id, place);

-- Where the chain ends, and where what is kept of it begins.
CREATE TABLE portcullis.chain (
    one boolean PRIMARY KEY DEFAULT true CHECK (one),
    head_place bigint NOT NULL,
    head_hash bytea NOT NULL,
    anchor_place bigint NOT NULL,
    anchor_hash bytea NOT NULL
);
INSERT INTO portcullis.chain VALUES (true, 0, '\x', 0, '\x');

-- The lines for the turns of groups: tickets in order, and until when each is good.
CREATE UNLOGGED TABLE portcullis.turns (
    "group" text PRIMARY KEY,
    tickets bigint[] NOT NULL,
    leases bigint[] NOT NULL
) WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000);

-- What every call does is a function: its plans are kept by the server, whichever connection calls it, and the caller's
-- statement stays one transaction and one round trip.

-- The clock, and what holds for the transaction: its commit waits for the disk (and for the standby, if there is a
-- synchronous one), whatever the role's default is, and a lock is not waited for longer than a call is.
CREATE FUNCTION portcullis.durable() RETURNS bigint LANGUAGE plpgsql AS $$
BEGIN
    IF current_setting('synchronous_commit') NOT IN ('on', 'remote_apply') THEN
        PERFORM set_config('synchronous_commit', 'on', true);
    END IF;
    PERFORM set_config('lock_timeout', '2000', true);
    RETURN portcullis.now_ms();
END $$;

-- The same for turns, which a crash may lose.
CREATE FUNCTION portcullis.fleeting() RETURNS bigint LANGUAGE plpgsql AS $$
BEGIN
    PERFORM set_config('synchronous_commit', 'off', true);
    PERFORM set_config('lock_timeout', '2000', true);
    RETURN portcullis.now_ms();
END $$;

-- Writes a record with its event, unless something stands against it: the time that it was made for is more than
-- p_tolerance from now, its group has an unsettled record, its id or key is taken, its version is not the one that was
-- read. Says whether it was written; if not, it leaves nothing. Several in one statement see each other.
CREATE FUNCTION portcullis.put(p_now bigint, p_id text, p_scope text, p_caller text, p_key text, p_group text,
    p_account text, p_region text, p_state text, p_fence bigint, p_version bigint, p_created bigint,
    p_held_until bigint, p_settled bigint, p_record text, p_digest bytea, p_at bigint, p_tolerance bigint,
    p_key_hash bytea, p_step text, p_read bigint, p_frees text, p_frees_version bigint) RETURNS boolean
LANGUAGE plpgsql AS $$
DECLARE
    done boolean;
BEGIN
    IF abs(p_now - p_at) > p_tolerance THEN
        RETURN false;
    END IF;
    IF p_step = 'opens' THEN
        INSERT INTO portcullis.pending ("group", id) VALUES (p_group, p_id) ON CONFLICT DO NOTHING;
        IF NOT FOUND THEN
            RETURN false;
        END IF;
    ELSIF p_step = 'born settled' AND EXISTS (SELECT FROM portcullis.pending WHERE "group" = p_group) THEN
        RETURN false;
    END IF;
    IF p_frees IS NOT NULL THEN
        UPDATE portcullis.records SET key_hash = NULL WHERE id = p_frees AND version = p_frees_version;
    END IF;
    IF p_read IS NULL THEN
        INSERT INTO portcullis.records (id, scope, caller, key, key_hash, "group", account, region, state, fence,
            version, created, held_until, settled, record)
        VALUES (p_id, p_scope, p_caller, p_key, p_key_hash, p_group, p_account, p_region, p_state, p_fence,
            p_version, p_created, p_held_until, p_settled, p_record)
        ON CONFLICT DO NOTHING;
    ELSE
        -- Without a hash the key is as it was.
        UPDATE portcullis.records SET scope = p_scope, caller = p_caller, key = p_key,
            key_hash = coalesce(p_key_hash, key_hash), "group" = p_group, account = p_account, region = p_region,
            state = p_state, fence = p_fence, version = p_version, created = p_created,
            held_until = p_held_until, settled = p_settled, record = p_record
        WHERE id = p_id AND version = p_read;
    END IF;
    done := FOUND;
    IF p_step = 'closes' AND done OR p_step = 'opens' AND NOT done THEN
        DELETE FROM portcullis.pending WHERE "group" = p_group AND id = p_id;
    ELSIF p_step = 'waits' AND done THEN
        DELETE FROM portcullis.pending WHERE "group" = p_group AND id = p_id;
        INSERT INTO portcullis.unresolved (id) VALUES (p_id) ON CONFLICT DO NOTHING;
    ELSIF p_step = 'decided' AND done THEN
        DELETE FROM portcullis.unresolved WHERE id = p_id;
    END IF;
    IF done THEN
        INSERT INTO portcullis.tail (id, version, state, at, digest)
        VALUES (p_id, p_version, p_state, p_at, p_digest);
    END IF;
    RETURN done;
END $$;

-- What concerns a call: the record with an id, the one with a key, the unsettled one of a group.
CREATE FUNCTION portcullis.look(p_id text, p_key_hash bytea, p_group text,
    OUT at_now bigint, OUT mine text, OUT held text, OUT busy text)
LANGUAGE plpgsql AS $$
BEGIN
    at_now := portcullis.now_ms();
    IF p_id IS NOT NULL THEN
        SELECT record INTO mine FROM portcullis.records WHERE id = p_id;
    END IF;
    IF p_key_hash IS NOT NULL THEN
        SELECT record INTO held FROM portcullis.records WHERE key_hash = p_key_hash;
    END IF;
    IF p_group IS NOT NULL THEN
        SELECT record INTO busy FROM portcullis.records
        WHERE id = (SELECT id FROM portcullis.pending WHERE "group" = p_group);
    END IF;
END $$;

-- Seals what is not sealed yet, at most p_most events, unless somebody else is at it: each gets its place behind the
-- chain's end, and the hash over itself and the one before. As Event::hash in chain.rs. Returns how many.
CREATE FUNCTION portcullis.seal(p_most bigint, OUT sealed bigint) LANGUAGE plpgsql AS $$
DECLARE
    c portcullis.chain;
    e record;
    e_id bytea;
    e_state bytea;
BEGIN
    PERFORM portcullis.durable();
    sealed := 0;
    -- Nothing to do writes nothing.
    IF NOT EXISTS (SELECT FROM portcullis.tail) THEN
        RETURN;
    END IF;
    SELECT * INTO c FROM portcullis.chain FOR UPDATE SKIP LOCKED;
    IF NOT FOUND THEN
        RETURN;
    END IF;
    FOR e IN WITH gone AS (
            DELETE FROM portcullis.tail WHERE ctid = ANY (ARRAY (
                SELECT t.ctid FROM portcullis.tail t ORDER BY t.seq LIMIT p_most))
            RETURNING *)
        SELECT * FROM gone ORDER BY seq
    LOOP
        sealed := sealed + 1;
        c.head_place := c.head_place + 1;
        e_id := convert_to(e.id, 'UTF8');
        e_state := convert_to(e.state, 'UTF8');
        c.head_hash := sha256(int8send(length(c.head_hash)) || c.head_hash || int8send(length(e_id)) || e_id
            || int8send(length(e_state)) || e_state || int8send(length(e.digest)) || e.digest
            || int8send(c.head_place) || int8send(e.version) || int8send(e.at));
        INSERT INTO portcullis.events (place, id, version, state, at, digest, hash)
        VALUES (c.head_place, e.id, e.version, e.state, e.at, e.digest, c.head_hash);
    END LOOP;
    IF sealed > 0 THEN
        UPDATE portcullis.chain SET head_place = c.head_place, head_hash = c.head_hash;
    END IF;
END $$;

-- Cuts the chain's beginning, unless somebody else is at it: at most p_most events, none younger than p_age, and keeps
-- the hash it is cut at. The last events of records that are still here are said again first. Returns how many went.
CREATE FUNCTION portcullis.cut(p_age bigint, p_most bigint, OUT gone bigint) LANGUAGE plpgsql AS $$
DECLARE
    at_now bigint := portcullis.durable();
    c portcullis.chain;
    last bigint;
BEGIN
    gone := 0;
    SELECT * INTO c FROM portcullis.chain FOR UPDATE SKIP LOCKED;
    IF NOT FOUND THEN
        RETURN;
    END IF;
    SELECT least(c.anchor_place + p_most, c.head_place, min(e.place) - 1) INTO last FROM portcullis.events e
    WHERE e.place > c.anchor_place AND e.place <= c.anchor_place + p_most AND e.at > at_now - p_age;
    IF last <= c.anchor_place THEN
        RETURN;
    END IF;
    INSERT INTO portcullis.tail (id, version, state, at, digest)
    SELECT e.id, e.version, e.state, at_now, e.digest FROM portcullis.events e
    JOIN portcullis.records r ON r.id = e.id AND r.version = e.version
    WHERE e.place > c.anchor_place AND e.place <= last
        AND NOT EXISTS (SELECT FROM portcullis.events l WHERE l.id = e.id AND l.place > e.place)
        AND NOT EXISTS (SELECT FROM portcullis.tail l WHERE l.id = e.id);
    UPDATE portcullis.chain SET anchor_place = last,
        anchor_hash = (SELECT e.hash FROM portcullis.events e WHERE e.place = last);
    DELETE FROM portcullis.events e WHERE e.place <= last;
    GET DIAGNOSTICS gone = ROW_COUNT;
END $$;

-- Enters the line of a group, or stays in it: the ticket's place, from 1. Null: the line is full. Tickets whose lease
-- is over leave. The row's lock is the order: each sees the line as the one before it left it.
CREATE FUNCTION portcullis.enter(p_group text, p_ticket bigint, p_lease bigint, p_most bigint, OUT place integer)
LANGUAGE plpgsql AS $$
DECLARE
    at_now bigint := portcullis.fleeting();
BEGIN
    INSERT INTO portcullis.turns AS t ("group", tickets, leases)
    VALUES (p_group, ARRAY[p_ticket], ARRAY[at_now + p_lease])
    ON CONFLICT ("group") DO UPDATE SET (tickets, leases) = (
        SELECT array_agg(line.ticket ORDER BY line.nth), array_agg(line.lease ORDER BY line.nth) FROM (
            SELECT l.ticket, CASE l.ticket WHEN p_ticket THEN at_now + p_lease ELSE l.lease END AS lease, l.nth
            FROM unnest(t.tickets, t.leases) WITH ORDINALITY AS l (ticket, lease, nth)
            WHERE l.ticket = p_ticket OR l.lease > at_now
            UNION ALL
            SELECT p_ticket, at_now + p_lease, 1000000
            WHERE p_ticket <> ALL (t.tickets)
                AND (SELECT count(*) FROM unnest(t.leases) AS l (lease) WHERE l.lease > at_now) < p_most
        ) line)
    RETURNING array_position(t.tickets, p_ticket) INTO place;
END $$;

-- Leaves the line.
CREATE FUNCTION portcullis.leave(p_group text, p_ticket bigint) RETURNS void
LANGUAGE plpgsql AS $$
BEGIN
    PERFORM portcullis.fleeting();
    DELETE FROM portcullis.turns WHERE "group" = p_group AND tickets = ARRAY[p_ticket];
    IF NOT FOUND THEN
        UPDATE portcullis.turns t SET (tickets, leases) = (
            SELECT coalesce(array_agg(l.ticket ORDER BY l.nth), '{}'), coalesce(array_agg(l.lease ORDER BY l.nth), '{}')
            FROM unnest(t.tickets, t.leases) WITH ORDINALITY AS l (ticket, lease, nth) WHERE l.ticket <> p_ticket)
        WHERE "group" = p_group;
    END IF;
END $$;
