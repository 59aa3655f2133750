-- Who uses the store. Whoever is not renewed, or whose lock is free, left its work to others.
CREATE TABLE process (
    -- Also the advisory lock that its connection holds.
    id        BIGINT PRIMARY KEY,
    -- When the server began that knows the lock: a server that has begun since knows of no lock.
    locked_at TIMESTAMPTZ,
    renewed   TIMESTAMPTZ NOT NULL
);

CREATE TABLE setting (
    name  TEXT PRIMARY KEY,
    value TEXT NOT NULL
);
