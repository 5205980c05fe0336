"""Reads a lake of flights and one of many streams with DuckDB and with pyarrow, as docs/lake.md says, and compares them with what was stored."""

import collections
import datetime
import glob
import json
import re
import sys

import duckdb
import pyarrow
import pyarrow.dataset

lake, raw, mixed = sys.argv[1:]
lines = collections.Counter(line for line in open(raw, "rb").read().split(b"\n") if line.strip())
events = [json.loads(line) for line in lines]
count = sum(lines.values())


def check(what, found, expected):
    if found != expected:
        sys.exit(f"{what}: found {found!r}, expected {expected!r}")
    print(f"ok: {what}")


# DuckDB, with the views and the queries of the chapter, as they stand there
chapter = open("docs/lake.md").read()
chapter = chapter[chapter.index("## Ask questions") : chapter.index("## Metrics")]
blocks = re.findall(r"```text\n(.*?)```", chapter, re.S)
check("the chapter has two blocks of views, and one of Python", len(blocks), 3)
views, all_views, python = blocks
queries = re.findall(r"```sql\n(.*?)```", chapter, re.S)
check("the chapter has eight queries", len(queries), 8)
db = duckdb.connect()
db.execute(views.replace("'lake/", f"'{lake}/"))
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

event = sorted(events, key=lambda event: event["id"])[0]
queries = [query.replace("ca44a2f0-5e30-5a7f-87ee-8ce9515cdc8d", event["id"]) for query in queries]
by_type, by_id, by_carrier = [db.execute(query).fetchall() for query in queries[:3]]
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

# many streams, whose folders hold faults, a ledger and a manifest
streams = ["Orders", "orders", "shop/Ünits 50%"]
db.execute(all_views.replace("'lake/", f"'{mixed}/"))
check(
    "all streams at once, by their own names",
    db.execute("SELECT stream, count(*) FROM records GROUP BY ALL ORDER BY ALL").fetchall(),
    [(stream, 60) for stream in streams],
)
keys = db.execute("SELECT key, count(*) FROM records GROUP BY ALL").fetchall()
check("keys are bytes", {key: n for key, n in keys if not key or b"\0" in key}, {None: 45, b"\0\xff\x17": 45})
check(
    "what is no text or no JSON is passed over",
    db.execute("SELECT count(TRY(decode(payload)->>'$.n')) FROM records").fetchone(),
    (3 * 58,),
)
late, twice, tenants, jumps, refused = [db.execute(query).fetchall() for query in queries[3:]]
two_hours = datetime.timedelta(hours=2)
check(
    "events that come late",
    [(stream, n_late, worst) for stream, _, _, n_late, worst in late if n_late],
    [(stream, n, two_hours) for stream in streams for n in (6,)],
)
day = datetime.date(2026, 11, 1)
check("a day is one of UTC", {of for _, of, *_ in late}, {day, day + datetime.timedelta(days=1)})
# of record n in shard n % 3; 13 and 14 are no events
pairs = [(n, n + 1) for n in range(0, 60, 2) if n not in (12, 14)]
place = lambda n: f"{n % 3}@{n if n < 30 else n + 100}"
check(
    "events that came twice",
    sorted(twice),
    sorted((s, f"{s}-{a // 2}", 2, [place(a), place(b)]) for s in streams for a, b in pairs),
)
check("headers", tenants, [(stream, "acme", 30) for stream in streams])
check(
    "jumps of the positions",
    jumps,
    [(stream, str(shard), str(27 + shard), str(130 + shard)) for stream in streams for shard in range(3)],
)
names = [column[0] for column in db.description]
payload = names.index("payload")
# one of them was sent again, and failed again
beside = collections.Counter(bytes(row[payload]) for row in refused)
check("faults with their records", (set(beside), sorted(beside.values())), ({b"no event", b"\xff no text"}, [3, 4]))

# pyarrow
scope = {"glob": glob, "pyarrow": pyarrow}
assigned, expression = python.strip().split("\n")
exec(assigned.replace('"lake/', f'"{mixed}/').replace("stream=flights", "stream=*"), scope)
table = eval(expression, scope).to_table()
check(
    "pyarrow reads all streams",
    collections.Counter(table["stream"].to_pylist()),
    collections.Counter({stream: 60 for stream in streams}),
)
headers = [headers for headers in table["headers"].to_pylist() if headers]
header = [{"name": "tenant", "value": b"acme"}, {"name": "x", "value": b"\xff\0"}, {"name": "x", "value": b"second"}]
check("pyarrow's headers, in their order", headers, [header] * 90)
exec(assigned.replace('"lake/', f'"{lake}/'), scope)
table = eval(expression, scope).to_table()
check("pyarrow counts them", table.num_rows, count)
check("pyarrow reads every payload, byte for byte", collections.Counter(table["payload"].to_pylist()) == lines, True)
check("pyarrow's type of arrival", table.schema.field("arrival").type, pyarrow.timestamp("us", tz="UTC"))
times = dict(zip(table["event_id"].to_pylist(), table["event_time"].to_pylist()))
check("the time of an event", times[event["id"]].timestamp() * 1000, float(event["timestamp"]))
