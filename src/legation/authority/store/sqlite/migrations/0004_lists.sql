-- Up to which revision of the feed a list names what was revoked: a list that lacks something
-- after a crash is known by it. Lists from before say 0, and are made anew if anything is revoked.
ALTER TABLE crls ADD COLUMN revision INTEGER NOT NULL DEFAULT 0;

-- What has changed since the whole list `base`, another list of the same shard.
ALTER TABLE crls ADD COLUMN delta BLOB;

ALTER TABLE crls ADD COLUMN base BLOB;
