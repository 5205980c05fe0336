-- What is known of orders: the event store of the rules. An event is kept once, under its id.
CREATE TABLE facts (
    order_id TEXT NOT NULL,
    event_id TEXT NOT NULL,
    at INTEGER NOT NULL,      -- when it happened, microseconds since 1970
    expires INTEGER NOT NULL, -- when it may be forgotten, by the clock of this machine
    event TEXT NOT NULL,      -- JSON
    PRIMARY KEY (order_id, event_id)
) WITHOUT ROWID;

CREATE INDEX facts_by_expiry ON facts (expires);
