"""One run as tables.

Owns: how the files of a run become tables. Which columns these have is in `columns`; of several runs
`history` knows. Draws nothing. Times are seconds since the run's first phase began.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

import polars as pl
from hdrh.histogram import HdrHistogram

from .columns import (
    CAUSES,
    CAUSES_TABLE,
    CURVE,
    FAULTS,
    INSTANTS,
    LATENCY,
    PHASES,
    SLOW,
    TIMELINE,
)

RECORDED = Path(__file__).resolve().parent.parent / "recorded"

#: The layout that this package knows.
FORMAT = 2

#: The largest latency that is told apart, in microseconds, and the digits: those of the clients.
_MOST_US, _DIGITS = 60_000_000, 3


class NoRun(Exception):
    """What was given is no run that can be read; the message says why."""


def load(
    path: str | os.PathLike[str] | None = None,
    variable: str = "LAB_RUN",
    default: str = "bad-second",
) -> Run:
    """The run in a directory; else that of an environment variable; else a recorded one."""
    path = path or os.environ.get(variable) or RECORDED / default
    return Run(Path(path))


def bucket_floor(bucket: int) -> int:
    """The least duration in a bucket of the causes, in microseconds: eight buckets to an octave."""
    if bucket < 8:
        return bucket
    octave, step = divmod(bucket, 8)
    return (8 + step) << (octave - 1)


def _known_sum(name: str) -> pl.Expr:
    """The sum of a column; null when one of its values is not known."""
    known = pl.col(name).is_not_null().all()
    return pl.when(known).then(pl.col(name).sum()).otherwise(None).alias(name)


class Run:
    """A run, read when it is asked for."""

    def __init__(self, directory: Path):
        self.directory = directory
        manifest = directory / "manifest.json"
        try:
            self.manifest: dict[str, Any] = json.loads(manifest.read_text())
        except OSError as error:
            raise NoRun(f"{directory}: no run: it has no manifest.json that can be read") from error
        except ValueError as error:
            raise NoRun(f"{manifest}: no JSON: {error}") from error
        if self.manifest.get("format", 0) > FORMAT:
            raise NoRun(
                f"{manifest}: format {self.manifest['format']}, and these notebooks know {FORMAT}:"
                " take those of the lab that made the run"
            )

    def __repr__(self) -> str:
        experiment = self.manifest["experiment"]
        return f"Run({experiment['name']}, {experiment['users']:,} users, {self.directory})"

    @cached_property
    def summary(self) -> dict[str, Any]:
        """What the lab itself made of the run."""
        return self._json("summary.json")

    @property
    def made_with(self) -> dict[str, Any]:
        """What of the manifest can make two runs of the same load differ: not when they were, nor
        how much of the machine was free."""
        incidental = ["closed", "outcome", "outcome_because", "started", "file", "text", "sha256"]
        incidental += ["settings", "server", "clients"]
        of_hosts = ["memory_available_bytes", "files", "clock"]
        made = {key: value for key, value in self.manifest.items() if key not in incidental}
        hosts = [{k: v for k, v in host.items() if k not in of_hosts} for host in made["hosts"]]
        return made | {"hosts": dict(enumerate(hosts))}

    def _json(self, name: str) -> dict[str, Any]:
        file = self.directory / name
        if not file.exists():
            raise NoRun(f"{file} is missing: lab report {self.directory} makes it")
        return json.loads(file.read_text())

    def _parquet(self, name: str) -> pl.DataFrame:
        file = self.directory / f"{name}.parquet"
        if not file.exists():
            raise NoRun(f"{file} is missing: lab report {self.directory} makes it")
        return pl.read_parquet(file)

    @cached_property
    def samples(self) -> pl.DataFrame:
        """All samples as they are, a line for each source and second."""
        return self._parquet("samples")

    @cached_property
    def events(self) -> pl.DataFrame:
        """What happened, `detail` as JSON."""
        return self._parquet("events")

    @property
    def start(self) -> int:
        """The Unix second in which the first phase began: 0 in all other tables."""
        starts = self.events.filter(pl.col("event") == "phase_starts")
        if starts.is_empty():
            raise NoRun(f"{self.directory}: no phase ever began")
        return int(starts["t"].min())

    @cached_property
    def phases(self) -> pl.DataFrame:
        """phase, start, end; the end of one that was cut off is that of the last sample."""
        last = self.samples.filter(pl.col("source") == "client")["t"].max() or self.start
        rows = []
        for name in [phase["name"] for phase in self.summary["phases"]]:
            of = self.events.filter(pl.col("phase") == name)
            start = of.filter(pl.col("event") == "phase_starts")["t"].max()
            end = of.filter(pl.col("event") == "phase_ends")["t"].max()
            if start is not None:
                end = last + 1 if end is None else end
                rows.append((name, int(start) - self.start, int(end) - self.start))
        return pl.DataFrame(rows, schema=PHASES.schema, orient="row")

    def _phase_of(self, frame: pl.DataFrame) -> pl.DataFrame:
        """With the phase of each second t; null between phases."""
        phase = pl.lit(None, dtype=pl.String)
        for name, start, end in self.phases.iter_rows():
            inside = (pl.col("t") >= start) & (pl.col("t") < end)
            phase = pl.when(inside).then(pl.lit(name)).otherwise(phase)
        return frame.with_columns(phase.alias("phase"))

    def _sums(self, source: str, columns: list[str]) -> pl.DataFrame:
        """Columns of a source added up over its shards by second."""
        lines = self.samples.filter(pl.col("source") == source)
        known = [pl.col(name) for name in columns if name in lines.columns]
        unknown = [pl.lit(None, dtype=pl.Int64).alias(n) for n in columns if n not in lines.columns]
        lines = lines.select((pl.col("t") - self.start).cast(pl.Int64).alias("t"), *known, *unknown)
        return lines.group_by("t").agg(_known_sum(name) for name in columns).sort("t")

    @cached_property
    def seconds(self) -> pl.DataFrame:
        """By second: what clients and server counted, and the money that changed hands in cents."""
        counted = ["offered", "sent", "answered", "granted", "timed_out", "lost", "online"]
        clients = self._sums("client", counted)
        books = ["ledger.created.count", "ledger.created.amount"]
        books += ["ledger.granted.count", "ledger.granted.amount"]
        server = self._sums("server", ["shakes", "connections", *books])
        # The books are what was ever entered: a second has what they grew by.
        grown = [pl.col(name).diff().fill_null(pl.col(name)).alias(name) for name in books]
        names = {
            "shakes": "server_shakes",
            "ledger.created.count": "packets_created",
            "ledger.created.amount": "cents_created",
            "ledger.granted.count": "packets_received",
            "ledger.granted.amount": "cents_received",
        }
        server = server.with_columns(grown).rename(names)
        both = clients.join(server, on="t", how="full", coalesce=True).sort("t")
        return self._phase_of(both).filter(pl.col("t") >= 0)

    @cached_property
    def proc(self) -> pl.DataFrame:
        """By second and side (server, client): CPU time and waiting for a CPU in microseconds, and
        resident memory."""
        columns = ["cpu_us", "wait_us", "rss_anon_bytes"]
        lines = self.samples.filter(pl.col("source") == "proc")
        lines = lines.filter(pl.col("of").is_in(["server", "client"]))
        t = (pl.col("t") - self.start).cast(pl.Int64).alias("t")
        lines = lines.select(t, pl.col("of").alias("side"), *columns)
        # A second that one of several processes does not know is not known.
        sums = [_known_sum(name) for name in columns]
        return self._phase_of(lines.group_by("t", "side").agg(sums).sort("t", "side"))

    def _histograms(self) -> Iterator[tuple[str, str, int, str]]:
        """Phase, segment, second and histogram of each line of latency.hlog."""
        base = 0.0
        file = self.directory / "latency.hlog"
        if not file.exists():
            raise NoRun(f"{file} is missing")
        lines = file.read_text().split("\n")
        # The last part has no end: it is empty, or was cut off by a kill.
        for line in lines[:-1]:
            if line.startswith("#[BaseTime:"):
                base = float(line.split()[1])
            if not line.startswith("Tag="):
                continue
            tag, start, _, _, encoded = line.split(",", 4)
            phase, segment = tag.removeprefix("Tag=").rsplit(":", 1)
            yield phase, segment, int(base + float(start)) - self.start, encoded.strip()

    @cached_property
    def latency(self) -> pl.DataFrame:
        """t, phase, requests and percentiles in microseconds, of the requests that were over in that
        second, by the phase in which they were due. Null where requests without an answer decide
        it."""
        rows, without = [], {}
        for phase, segment, t, encoded in self._histograms():
            if segment == "latency_at_least":
                count = HdrHistogram.decode(encoded).get_total_count()
                without[phase, t] = without.get((phase, t), 0) + count
        for phase, segment, t, encoded in self._histograms():
            if segment == "latency":
                values = HdrHistogram.decode(encoded)
                total = values.get_total_count()
                known = total - without.get((phase, t), 0)
                at = [
                    values.get_value_at_percentile(p) if math.ceil(total * p / 100) <= known else None
                    for p in (50, 90, 99, 99.9, 100)
                ]
                rows.append((t, phase, total, *at))
        return pl.DataFrame(rows, schema=LATENCY.schema, orient="row").sort("t")

    def merged(self, phase: str, segment: str = "latency") -> HdrHistogram:
        """All of a phase in one histogram: percentiles come from this, and are never averaged."""
        merged = HdrHistogram(1, _MOST_US, _DIGITS)
        for of, what, _, encoded in self._histograms():
            if (of, what) == (phase, segment):
                merged.add(HdrHistogram.decode(encoded))
        return merged

    def curve(self, phase: str) -> pl.DataFrame:
        """The percentile curve of a phase: percentile, us, and how many nines (1 / (1 - p))."""
        values = self.merged(phase)
        total = values.get_total_count()
        # It ends where requests without an answer begin.
        without = self.merged(phase, "latency_at_least").get_total_count()
        steps = [k / 8 for k in range(8 * 7) if max(1, without) * 10 ** (k / 8) <= total]
        rows = []
        for step in steps:
            one_in = 10**step
            percentile = 100 * (1 - 1 / one_in)
            rows.append((percentile, values.get_value_at_percentile(percentile), one_in))
        return pl.DataFrame(rows, schema=CURVE.schema, orient="row")

    @cached_property
    def causes(self) -> pl.DataFrame:
        """t, phase, from_us, cause, requests, us: what each cause took of the requests that were
        over in a second, by latency (from_us and an eighth more at most). Empty without probes."""
        rows = []
        if "sums" in self.samples.columns:
            lines = self.samples.filter(pl.col("source") == "causes", pl.col("sums").is_not_null())
            for t, phase, sums in lines.select("t", "phase", "sums").iter_rows():
                for bucket, requests, by_cause in json.loads(sums):
                    for cause, us in zip(CAUSES, by_cause):
                        floor = bucket_floor(bucket)
                        rows.append((t - self.start, phase, floor, cause, requests, us))
        frame = pl.DataFrame(rows, schema=CAUSES_TABLE.schema, orient="row")
        keys = ["t", "phase", "from_us", "cause"]
        return frame.group_by(keys).agg(pl.col("requests").sum(), pl.col("us").sum()).sort(keys)

    @property
    def why_no_causes(self) -> str | None:
        """Why there are no causes; None when there are."""
        if not self.causes.is_empty():
            return None
        probes = self.manifest.get("probes") or {}
        return probes.get("because") or "nothing was slow enough to be explained"

    @cached_property
    def slow(self) -> pl.DataFrame:
        """The slowest requests of each second: t, phase, user, from, due_us (since the run began, by
        the client's clock), latency_us, send_lag_us, and what the kernel saw, null without probes:
        blamed, losses, who held the CPUs, the seven instants and the causes in microseconds."""
        frame = self._parquet("slow")
        # What the kernel saw of a request is in columns of its own.
        seen = list(SLOW.columns)[list(SLOW.columns).index("blamed") :]
        place = {name: f"seen.causes_us.{name}" if name in CAUSES else f"seen.{name}" for name in seen}
        schema = {place.get(name, name): kind for name, kind in SLOW.schema.items()}
        columns = [
            (pl.col(name) if name in frame.columns else pl.lit(None)).cast(kind).alias(name)
            for name, kind in schema.items()
        ]
        frame = frame.select(columns) if frame.width else pl.DataFrame(schema=schema)
        frame = frame.rename(lambda name: name.removeprefix("seen.").removeprefix("causes_us."))
        # A cause that a record does not name took nothing of a request that was seen.
        was_seen = pl.col("blamed").is_not_null()
        took = [pl.when(was_seen).then(pl.col(c).fill_null(0)).otherwise(pl.col(c)).alias(c) for c in CAUSES]
        frame = frame.with_columns(took)
        return frame.with_columns(pl.col("t") - self.start).sort("t", "latency_us")

    @cached_property
    def faults(self) -> pl.DataFrame:
        """kind, start, end of what was made to go wrong on purpose."""

        def happened(event: str) -> list[tuple[int, dict[str, Any]]]:
            rows = self.events.filter(pl.col("event") == event).select("t", "detail").iter_rows()
            return [(round(t) - self.start, json.loads(detail)) for t, detail in rows]

        ends = {fault["fault"]: t for t, fault in happened("fault_ends")}
        # One that a kill kept from ending lasted to the end of the record.
        last = max((end for _, _, end in self.phases.iter_rows()), default=0)
        rows = [
            (fault["kind"], t, ends.get(fault["fault"], last))
            for t, fault in happened("fault_starts")
        ]
        return pl.DataFrame(rows, schema=FAULTS.schema, orient="row")

    def cpu_per_request(self, phase: str, side: str = "server") -> float | None:
        """CPU time of a side for a request of a phase in microseconds, over the seconds in which it
        is known: a thread that ends takes with it what it used in its last second."""
        cpu = self.proc.filter(pl.col("side") == side, pl.col("phase") == phase)
        known = cpu.filter(pl.col("cpu_us").is_not_null())
        both = known.join(self.seconds.select("t", "answered"), on="t")
        answered = both["answered"].sum()
        if not answered or 2 * known.height < cpu.height:
            return None
        return both["cpu_us"].sum() / answered

    def tail_shares(self, slow_us: int) -> pl.DataFrame:
        """By second and cause: the share of the time of requests that took slow_us or more. Unlike
        the verdicts of summary.json it is the whole time, not what was beyond the median."""
        tail = self.causes.filter(pl.col("from_us") >= slow_us)
        tail = tail.group_by("t", "cause").agg(pl.col("us").sum()).sort("t", "cause")
        occurs = pl.col("us").sum().over("cause") > 0
        tail = tail.filter(occurs | pl.col("cause").is_in(CAUSES[:7]))
        return tail.with_columns((pl.col("us") / pl.col("us").sum().over("t")).alias("share"))

    def worst_second(self) -> dict[str, Any]:
        """The second with the highest 99th percentile."""
        if self.latency.is_empty():
            raise NoRun(f"{self.directory}: no user shook")
        return self.latency.sort("p99").row(-1, named=True)

    def timeline(self, request: dict[str, Any]) -> pl.DataFrame:
        """The stretches of a slow request between its instants: stretch, start, end in microseconds
        since it was due. Empty when an instant is missing."""
        instants = json.loads(request["instants_us"]) if request["instants_us"] else [None]
        if None in instants:
            return TIMELINE.empty()
        points = [0, *instants]
        pairs = zip(INSTANTS, INSTANTS[1:], points, points[1:])
        rows = [(f"{a} → {b}", start, end) for a, b, start, end in pairs]
        return pl.DataFrame(rows, schema=TIMELINE.schema, orient="row")
