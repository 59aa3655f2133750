-- The journal of batches. Times are microseconds since 1970 (UTC), money is nano-dollars; no text of a prompt or an answer
-- is here, only where it is in the batch's folder.

-- Batches whose lines are still being written, by whom. Nobody sees them; those of a process that is gone are deleted.
CREATE TABLE planning (
    id    TEXT PRIMARY KEY,
    owner BIGINT NOT NULL
);

CREATE TABLE batch (
    id         TEXT PRIMARY KEY,
    tenant     TEXT,
    name       TEXT,
    -- The hash of everything that was asked.
    content    BYTEA NOT NULL,
    state      TEXT NOT NULL,
    -- The process that gathers its lines.
    owner      BIGINT,
    round      BIGINT NOT NULL,
    total      BIGINT NOT NULL,
    created    BIGINT NOT NULL,
    deadline   BIGINT,
    finished   BIGINT,
    policy     TEXT NOT NULL,
    -- Whether its requests are still in its folder.
    asked      BIGINT NOT NULL DEFAULT 1,
    -- The last number in the order of arrival; then sums over its lines, kept with them.
    arrived    BIGINT NOT NULL DEFAULT 0,
    done       BIGINT NOT NULL DEFAULT 0,
    failed     BIGINT NOT NULL DEFAULT 0,
    cancelled  BIGINT NOT NULL DEFAULT 0,
    hits       BIGINT NOT NULL DEFAULT 0,
    copies     BIGINT NOT NULL DEFAULT 0,
    rescued    BIGINT NOT NULL DEFAULT 0,
    retried    BIGINT NOT NULL DEFAULT 0,
    unpriced   BIGINT NOT NULL DEFAULT 0,
    cost       BIGINT NOT NULL DEFAULT 0,
    prompt     BIGINT NOT NULL DEFAULT 0,
    cached     BIGINT NOT NULL DEFAULT 0,
    completion BIGINT NOT NULL DEFAULT 0,
    reasoning  BIGINT NOT NULL DEFAULT 0,
    images     BIGINT NOT NULL DEFAULT 0,
    pixels     BIGINT NOT NULL DEFAULT 0,
    seconds    BIGINT NOT NULL DEFAULT 0
);

-- A name of no tenant is not one of the tenant ''.
CREATE UNIQUE INDEX batch_name ON batch (name, (coalesce(tenant, '')), (tenant IS NULL)) WHERE name IS NOT NULL;
CREATE INDEX batch_open ON batch (state) WHERE state <> 'finished';
CREATE INDEX batch_over ON batch (finished) WHERE finished IS NOT NULL;

CREATE TABLE chunk (
    batch         TEXT NOT NULL,
    round         BIGINT NOT NULL,
    no            BIGINT NOT NULL,
    state         TEXT NOT NULL,
    -- Where it was before.
    was           TEXT,
    since         BIGINT NOT NULL,
    -- When its job was last seen to be further than before; none until a job was looked at.
    moved         BIGINT,
    upstream      TEXT NOT NULL,
    model         TEXT NOT NULL,
    endpoint      TEXT NOT NULL,
    way           TEXT NOT NULL,
    lines         BIGINT NOT NULL,
    bytes         BIGINT NOT NULL,
    tokens        BIGINT NOT NULL,
    intent_at     BIGINT,
    remote_id     TEXT,
    remote_status TEXT,
    -- Thousandths of a percent.
    progress      BIGINT,
    output_file   TEXT,
    error_file    TEXT,
    error         TEXT,
    late          BIGINT NOT NULL DEFAULT 0,
    next_at       BIGINT NOT NULL,
    owner         BIGINT,
    -- Counts its owners: what an earlier one writes is refused.
    fence         BIGINT NOT NULL DEFAULT 0,
    lease_until   BIGINT,
    PRIMARY KEY (batch, round, no)
);

CREATE INDEX chunk_open ON chunk (next_at) WHERE state NOT IN ('settled', 'refused', 'rescued', 'dropped');
CREATE UNIQUE INDEX chunk_job ON chunk (upstream, remote_id) WHERE remote_id IS NOT NULL;

CREATE TABLE line (
    batch         TEXT NOT NULL,
    idx           BIGINT NOT NULL,
    user_id       TEXT,
    -- Where the request is.
    off           BIGINT NOT NULL,
    len           BIGINT NOT NULL,
    cache_key     BYTEA,
    -- The line that it repeats, which has the answer of both.
    copy_of       BIGINT,
    -- 0 waits, 1 is done, 2 failed, 3 was cancelled.
    state         BIGINT NOT NULL,
    round         BIGINT,
    chunk         BIGINT,
    attempts      BIGINT NOT NULL DEFAULT 0,
    arrived       BIGINT,
    -- Where the answer is, or the provider's row of the error.
    file          TEXT,
    answer_off    BIGINT,
    answer_len    BIGINT,
    prompt        BIGINT NOT NULL DEFAULT 0,
    cached        BIGINT NOT NULL DEFAULT 0,
    completion    BIGINT NOT NULL DEFAULT 0,
    reasoning     BIGINT NOT NULL DEFAULT 0,
    images        BIGINT NOT NULL DEFAULT 0,
    pixels        BIGINT NOT NULL DEFAULT 0,
    seconds       BIGINT NOT NULL DEFAULT 0,
    cost          BIGINT,
    hit           BIGINT NOT NULL DEFAULT 0,
    rescued       BIGINT NOT NULL DEFAULT 0,
    singly        BIGINT NOT NULL DEFAULT 0,
    error_kind    TEXT,
    error_code    TEXT,
    error_message TEXT,
    PRIMARY KEY (batch, idx)
);

CREATE INDEX line_waiting ON line (batch, round, chunk) WHERE state = 0 AND chunk IS NOT NULL;
CREATE INDEX line_copy ON line (batch, copy_of) WHERE copy_of IS NOT NULL;
CREATE INDEX line_arrived ON line (batch, arrived) WHERE arrived IS NOT NULL;
CREATE INDEX line_failed ON line (batch, idx) WHERE state = 2;

-- What happened to chunks, each change once; rows are only added.
CREATE TABLE transition (
    seq        BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    batch      TEXT NOT NULL,
    round      BIGINT NOT NULL,
    no         BIGINT NOT NULL,
    from_state TEXT,
    to_state   TEXT NOT NULL,
    at         BIGINT NOT NULL,
    fence      BIGINT NOT NULL
);

CREATE INDEX transition_of ON transition (batch);

-- Models that do not take batches, until they are asked again.
CREATE TABLE refusal (
    upstream TEXT NOT NULL,
    model    TEXT NOT NULL,
    until    BIGINT NOT NULL,
    PRIMARY KEY (upstream, model)
);

-- Processes that work on batches, and when they said so last.
CREATE TABLE worker (
    process BIGINT PRIMARY KEY,
    beat    BIGINT NOT NULL
);
