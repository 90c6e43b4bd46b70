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
