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

CREATE TABLE portcullis.records (
    id text COLLATE "C" PRIMARY KEY,
    scope text NOT NULL,
    caller text NOT NULL,
    key text,
    -- Of scope, caller and key, as long as the key is taken: it is freed by the intent that wants it after its retention.
    key_hash bytea,
    "group" text NOT NULL,
    account text NOT NULL,
    region text NOT NULL,
    state text NOT NULL,
    unsettled boolean NOT NULL,
    fence bigint NOT NULL,
    version bigint NOT NULL,
    created bigint NOT NULL,
    held_until bigint NOT NULL,
    settled bigint,
    key_until bigint,
    record text NOT NULL
);
CREATE UNIQUE INDEX records_key ON portcullis.records (key_hash) WHERE key_hash IS NOT NULL;
CREATE UNIQUE INDEX records_unsettled ON portcullis.records ("group") WHERE unsettled;
CREATE INDEX records_held ON portcullis.records (held_until) WHERE unsettled;
CREATE INDEX records_settled ON portcullis.records (settled) WHERE settled IS NOT NULL;
-- For people: what waits for one of them, and who asks for what.
CREATE INDEX records_unresolved ON portcullis.records (id) WHERE state = 'UNRESOLVED';
CREATE INDEX records_caller ON portcullis.records (left(caller, 256), id);
CREATE INDEX records_group ON portcullis.records ("group", id);
CREATE INDEX records_target ON portcullis.records (account, region, id);
CREATE INDEX records_created ON portcullis.records (created);

-- One row for each write of a record, appended in its transaction. The chain is sealed later, in batches.
CREATE TABLE portcullis.events (
    seq bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    id text COLLATE "C" NOT NULL,
    version bigint NOT NULL,
    state text NOT NULL,
    at bigint NOT NULL,
    -- SHA-256 of the record's text.
    digest bytea NOT NULL,
    place bigint,
    hash bytea
);
CREATE INDEX events_id ON portcullis.events (id, seq);
CREATE INDEX events_unsealed ON portcullis.events (seq) WHERE place IS NULL;
CREATE UNIQUE INDEX events_place ON portcullis.events (place) WHERE place IS NOT NULL;

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

-- Writes a new record with its event, unless something stands against it or p_at is more than p_tolerance from now.
CREATE FUNCTION portcullis.insert_record(p_id text, p_scope text, p_caller text, p_key text, p_group text,
    p_account text, p_region text, p_state text, p_unsettled boolean, p_fence bigint, p_version bigint,
    p_created bigint, p_held_until bigint, p_settled bigint, p_key_until bigint, p_record text, p_digest bytea,
    p_at bigint, p_tolerance bigint, p_key_hash bytea, OUT at_now bigint, OUT done boolean)
LANGUAGE plpgsql AS $$
BEGIN
    at_now := portcullis.durable();
    done := false;
    IF abs(at_now - p_at) > p_tolerance THEN
        RETURN;
    END IF;
    -- An unsettled one is refused by the index.
    IF NOT p_unsettled AND EXISTS (SELECT FROM portcullis.records WHERE "group" = p_group AND unsettled) THEN
        RETURN;
    END IF;
    INSERT INTO portcullis.records (id, scope, caller, key, "group", account, region, state, unsettled, fence,
        version, created, held_until, settled, key_until, record, key_hash)
    VALUES (p_id, p_scope, p_caller, p_key, p_group, p_account, p_region, p_state, p_unsettled, p_fence,
        p_version, p_created, p_held_until, p_settled, p_key_until, p_record, p_key_hash)
    ON CONFLICT DO NOTHING;
    done := FOUND;
    IF done THEN
        INSERT INTO portcullis.events (id, version, state, at, digest)
        VALUES (p_id, p_version, p_state, p_at, p_digest);
    END IF;
END $$;

-- Writes a record over the version that was read, with its event. Without a hash the key is as it was.
CREATE FUNCTION portcullis.update_record(p_id text, p_scope text, p_caller text, p_key text, p_group text,
    p_account text, p_region text, p_state text, p_unsettled boolean, p_fence bigint, p_version bigint,
    p_created bigint, p_held_until bigint, p_settled bigint, p_key_until bigint, p_record text, p_digest bytea,
    p_at bigint, p_tolerance bigint, p_key_hash bytea, p_read bigint, OUT at_now bigint, OUT done boolean)
LANGUAGE plpgsql AS $$
BEGIN
    at_now := portcullis.durable();
    done := false;
    IF abs(at_now - p_at) > p_tolerance THEN
        RETURN;
    END IF;
    UPDATE portcullis.records SET scope = p_scope, caller = p_caller, key = p_key, "group" = p_group,
        account = p_account, region = p_region, state = p_state, unsettled = p_unsettled, fence = p_fence,
        version = p_version, created = p_created, held_until = p_held_until, settled = p_settled,
        key_until = p_key_until, record = p_record, key_hash = coalesce(p_key_hash, key_hash)
    WHERE id = p_id AND version = p_read;
    done := FOUND;
    IF done THEN
        INSERT INTO portcullis.events (id, version, state, at, digest)
        VALUES (p_id, p_version, p_state, p_at, p_digest);
    END IF;
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
        SELECT record INTO busy FROM portcullis.records WHERE "group" = p_group AND unsettled;
    END IF;
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
