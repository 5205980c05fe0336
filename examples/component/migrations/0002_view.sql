-- The materialised view: a table for each part that has a version of its own.
-- (at, event_id) is the version: when it happened, then the id, so that ties are broken alike everywhere.
CREATE TABLE view_orders (
    order_id TEXT NOT NULL PRIMARY KEY,
    customer TEXT NOT NULL,
    address TEXT NOT NULL,
    cents INTEGER NOT NULL,
    at INTEGER NOT NULL,
    event_id TEXT NOT NULL
) WITHOUT ROWID;

CREATE TABLE view_shipments (
    order_id TEXT NOT NULL PRIMARY KEY,
    carrier TEXT NOT NULL,
    at INTEGER NOT NULL,
    event_id TEXT NOT NULL
) WITHOUT ROWID;

-- payments are kept one by one and added up when they are read: a payment that comes twice is one row
CREATE TABLE view_payments (
    order_id TEXT NOT NULL,
    event_id TEXT NOT NULL,
    cents INTEGER NOT NULL,
    at INTEGER NOT NULL,
    PRIMARY KEY (order_id, event_id)
) WITHOUT ROWID;

CREATE VIEW order_status AS
SELECT
    o.order_id, o.customer, o.address, o.cents,
    coalesce(p.paid, 0) AS paid,
    s.carrier,
    CASE
        WHEN coalesce(p.paid, 0) >= o.cents AND s.carrier IS NOT NULL THEN 'complete'
        WHEN coalesce(p.paid, 0) >= o.cents THEN 'paid'
        WHEN s.carrier IS NOT NULL THEN 'shipped'
        ELSE 'open'
    END AS status
FROM view_orders o
LEFT JOIN (SELECT order_id, sum(cents) AS paid FROM view_payments GROUP BY order_id) p USING (order_id)
LEFT JOIN view_shipments s USING (order_id);
