-- What agents have brought back of a lost authority's word that could be taken back: the newest
-- for each key. It counts once, so that whoever lifts it has lifted it.
CREATE TABLE recovered (
    kind TEXT NOT NULL,
    key TEXT NOT NULL,
    time_ms INTEGER NOT NULL,
    PRIMARY KEY (kind, key)
) STRICT, WITHOUT ROWID;
