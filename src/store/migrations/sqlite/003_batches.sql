-- The journal of batches. Times are microseconds since 1970 (UTC), money is nano-dollars; no text of a prompt or an answer
-- is here, only where it is in the batch's folder.

-- Batches whose lines are still being written, by whom. Nobody sees them; those of a process that is gone are deleted.
CREATE TABLE planning (
    id    TEXT PRIMARY KEY,
    owner INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE batch (
    id         TEXT PRIMARY KEY,
    tenant     TEXT,
    name       TEXT,
    -- The hash of everything that was asked.
    content    BLOB NOT NULL,
    state      TEXT NOT NULL,
    -- The process that gathers its lines.
    owner      INTEGER,
    round      INTEGER NOT NULL,
    total      INTEGER NOT NULL,
    created    INTEGER NOT NULL,
    deadline   INTEGER,
    finished   INTEGER,
    policy     TEXT NOT NULL,
    -- Whether its requests are still in its folder.
    asked      INTEGER NOT NULL DEFAULT 1,
    -- The last number in the order of arrival; then sums over its lines, kept with them.
    arrived    INTEGER NOT NULL DEFAULT 0,
    done       INTEGER NOT NULL DEFAULT 0,
    failed     INTEGER NOT NULL DEFAULT 0,
    cancelled  INTEGER NOT NULL DEFAULT 0,
    hits       INTEGER NOT NULL DEFAULT 0,
    copies     INTEGER NOT NULL DEFAULT 0,
    rescued    INTEGER NOT NULL DEFAULT 0,
    retried    INTEGER NOT NULL DEFAULT 0,
    unpriced   INTEGER NOT NULL DEFAULT 0,
    cost       INTEGER NOT NULL DEFAULT 0,
    prompt     INTEGER NOT NULL DEFAULT 0,
    cached     INTEGER NOT NULL DEFAULT 0,
    completion INTEGER NOT NULL DEFAULT 0,
    reasoning  INTEGER NOT NULL DEFAULT 0,
    images     INTEGER NOT NULL DEFAULT 0,
    pixels     INTEGER NOT NULL DEFAULT 0,
    seconds    INTEGER NOT NULL DEFAULT 0
) STRICT, WITHOUT ROWID;

-- A name of no tenant is not one of the tenant ''.
CREATE UNIQUE INDEX batch_name ON batch (name, (coalesce(tenant, '')), (tenant IS NULL)) WHERE name IS NOT NULL;
CREATE INDEX batch_open ON batch (state) WHERE state <> 'finished';
CREATE INDEX batch_over ON batch (finished) WHERE finished IS NOT NULL;

CREATE TABLE chunk (
    batch         TEXT NOT NULL,
    round         INTEGER NOT NULL,
    no            INTEGER NOT NULL,
    state         TEXT NOT NULL,
    -- Where it was before.
    was           TEXT,
    since         INTEGER NOT NULL,
    -- When its job was last seen to be further than before; none until a job was looked at.
    moved         INTEGER,
    upstream      TEXT NOT NULL,
    model         TEXT NOT NULL,
    endpoint      TEXT NOT NULL,
    way           TEXT NOT NULL,
    lines         INTEGER NOT NULL,
    bytes         INTEGER NOT NULL,
    tokens        INTEGER NOT NULL,
    intent_at     INTEGER,
    remote_id     TEXT,
    remote_status TEXT,
    -- Thousandths of a percent.
    progress      INTEGER,
    output_file   TEXT,
    error_file    TEXT,
    error         TEXT,
    late          INTEGER NOT NULL DEFAULT 0,
    next_at       INTEGER NOT NULL,
    owner         INTEGER,
    -- Counts its owners: what an earlier one writes is refused.
    fence         INTEGER NOT NULL DEFAULT 0,
    lease_until   INTEGER,
    PRIMARY KEY (batch, round, no)
) STRICT, WITHOUT ROWID;

CREATE INDEX chunk_open ON chunk (next_at) WHERE state NOT IN ('settled', 'refused', 'rescued', 'dropped');
CREATE UNIQUE INDEX chunk_job ON chunk (upstream, remote_id) WHERE remote_id IS NOT NULL;

CREATE TABLE line (
    batch         TEXT NOT NULL,
    idx           INTEGER NOT NULL,
    user_id       TEXT,
    -- Where the request is.
    off           INTEGER NOT NULL,
    len           INTEGER NOT NULL,
    cache_key     BLOB,
    -- The line that it repeats, which has the answer of both.
    copy_of       INTEGER,
    -- 0 waits, 1 is done, 2 failed, 3 was cancelled.
    state         INTEGER NOT NULL,
    round         INTEGER,
    chunk         INTEGER,
    attempts      INTEGER NOT NULL DEFAULT 0,
    arrived       INTEGER,
    -- Where the answer is, or the provider's row of the error.
    file          TEXT,
    answer_off    INTEGER,
    answer_len    INTEGER,
    prompt        INTEGER NOT NULL DEFAULT 0,
    cached        INTEGER NOT NULL DEFAULT 0,
    completion    INTEGER NOT NULL DEFAULT 0,
    reasoning     INTEGER NOT NULL DEFAULT 0,
    images        INTEGER NOT NULL DEFAULT 0,
    pixels        INTEGER NOT NULL DEFAULT 0,
    seconds       INTEGER NOT NULL DEFAULT 0,
    cost          INTEGER,
    hit           INTEGER NOT NULL DEFAULT 0,
    rescued       INTEGER NOT NULL DEFAULT 0,
    singly        INTEGER NOT NULL DEFAULT 0,
    error_kind    TEXT,
    error_code    TEXT,
    error_message TEXT,
    PRIMARY KEY (batch, idx)
) STRICT, WITHOUT ROWID;

CREATE INDEX line_waiting ON line (batch, round, chunk) WHERE state = 0 AND chunk IS NOT NULL;
CREATE INDEX line_copy ON line (batch, copy_of) WHERE copy_of IS NOT NULL;
CREATE INDEX line_arrived ON line (batch, arrived) WHERE arrived IS NOT NULL;
CREATE INDEX line_failed ON line (batch, idx) WHERE state = 2;

-- What happened to chunks, each change once; rows are only added.
CREATE TABLE transition (
    seq        INTEGER PRIMARY KEY,
    batch      TEXT NOT NULL,
    round      INTEGER NOT NULL,
    no         INTEGER NOT NULL,
    from_state TEXT,
    to_state   TEXT NOT NULL,
    at         INTEGER NOT NULL,
    fence      INTEGER NOT NULL
) STRICT;

CREATE INDEX transition_of ON transition (batch);

-- Models that do not take batches, until they are asked again.
CREATE TABLE refusal (
    upstream TEXT NOT NULL,
    model    TEXT NOT NULL,
    until    INTEGER NOT NULL,
    PRIMARY KEY (upstream, model)
) STRICT, WITHOUT ROWID;

-- Processes that work on batches, and when they said so last.
CREATE TABLE worker (
    process INTEGER PRIMARY KEY,
    beat    INTEGER NOT NULL
) STRICT;
