-- Who uses the store. Whoever is not renewed, or is known to have ended, left its work to others.
CREATE TABLE process (
    id         INTEGER PRIMARY KEY,
    -- Where its number means something: the machine's boot and its process namespace.
    host       TEXT NOT NULL,
    pid        INTEGER NOT NULL,
    -- Tells it from a later process of the same number.
    started    INTEGER NOT NULL,
    renewed_ms INTEGER NOT NULL
) STRICT;

CREATE TABLE setting (
    name  TEXT PRIMARY KEY,
    value TEXT NOT NULL
) STRICT, WITHOUT ROWID;
