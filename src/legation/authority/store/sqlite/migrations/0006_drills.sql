-- Drills that were held: what a list shows of each, and the report itself.
CREATE TABLE drills (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    at_ms INTEGER NOT NULL,
    reported_by TEXT NOT NULL,
    targets INTEGER NOT NULL,
    findings INTEGER NOT NULL,
    slowest_ms REAL,
    report TEXT NOT NULL
) STRICT;
