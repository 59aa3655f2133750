-- Prices that records were priced by, each once.
CREATE TABLE price (
    id   INTEGER PRIMARY KEY,
    body TEXT NOT NULL UNIQUE
) STRICT;

-- One row an attempt, a hit or a follower. Times are microseconds since 1970 (UTC), money is nano-dollars.
CREATE TABLE cost_record (
    id            INTEGER PRIMARY KEY,
    attempt       BLOB NOT NULL UNIQUE,
    request       BLOB NOT NULL,
    at            INTEGER NOT NULL,
    tenant        TEXT,
    session       TEXT,
    tags          TEXT,
    task          TEXT NOT NULL,
    priority      TEXT NOT NULL,
    upstream      TEXT NOT NULL,
    model         TEXT NOT NULL,
    -- '' where it is the model that was asked.
    served        TEXT,
    prompt        INTEGER NOT NULL,
    cached        INTEGER NOT NULL,
    completion    INTEGER NOT NULL,
    reasoning     INTEGER NOT NULL,
    images        INTEGER NOT NULL,
    pixels        INTEGER NOT NULL,
    seconds       INTEGER NOT NULL,
    usage_source  TEXT NOT NULL,
    -- NULL where there is no price.
    cost          INTEGER,
    -- 0 where the cost is an upper bound.
    cost_exact    INTEGER NOT NULL,
    saved         INTEGER,
    saved_exact   INTEGER NOT NULL,
    price         INTEGER REFERENCES price (id),
    price_version INTEGER,
    source        TEXT NOT NULL,
    ending        TEXT NOT NULL,
    error         TEXT,
    latency       INTEGER NOT NULL,
    first_token   INTEGER,
    batch         TEXT,
    arm           TEXT,
    trace_id      BLOB,
    -- The process that makes the attempt, until it has ended.
    open_by       INTEGER,
    -- 1 where the process ended first: what is written here is the upper bound.
    recovered     INTEGER NOT NULL DEFAULT 0
) STRICT;

CREATE INDEX cost_record_at ON cost_record (at);
CREATE INDEX cost_record_open ON cost_record (open_by) WHERE open_by IS NOT NULL;

-- Sums by hour (UTC), counted in hours since 1970, and by day in the reporting zone, counted in days since 1970.
CREATE TABLE cost_hour (
    bucket      INTEGER NOT NULL,
    upstream    TEXT NOT NULL,
    model       TEXT NOT NULL,
    -- '' for none.
    tenant      TEXT NOT NULL,
    task        TEXT NOT NULL,
    priority    TEXT NOT NULL,
    attempts    INTEGER NOT NULL,
    failed      INTEGER NOT NULL,
    cancelled   INTEGER NOT NULL,
    hits        INTEGER NOT NULL,
    followers   INTEGER NOT NULL,
    prompt      INTEGER NOT NULL,
    cached      INTEGER NOT NULL,
    completion  INTEGER NOT NULL,
    reasoning   INTEGER NOT NULL,
    images      INTEGER NOT NULL,
    known       INTEGER NOT NULL,
    unknown     INTEGER NOT NULL,
    unknowns    INTEGER NOT NULL,
    unpriced    INTEGER NOT NULL,
    saved       INTEGER NOT NULL,
    batch_saved INTEGER NOT NULL,
    PRIMARY KEY (bucket, upstream, model, tenant, task, priority)
) STRICT, WITHOUT ROWID;

CREATE TABLE cost_day (
    bucket      INTEGER NOT NULL,
    upstream    TEXT NOT NULL,
    model       TEXT NOT NULL,
    tenant      TEXT NOT NULL,
    task        TEXT NOT NULL,
    priority    TEXT NOT NULL,
    attempts    INTEGER NOT NULL,
    failed      INTEGER NOT NULL,
    cancelled   INTEGER NOT NULL,
    hits        INTEGER NOT NULL,
    followers   INTEGER NOT NULL,
    prompt      INTEGER NOT NULL,
    cached      INTEGER NOT NULL,
    completion  INTEGER NOT NULL,
    reasoning   INTEGER NOT NULL,
    images      INTEGER NOT NULL,
    known       INTEGER NOT NULL,
    unknown     INTEGER NOT NULL,
    unknowns    INTEGER NOT NULL,
    unpriced    INTEGER NOT NULL,
    saved       INTEGER NOT NULL,
    batch_saved INTEGER NOT NULL,
    PRIMARY KEY (bucket, upstream, model, tenant, task, priority)
) STRICT, WITHOUT ROWID;

-- The ledger for people: dollars, names and times that read well.
CREATE VIEW cost AS
SELECT strftime('%Y-%m-%dT%H:%M:%SZ', at / 1000000, 'unixepoch') AS at,
       lower(hex(attempt)) AS attempt, lower(hex(request)) AS request,
       tenant, session, tags, task, priority, upstream, model AS asked,
       coalesce(nullif(served, ''), model) AS model,
       prompt, cached, completion, reasoning, images, usage_source,
       CASE WHEN cost IS NOT NULL THEN printf('%d.%09d', cost / 1000000000, cost % 1000000000) END AS usd,
       CASE WHEN cost IS NULL THEN 'unpriced' WHEN cost_exact THEN 'known' ELSE 'at most' END AS cost,
       source, ending, error, latency / 1000 AS latency_ms, batch
FROM cost_record WHERE open_by IS NULL;
