-- Prices that records were priced by, each once.
CREATE TABLE price (
    id   BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    body TEXT NOT NULL UNIQUE
);

-- One row an attempt, a hit or a follower. Times are microseconds since 1970 (UTC), money is nano-dollars.
CREATE TABLE cost_record (
    id            BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    attempt       BYTEA NOT NULL UNIQUE,
    request       BYTEA NOT NULL,
    at            BIGINT NOT NULL,
    tenant        TEXT,
    session       TEXT,
    tags          TEXT,
    task          TEXT NOT NULL,
    priority      TEXT NOT NULL,
    upstream      TEXT NOT NULL,
    model         TEXT NOT NULL,
    -- '' where it is the model that was asked.
    served        TEXT,
    prompt        BIGINT NOT NULL,
    cached        BIGINT NOT NULL,
    completion    BIGINT NOT NULL,
    reasoning     BIGINT NOT NULL,
    images        BIGINT NOT NULL,
    pixels        BIGINT NOT NULL,
    seconds       BIGINT NOT NULL,
    usage_source  TEXT NOT NULL,
    -- NULL where there is no price.
    cost          BIGINT,
    -- False where the cost is an upper bound.
    cost_exact    BOOLEAN NOT NULL,
    saved         BIGINT,
    saved_exact   BOOLEAN NOT NULL,
    price         BIGINT REFERENCES price (id),
    price_version BIGINT,
    source        TEXT NOT NULL,
    ending        TEXT NOT NULL,
    error         TEXT,
    latency       BIGINT NOT NULL,
    first_token   BIGINT,
    batch         TEXT,
    arm           TEXT,
    trace_id      BYTEA,
    -- The process that makes the attempt, until it has ended.
    open_by       BIGINT,
    -- True where the process ended first: what is written here is the upper bound.
    recovered     BOOLEAN NOT NULL DEFAULT FALSE
);

CREATE INDEX cost_record_at ON cost_record (at);
CREATE INDEX cost_record_open ON cost_record (open_by) WHERE open_by IS NOT NULL;

-- Sums by hour (UTC), counted in hours since 1970, and by day in the reporting zone, counted in days since 1970.
CREATE TABLE cost_hour (
    bucket      BIGINT NOT NULL,
    upstream    TEXT COLLATE "C" NOT NULL,
    model       TEXT COLLATE "C" NOT NULL,
    -- '' for none.
    tenant      TEXT COLLATE "C" NOT NULL,
    task        TEXT COLLATE "C" NOT NULL,
    priority    TEXT COLLATE "C" NOT NULL,
    attempts    BIGINT NOT NULL,
    failed      BIGINT NOT NULL,
    cancelled   BIGINT NOT NULL,
    hits        BIGINT NOT NULL,
    followers   BIGINT NOT NULL,
    prompt      BIGINT NOT NULL,
    cached      BIGINT NOT NULL,
    completion  BIGINT NOT NULL,
    reasoning   BIGINT NOT NULL,
    images      BIGINT NOT NULL,
    known       BIGINT NOT NULL,
    unknown     BIGINT NOT NULL,
    unknowns    BIGINT NOT NULL,
    unpriced    BIGINT NOT NULL,
    saved       BIGINT NOT NULL,
    batch_saved BIGINT NOT NULL,
    PRIMARY KEY (bucket, upstream, model, tenant, task, priority)
);

CREATE TABLE cost_day (
    bucket      BIGINT NOT NULL,
    upstream    TEXT COLLATE "C" NOT NULL,
    model       TEXT COLLATE "C" NOT NULL,
    tenant      TEXT COLLATE "C" NOT NULL,
    task        TEXT COLLATE "C" NOT NULL,
    priority    TEXT COLLATE "C" NOT NULL,
    attempts    BIGINT NOT NULL,
    failed      BIGINT NOT NULL,
    cancelled   BIGINT NOT NULL,
    hits        BIGINT NOT NULL,
    followers   BIGINT NOT NULL,
    prompt      BIGINT NOT NULL,
    cached      BIGINT NOT NULL,
    completion  BIGINT NOT NULL,
    reasoning   BIGINT NOT NULL,
    images      BIGINT NOT NULL,
    known       BIGINT NOT NULL,
    unknown     BIGINT NOT NULL,
    unknowns    BIGINT NOT NULL,
    unpriced    BIGINT NOT NULL,
    saved       BIGINT NOT NULL,
    batch_saved BIGINT NOT NULL,
    PRIMARY KEY (bucket, upstream, model, tenant, task, priority)
);

-- The ledger for people: dollars, names and times that read well.
CREATE VIEW cost AS
SELECT to_timestamp(at / 1000000) AS at,
       encode(attempt, 'hex') AS attempt, encode(request, 'hex') AS request,
       tenant, session, tags, task, priority, upstream, model AS asked,
       coalesce(nullif(served, ''), model) AS model,
       prompt, cached, completion, reasoning, images, usage_source,
       (cost / 1000000000.0)::NUMERIC(20, 9) AS usd,
       CASE WHEN cost IS NULL THEN 'unpriced' WHEN cost_exact THEN 'known' ELSE 'at most' END AS cost,
       source, ending, error, latency / 1000 AS latency_ms, batch
FROM cost_record WHERE open_by IS NULL;
