-- Version 2: EC2's budget, shared by the replicas. A crash may lose all of it: what is not there begins as spent.

-- The replicas that are there. Whoever has not been seen for a minute is not.
CREATE UNLOGGED TABLE portcullis.replicas (
    replica bigint PRIMARY KEY,
    seen bigint NOT NULL
);

-- The bucket of one action in one account and Region. Tokens are counted in millionths.
CREATE UNLOGGED TABLE portcullis.budget (
    account text NOT NULL,
    region text NOT NULL,
    action text NOT NULL,
    -- Below zero: slots that are still to come have been given away.
    credit bigint NOT NULL,
    at bigint NOT NULL,
    -- How much of the rate is used, in percent: EC2 has throttled somebody.
    pace integer NOT NULL,
    next_step bigint NOT NULL,
    slowing_until bigint NOT NULL,
    PRIMARY KEY (account, region, action)
) WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000);

-- The slots that each replica has been given and has not used: they count against the burst.
CREATE UNLOGGED TABLE portcullis.budget_held (
    account text NOT NULL,
    region text NOT NULL,
    action text NOT NULL,
    replica bigint NOT NULL,
    held bigint NOT NULL,
    PRIMARY KEY (account, region, action, replica)
) WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000);

-- A replica says that it is there, and cleans up behind those that are not: how many are. A time that is ahead is of a
-- clock that was set back since.
CREATE FUNCTION portcullis.present(p_replica bigint, OUT replicas bigint) LANGUAGE plpgsql AS $$
DECLARE
    at_now bigint := portcullis.fleeting();
BEGIN
    INSERT INTO portcullis.replicas AS r (replica, seen) VALUES (p_replica, at_now)
    ON CONFLICT (replica) DO UPDATE SET seen = at_now;
    DELETE FROM portcullis.replicas r WHERE abs(at_now - r.seen) > 60000;
    DELETE FROM portcullis.budget_held h
    WHERE NOT EXISTS (SELECT FROM portcullis.replicas r WHERE r.replica = h.replica);
    DELETE FROM portcullis.budget b WHERE abs(at_now - b.at) > 86400000;
    SELECT count(*) INTO replicas FROM portcullis.replicas;
END $$;

-- A replica reports and takes slots: as many as are there, else the next one that comes, if it is not further away than
-- p_patience. As src/pacing.rs does it in one process; the row's lock is the order.
CREATE FUNCTION portcullis.take_slots(p_account text, p_region text, p_action text, p_replica bigint,
    p_capacity bigint, p_rate bigint, p_holds boolean, p_held bigint, p_back bigint, p_charged bigint,
    p_throttled boolean, p_spent boolean, p_want bigint, p_patience bigint,
    OUT granted bigint, OUT wait bigint, OUT left_over bigint, OUT pace_now integer)
LANGUAGE plpgsql AS $$
DECLARE
    token CONSTANT bigint := 1000000;
    step CONSTANT bigint := 1000;
    at_now bigint := portcullis.fleeting();
    b portcullis.budget;
    others bigint;
    mine bigint;
    most bigint;
    rate bigint;
BEGIN
    INSERT INTO portcullis.budget (account, region, action, credit, at, pace, next_step, slowing_until)
    VALUES (p_account, p_region, p_action, 0, at_now, 100, at_now, at_now)
    ON CONFLICT (account, region, action) DO NOTHING;
    SELECT * INTO b FROM portcullis.budget t
    WHERE t.account = p_account AND t.region = p_region AND t.action = p_action FOR UPDATE;
    -- The lock may have been waited for.
    at_now := portcullis.now_ms();
    IF at_now < b.at THEN
        -- The clock was set back: nothing is gained by it, and nothing is waited for.
        b.at := at_now;
        b.next_step := least(b.next_step, at_now + step);
        b.slowing_until := least(b.slowing_until, at_now + step);
    END IF;
    SELECT coalesce(sum(h.held) FILTER (WHERE h.replica <> p_replica), 0),
        coalesce(sum(h.held) FILTER (WHERE h.replica = p_replica), 0)
    INTO others, mine FROM portcullis.budget_held h
    WHERE h.account = p_account AND h.region = p_region AND h.action = p_action;

    -- What was gained, and the pace that came back, until now.
    most := p_capacity - (others + mine) * token;
    WHILE b.pace < 100 AND b.next_step <= at_now LOOP
        rate := greatest(p_rate * b.pace / 100, 1);
        b.credit := least(b.credit + rate * greatest(b.next_step - b.at, 0), most);
        b.at := greatest(b.next_step, b.at);
        b.pace := least(b.pace + 5, 100);
        b.next_step := b.next_step + step;
    END LOOP;
    rate := greatest(p_rate * b.pace / 100, 1);
    b.credit := least(b.credit + rate * (at_now - b.at), most);
    b.at := at_now;

    -- What the replica reports.
    IF NOT p_holds THEN
        p_held := 0;
    END IF;
    most := p_capacity - (others + p_held) * token;
    b.credit := least(b.credit + p_back * token, most) - p_charged * token;
    IF p_spent OR p_throttled THEN
        b.credit := least(b.credit, 0);
    END IF;
    IF p_throttled THEN
        IF at_now >= b.slowing_until THEN
            b.pace := greatest(b.pace / 2, 5);
            b.slowing_until := at_now + step;
        END IF;
        b.next_step := at_now + step;
        rate := greatest(p_rate * b.pace / 100, 1);
    END IF;

    -- What it gets.
    granted := 0;
    wait := 0;
    IF p_want > 0 AND most < token THEN
        wait := 250;
    ELSIF p_want > 0 AND b.credit >= token THEN
        granted := least(p_want, b.credit / token);
    ELSIF p_want > 0 THEN
        wait := (token - b.credit + rate - 1) / rate;
        IF wait <= p_patience THEN
            granted := 1;
        END IF;
    END IF;
    b.credit := b.credit - granted * token;
    IF p_holds AND p_held + granted <> mine THEN
        INSERT INTO portcullis.budget_held AS h (account, region, action, replica, held)
        VALUES (p_account, p_region, p_action, p_replica, p_held + granted)
        ON CONFLICT (account, region, action, replica) DO UPDATE SET held = excluded.held;
    END IF;
    UPDATE portcullis.budget t
    SET credit = b.credit, at = b.at, pace = b.pace, next_step = b.next_step, slowing_until = b.slowing_until
    WHERE t.account = p_account AND t.region = p_region AND t.action = p_action;
    left_over := b.credit;
    pace_now := b.pace;
END $$;
