"""Reads a lake of flights with DuckDB and with pyarrow, compares it with the raw file, and runs the queries of docs/lake.md."""

import collections
import datetime
import json
import re
import sys

import duckdb
import pyarrow
import pyarrow.dataset

lake, raw = sys.argv[1:]
lines = collections.Counter(line for line in open(raw, "rb").read().split(b"\n") if line.strip())
events = [json.loads(line) for line in lines]
count = sum(lines.values())


def check(what, found, expected):
    if found != expected:
        sys.exit(f"{what}: found {found!r}, expected {expected!r}")
    print(f"ok: {what}")


# DuckDB
db = duckdb.connect()
view = f"read_parquet('{lake}/stream=flights/date=*/hour=*/*.parquet', hive_partitioning = true)"
db.execute(f"CREATE VIEW flights AS SELECT * FROM {view}")
check(
    "DuckDB reads every payload, byte for byte",
    collections.Counter(bytes(row[0]) for row in db.execute("SELECT payload FROM flights").fetchall()) == lines,
    True,
)
columns = dict(row[:2] for row in db.execute("DESCRIBE flights").fetchall())
for name, kind in {
    "position": "VARCHAR",
    "key": "BLOB",
    "headers": 'STRUCT("name" VARCHAR, "value" BLOB)[]',
    "arrival": "TIMESTAMP WITH TIME ZONE",
    "event_type": "VARCHAR",
}.items():
    check(f"DuckDB's type of {name}", columns[name].replace('STRUCT(name', 'STRUCT("name"').replace(", value", ', "value"'), kind)
check(
    "positions sort as numbers",
    db.execute("""SELECT count(*) FROM (SELECT "position"::BIGINT p, lag("position"::BIGINT) OVER
        (PARTITION BY shard ORDER BY position_sort) q FROM flights) WHERE q >= p""").fetchone(),
    (0,),
)

# the queries of the chapter, as they stand there
chapter = open("docs/lake.md").read()
queries = re.findall(r"```sql\n(.*?)```", chapter, re.S)
check("the chapter has three queries", len(queries), 3)
event = sorted(events, key=lambda event: event["id"])[0]
queries = [query.replace("ca44a2f0-5e30-5a7f-87ee-8ce9515cdc8d", event["id"]) for query in queries]
by_type, by_id, by_carrier = [db.execute(query).fetchall() for query in queries]
expected = collections.Counter(
    (datetime.datetime.fromtimestamp(e["timestamp"] / 1000, datetime.timezone.utc).date(), e["type"]) for e in events
)
check("events a day and type", {(day, kind): n for day, kind, n in by_type}, dict(expected))
check("an event by its id", [json.loads(bytes(row[-1])) for row in by_id], [event])
delays = collections.defaultdict(list)
for e in events:
    if e["flight"]["arr_delay"] is not None:
        delays[e["flight"]["carrier"]].append(e["flight"]["arr_delay"])
check(
    "mean delay by carrier",
    {carrier: round(mean, 6) for carrier, mean, _ in by_carrier},
    {carrier: round(sum(d) / len(d), 6) for carrier, d in delays.items()},
)

# pyarrow
table = pyarrow.dataset.dataset(f"{lake}/stream=flights", partitioning="hive").to_table()
check("pyarrow counts them", table.num_rows, count)
check("pyarrow reads every payload, byte for byte", collections.Counter(table["payload"].to_pylist()) == lines, True)
check("pyarrow's type of arrival", table.schema.field("arrival").type, pyarrow.timestamp("us", tz="UTC"))
times = dict(zip(table["event_id"].to_pylist(), table["event_time"].to_pylist()))
check("the time of an event", times[event["id"]].timestamp() * 1000, float(event["timestamp"]))
