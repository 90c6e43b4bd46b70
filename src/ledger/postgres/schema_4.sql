-- Version 4: an intent and its outcome take one query each.

ALTER FUNCTION portcullis.put(bigint, text, text, text, text, text, text, text, text, bigint, bigint, bigint, bigint,
    bigint, text, bytea, bigint, bigint, bytea, text, bigint, text, bigint) RENAME TO put_in_steps;

-- As before. Nearly all writes are the intent of a key that nobody has, or the outcome of one: each is one query, as beginning a
-- query takes longer than what it does here. Everything else goes step by step.
CREATE FUNCTION portcullis.put(p_now bigint, p_id text, p_scope text, p_caller text, p_key text, p_group text,
    p_account text, p_region text, p_state text, p_fence bigint, p_version bigint, p_created bigint,
    p_held_until bigint, p_settled bigint, p_record text, p_digest bytea, p_at bigint, p_tolerance bigint,
    p_key_hash bytea, p_step text, p_read bigint, p_frees text, p_frees_version bigint) RETURNS boolean
LANGUAGE plpgsql AS $$
BEGIN
    IF abs(p_now - p_at) > p_tolerance THEN
        RETURN false;
    END IF;
    IF p_step = 'opens' AND p_read IS NULL AND p_frees IS NULL THEN
        WITH opened AS (
            INSERT INTO portcullis.pending ("group", id) VALUES (p_group, p_id) ON CONFLICT DO NOTHING RETURNING 1),
        written AS (
            INSERT INTO portcullis.records (id, scope, caller, key, key_hash, "group", account, region, state, fence,
                version, created, held_until, settled, record)
            SELECT p_id, p_scope, p_caller, p_key, p_key_hash, p_group, p_account, p_region, p_state, p_fence,
                p_version, p_created, p_held_until, p_settled, p_record
            FROM opened)
        INSERT INTO portcullis.tail (id, version, state, at, digest)
        SELECT p_id, p_version, p_state, p_at, p_digest FROM opened;
        RETURN FOUND;
    END IF;
    IF p_step = 'closes' AND p_key_hash IS NULL AND p_frees IS NULL THEN
        -- Whose it is and of what, an outcome does not change.
        WITH written AS (
            UPDATE portcullis.records SET state = p_state, fence = p_fence, version = p_version,
                held_until = p_held_until, settled = p_settled, record = p_record
            WHERE id = p_id AND version = p_read RETURNING 1),
        closed AS (
            DELETE FROM portcullis.pending WHERE "group" = p_group AND id = p_id AND EXISTS (SELECT FROM written))
        INSERT INTO portcullis.tail (id, version, state, at, digest)
        SELECT p_id, p_version, p_state, p_at, p_digest FROM written;
        RETURN FOUND;
    END IF;
    RETURN portcullis.put_in_steps(p_now, p_id, p_scope, p_caller, p_key, p_group, p_account, p_region, p_state,
        p_fence, p_version, p_created, p_held_until, p_settled, p_record, p_digest, p_at, p_tolerance, p_key_hash,
        p_step, p_read, p_frees, p_frees_version);
END $$;
