-- The money of budgets, in nano-dollars. Whoever changes an account holds its row's lock, taken in the order of the
-- keys, so that nobody waits in a circle. What is asked for is done by one statement, whose transaction ends with it:
-- no lock waits for a client. No table refers to another, since the lock covers what a reference would.
CREATE TABLE budget_account (
    -- The name's SHA-256: a name may be longer than a key.
    key   BYTEA PRIMARY KEY,
    name  BYTEA NOT NULL,
    -- Until when it is kept though nobody uses it.
    until TIMESTAMPTZ NOT NULL
) WITH (fillfactor = 50);

-- Sums are wider than amounts, so that none is too large.
CREATE TABLE budget_slot (
    account  BYTEA NOT NULL,
    -- Seconds since 1970.
    slot     BIGINT NOT NULL,
    spent    NUMERIC(30, 0) NOT NULL DEFAULT 0,
    reserved NUMERIC(30, 0) NOT NULL DEFAULT 0,
    calls    BIGINT NOT NULL DEFAULT 0,
    -- The most that was shown as spent.
    shown    NUMERIC(30, 0) NOT NULL DEFAULT 0,
    -- Whether it was found used up.
    used_up  BOOLEAN NOT NULL DEFAULT FALSE,
    PRIMARY KEY (account, slot)
) WITH (fillfactor = 50);

-- One row an attempt and account, until it is settled.
CREATE TABLE budget_hold (
    account BYTEA NOT NULL,
    attempt BYTEA NOT NULL,
    slot    BIGINT NOT NULL,
    amount  BIGINT NOT NULL,
    -- Whether it returns when nobody settles it in time; it stays spent otherwise.
    returns BOOLEAN NOT NULL,
    ends    TIMESTAMPTZ NOT NULL,
    expired BOOLEAN NOT NULL DEFAULT FALSE,
    PRIMARY KEY (account, attempt)
);

CREATE INDEX budget_hold_open ON budget_hold (ends) WHERE NOT expired;
CREATE INDEX budget_hold_expired ON budget_hold (ends) WHERE expired;

-- What an answer has shown as passed and nobody has confirmed yet to have told: the answer may be lost. Changed by
-- whoever holds the account's lock, and forgotten by whoever has told it.
CREATE TABLE budget_untold (
    account BYTEA NOT NULL,
    slot    BIGINT NOT NULL,
    -- The amount that was passed; -1: the account is used up.
    mark    BIGINT NOT NULL,
    -- Until when whoever was answered has time to tell.
    until   TIMESTAMPTZ NOT NULL,
    PRIMARY KEY (account, slot, mark)
);

-- Notes what an answer shows.
CREATE FUNCTION budget_note(key BYTEA, at BIGINT, passed BIGINT[], telling BIGINT) RETURNS VOID LANGUAGE sql AS $$
    INSERT INTO budget_untold (account, slot, mark, until)
    SELECT key, at, u.mark, clock_timestamp() + telling * interval '1 millisecond' FROM unnest(passed) AS u (mark)
    ON CONFLICT (account, slot, mark) DO UPDATE SET until = excluded.until
$$;

-- What is to be told again, by whoever is answered now: the least mark that is spent, and whether the account is used up.
CREATE FUNCTION budget_late(
    key BYTEA, since BIGINT, till BIGINT, spent NUMERIC, used_up BOOLEAN, telling BIGINT,
    OUT late_mark BIGINT, OUT late_use BOOLEAN
) LANGUAGE plpgsql AS $$
BEGIN
    late_use := FALSE;
    -- Hardly ever: a look costs less than a change that finds nothing.
    IF EXISTS (SELECT FROM budget_untold AS o WHERE o.account = key AND o.until <= clock_timestamp()) THEN
        WITH late AS (
            UPDATE budget_untold AS o SET until = clock_timestamp() + telling * interval '1 millisecond'
            WHERE o.account = key AND o.slot BETWEEN since AND till AND o.until <= clock_timestamp()
              AND CASE WHEN o.mark < 0 THEN used_up ELSE o.mark <= spent END
            RETURNING o.mark
        )
        SELECT min(mark) FILTER (WHERE mark >= 0), coalesce(bool_or(mark < 0), FALSE) INTO late_mark, late_use FROM late;
    END IF;
END
$$;

-- Lets go what nobody settled in time, in accounts that the caller has locked.
CREATE FUNCTION budget_expire(accounts BYTEA[], moment TIMESTAMPTZ) RETURNS VOID LANGUAGE sql AS $$
    WITH due AS (
        UPDATE budget_hold AS h SET expired = TRUE
        WHERE NOT h.expired AND h.ends <= moment AND h.account = ANY (accounts)
        RETURNING h.account, h.slot, h.amount, h.returns
    ), sums AS (
        SELECT account, slot, sum(amount) AS amount,
               coalesce(sum(amount) FILTER (WHERE NOT returns), 0) AS spent,
               count(*) FILTER (WHERE returns) AS calls
        FROM due GROUP BY account, slot
    )
    UPDATE budget_slot AS s
    SET reserved = s.reserved - sums.amount, spent = s.spent + sums.spent, calls = s.calls - sums.calls
    FROM sums WHERE s.account = sums.account AND s.slot = sums.slot
$$;

-- Sets aside for one attempt after another. `lasts` says where the lines of each end; a limit or a cap that is NULL
-- refuses nothing, and an account with a `keep` of NULL is kept for good. Times are milliseconds. Answers with the
-- attempts that were refused, counted from 1, and the first line of each, counted from 0, that has no room;
-- it is used up if an empty one had room, and nobody was told so. What is answered is to be told within `telling`.
CREATE FUNCTION budget_reserve(
    attempts BYTEA[], amounts BIGINT[], lives BIGINT[], lasts INT[],
    names BYTEA[], slots BIGINT[], sinces BIGINT[], untils BIGINT[],
    limits BIGINT[], caps BIGINT[], keeps BIGINT[], ways BOOLEAN[], telling BIGINT
) RETURNS TABLE (
    hold INT, line INT, spent BIGINT, reserved BIGINT, calls BIGINT, used_up BOOLEAN, untold BIGINT
) LANGUAGE plpgsql AS $$
#variable_conflict use_column
DECLARE
    keys   BYTEA[];
    moment TIMESTAMPTZ;
    first  INT := 1;
    past   INT;
    has    RECORD;
    marked BIGINT;
    used   BOOLEAN;
BEGIN
    INSERT INTO budget_account AS a (key, name, until)
    SELECT sha256(u.name), u.name,
           CASE WHEN bool_or(u.keep IS NULL) THEN 'infinity'
                ELSE clock_timestamp() + max(u.keep) * interval '1 millisecond' END
    FROM unnest(names, keeps) AS u (name, keep) GROUP BY u.name ORDER BY sha256(u.name)
    ON CONFLICT (key) DO UPDATE SET until = greatest(a.until, excluded.until);
    keys := ARRAY(SELECT sha256(u.name) FROM unnest(names) WITH ORDINALITY AS u (name, at) ORDER BY u.at);
    -- Not before the locks are held: what others did meanwhile may have expired.
    moment := clock_timestamp();
    PERFORM budget_expire(keys, moment);
    <<attempt>>
    FOR h IN 1 .. cardinality(attempts) LOOP
        past := first;
        first := lasts[h] + 1;
        FOR l IN past .. lasts[h] LOOP
            CONTINUE attempt WHEN EXISTS (
                SELECT FROM budget_hold AS o WHERE o.account = keys[l] AND o.attempt = attempts[h]
            );
            CONTINUE WHEN limits[l] IS NULL AND caps[l] IS NULL;
            SELECT coalesce(sum(s.spent), 0) AS spent, coalesce(sum(s.reserved), 0) AS reserved,
                   coalesce(sum(s.calls), 0) AS calls,
                   amounts[h] <= limits[l] AS could, coalesce(bool_or(s.used_up), FALSE) AS used_up
            INTO has FROM budget_slot AS s
            WHERE s.account = keys[l] AND s.slot BETWEEN sinces[l] AND untils[l];
            IF has.spent + has.reserved + amounts[h] > limits[l] OR has.calls >= caps[l] THEN
                marked := NULL;
                used := FALSE;
                IF has.could THEN
                    SELECT f.late_mark, f.late_use INTO marked, used
                    FROM budget_late(keys[l], sinces[l], untils[l], has.spent, has.used_up, telling) AS f;
                    IF NOT has.used_up THEN
                        INSERT INTO budget_slot (account, slot, used_up) VALUES (keys[l], slots[l], TRUE)
                        ON CONFLICT (account, slot) DO UPDATE SET used_up = TRUE;
                        PERFORM budget_note(keys[l], slots[l], ARRAY[-1::BIGINT], telling);
                    END IF;
                END IF;
                RETURN QUERY SELECT h, l - past, least(has.spent, 9223372036854775807)::BIGINT,
                                    least(has.reserved, 9223372036854775807)::BIGINT, has.calls::BIGINT,
                                    coalesce(has.could AND (used OR NOT has.used_up), FALSE), marked;
                CONTINUE attempt;
            END IF;
        END LOOP;
        FOR l IN past .. lasts[h] LOOP
            INSERT INTO budget_hold (account, attempt, slot, amount, returns, ends)
            VALUES (keys[l], attempts[h], slots[l], amounts[h], ways[l],
                    moment + lives[h] * interval '1 millisecond');
            UPDATE budget_slot AS s SET reserved = s.reserved + amounts[h], calls = s.calls + 1
            WHERE s.account = keys[l] AND s.slot = slots[l];
            CONTINUE WHEN FOUND;
            INSERT INTO budget_slot (account, slot, reserved, calls) VALUES (keys[l], slots[l], amounts[h], 1);
            -- A few that no longer count stay, for a clock that is set back.
            WITH gone AS (
                DELETE FROM budget_slot AS s
                WHERE s.account = keys[l] AND s.reserved = 0 AND s.slot <= (
                    SELECT o.slot FROM budget_slot AS o WHERE o.account = keys[l] AND o.slot < sinces[l]
                    ORDER BY o.slot DESC OFFSET 4 LIMIT 1
                ) RETURNING s.slot
            )
            DELETE FROM budget_untold AS o USING gone WHERE o.account = keys[l] AND o.slot = gone.slot;
        END LOOP;
    END LOOP;
END
$$;

-- Settles one attempt after another; a charge of NULL says that it was not sent. `ends` says where the marks of each line
-- end. Answers with the balance of every line of the attempts that were set aside; what it shows as passed is to be told
-- within `telling`.
CREATE FUNCTION budget_settle(
    attempts BYTEA[], charges BIGINT[], lasts INT[],
    names BYTEA[], slots BIGINT[], sinces BIGINT[], untils BIGINT[], limits BIGINT[],
    marks BIGINT[], ends INT[], telling BIGINT
) RETURNS TABLE (
    hold INT, spent BIGINT, reserved BIGINT, calls BIGINT, shown BIGINT, used_up BOOLEAN, untold BIGINT
) LANGUAGE plpgsql AS $$
#variable_conflict use_column
DECLARE
    keys  BYTEA[] := ARRAY(SELECT sha256(u.name) FROM unnest(names) WITH ORDINALITY AS u (name, at) ORDER BY u.at);
    first INT := 1;
    held  RECORD;
    has   RECORD;
    late  RECORD;
    news  BIGINT[];
BEGIN
    PERFORM FROM budget_account AS a WHERE a.key = ANY (keys) ORDER BY a.key FOR UPDATE;
    FOR h IN 1 .. cardinality(attempts) LOOP
        FOR l IN first .. lasts[h] LOOP
            DELETE FROM budget_hold AS o WHERE o.account = keys[l] AND o.attempt = attempts[h]
            RETURNING o.slot, o.amount, o.returns, o.expired INTO held;
            CONTINUE WHEN NOT FOUND;
            UPDATE budget_slot AS s
            SET reserved = s.reserved - CASE WHEN held.expired THEN 0 ELSE held.amount END,
                spent = s.spent - CASE WHEN held.expired AND NOT held.returns THEN held.amount ELSE 0 END
                        + coalesce(charges[h], 0),
                calls = s.calls + (held.expired AND held.returns)::INT - (charges[h] IS NULL)::INT
            WHERE s.account = keys[l] AND s.slot = held.slot;
            SELECT coalesce(sum(s.spent), 0) AS spent, coalesce(sum(s.reserved), 0) AS reserved,
                   coalesce(sum(s.calls), 0) AS calls, coalesce(max(s.shown), 0) AS shown,
                   coalesce(sum(s.spent) > 0 AND sum(s.spent) >= limits[l] AND NOT bool_or(s.used_up), FALSE)
                   AS is_first, coalesce(bool_or(s.used_up), FALSE) AS used_up
            INTO has FROM budget_slot AS s
            WHERE s.account = keys[l] AND s.slot BETWEEN sinces[l] AND untils[l];
            SELECT * INTO late FROM budget_late(keys[l], sinces[l], untils[l], has.spent, has.used_up, telling);
            IF has.spent > has.shown OR has.is_first THEN
                UPDATE budget_slot AS s
                SET shown = greatest(has.spent, has.shown), used_up = s.used_up OR has.is_first
                WHERE s.account = keys[l] AND s.slot = slots[l];
                news := ARRAY(
                    SELECT u.mark FROM unnest(marks[coalesce(ends[l - 1], 0) + 1 : ends[l]]) AS u (mark)
                    WHERE has.shown < u.mark AND u.mark <= has.spent
                );
                IF has.is_first THEN
                    news := news || -1::BIGINT;
                END IF;
                IF cardinality(news) > 0 THEN
                    PERFORM budget_note(keys[l], slots[l], news, telling);
                END IF;
            END IF;
            RETURN QUERY SELECT h, least(has.spent, 9223372036854775807)::BIGINT,
                                least(has.reserved, 9223372036854775807)::BIGINT, has.calls::BIGINT,
                                least(has.shown, 9223372036854775807)::BIGINT, has.is_first OR late.late_use, late.late_mark;
        END LOOP;
        first := lasts[h] + 1;
    END LOOP;
END
$$;

-- Lets go what is due in accounts that nobody asks for, and forgets what can no longer be settled and what is of no
-- more use; so many of each at most. Waits for nobody. Answers whether there is more.
CREATE FUNCTION budget_sweep(most INT, all_accounts BOOLEAN) RETURNS BOOLEAN LANGUAGE plpgsql AS $$
DECLARE
    keys   BYTEA[];
    gone   BIGINT;
    unused BIGINT;
BEGIN
    keys := ARRAY(
        SELECT a.key FROM budget_account AS a WHERE a.key IN (
            SELECT h.account FROM budget_hold AS h WHERE NOT h.expired AND h.ends <= clock_timestamp() LIMIT most
        ) ORDER BY a.key FOR UPDATE SKIP LOCKED
    );
    PERFORM budget_expire(keys, clock_timestamp());
    DELETE FROM budget_hold WHERE (account, attempt) IN (
        SELECT h.account, h.attempt FROM budget_hold AS h
        WHERE h.expired AND h.ends < clock_timestamp() - interval '1 day' LIMIT most FOR UPDATE SKIP LOCKED
    );
    GET DIAGNOSTICS gone = ROW_COUNT;
    IF all_accounts THEN
        keys := ARRAY(
            SELECT a.key FROM budget_account AS a
            WHERE a.until < clock_timestamp()
              AND NOT EXISTS (SELECT FROM budget_hold AS h WHERE h.account = a.key)
            LIMIT most FOR UPDATE OF a SKIP LOCKED
        );
        DELETE FROM budget_slot WHERE account = ANY (keys);
        DELETE FROM budget_untold WHERE account = ANY (keys);
        DELETE FROM budget_account WHERE key = ANY (keys);
        GET DIAGNOSTICS unused = ROW_COUNT;
        gone := greatest(gone, unused);
    END IF;
    RETURN gone = most;
END
$$;

-- Budgets for people. Names are quoted where they are not plain.
CREATE VIEW budget AS
SELECT encode(a.name, 'escape') AS name, to_timestamp(s.slot) AS slot,
       (s.spent / 1000000000.0)::NUMERIC(30, 9) AS spent_usd,
       (s.reserved / 1000000000.0)::NUMERIC(30, 9) AS reserved_usd, s.calls
FROM budget_slot AS s JOIN budget_account AS a ON a.key = s.account;
