"""The tables of this package: every column with its type and what it means.

    lab.describe("seconds")          # a table of its columns
    print(lab.SLOW.columns["due_ns"].doc)

Owns: names, types and meanings of columns, causes and instants. `run` and `history` fill them, and a
test compares what they make with this. What was not measured is null, never 0; a table that has
nothing to say is empty, with its columns.
"""

from __future__ import annotations

from dataclasses import dataclass

import polars as pl

#: Why a request took its time, in the order in which records have the sums. Older records have the
#: first seven, to "unexplained"; of the others a record names those that took something.
CAUSES: list[str] = [
    "client_runqueue",
    "client_busy",
    "network_loss",
    "network_delay",
    "server_runqueue",
    "server_busy",
    "unexplained",
    "client_throttled",
    "client_stopped",
    "client_blocked",
    "client_interrupts",
    "client_stalled",
    "client_pacing",
    "server_throttled",
    "server_stopped",
    "server_blocked",
    "server_interrupts",
    "server_stalled",
]

#: The instants of a request, T0 to T6.
INSTANTS: list[str] = [
    "due",
    "sent",
    "server ready",
    "server reads",
    "answered",
    "client ready",
    "client reads",
]

_INT, _FLOAT, _TEXT, _BOOL = pl.Int64(), pl.Float64(), pl.String(), pl.Boolean()
_INSTANT = pl.Datetime("us", "UTC")


@dataclass(frozen=True)
class Column:
    """A column of a table."""

    #: Its type in polars.
    type: pl.DataType
    #: What it means: unit, and when it is null.
    doc: str


@dataclass(frozen=True)
class Table:
    """A table: what a row is, and its columns in their order."""

    name: str
    #: What a row is.
    doc: str
    columns: dict[str, Column]

    @property
    def schema(self) -> dict[str, pl.DataType]:
        """Names and types, as polars takes them."""
        return {name: column.type for name, column in self.columns.items()}

    def empty(self) -> pl.DataFrame:
        """No rows, and all columns."""
        return pl.DataFrame(schema=self.schema)

    def describe(self) -> pl.DataFrame:
        """A row for each column: column, type, meaning."""
        rows = [(name, str(column.type), column.doc) for name, column in self.columns.items()]
        names = ["column", "type", "meaning"]
        return pl.DataFrame(rows, schema={name: pl.String for name in names}, orient="row")


_SECOND = Column(_INT, "the second, counted from the one in which the run's first phase began")
_PHASE = Column(_TEXT, "the phase of that second; null between phases")
_DUE_PHASE = Column(_TEXT, "the phase in which the requests were due")
_CAUSE = Column(_TEXT, "one of CAUSES; docs/causes.md has a paragraph on each")

PHASES = Table(
    "phases",
    "a phase that began",
    {
        "phase": Column(_TEXT, "its name"),
        "start": Column(_INT, "its first second"),
        "end": Column(_INT, "its exclusive end; of one that was cut off, that of the last sample"),
    },
)

SECONDS = Table(
    "seconds",
    "a second, over all shards of all clients and of the server",
    {
        "t": _SECOND,
        "offered": Column(_INT, "shakes that were due; null where a shard did not say"),
        "sent": Column(_INT, "of those that were due then, shakes that were sent, then or later"),
        "answered": Column(_INT, "shakes answered in that second, in time"),
        "granted": Column(_INT, "of these, with a red packet"),
        "timed_out": Column(_INT, "shakes whose time for an answer ended"),
        "lost": Column(_INT, "shakes whose connection went away"),
        "online": Column(_INT, "users logged in at its end, by the clients"),
        "server_shakes": Column(_INT, "shakes that the server received"),
        "connections": Column(_INT, "connections of the server at its end"),
        "packets_created": Column(_INT, "shares of red packets that were made"),
        "cents_created": Column(_INT, "what these are worth, in cents"),
        "packets_received": Column(_INT, "shares that shakes brought"),
        "cents_received": Column(_INT, "what these are worth, in cents"),
        "phase": _PHASE,
    },
)

PROC = Table(
    "proc",
    "a second and a side, over the processes of the side",
    {
        "t": _SECOND,
        "side": Column(_TEXT, "server or client"),
        "cpu_us": Column(_INT, "CPU time in µs; null when one of the processes is not known"),
        "wait_us": Column(_INT, "µs in which threads could have run and had no CPU; null likewise"),
        "rss_anon_bytes": Column(_INT, "resident memory that is no file's, at its end"),
        "phase": _PHASE,
    },
)

_PERCENTILE = "in µs; null where requests without an answer decide it"

LATENCY = Table(
    "latency",
    "a second and a phase, of the requests that were over in that second",
    {
        "t": _SECOND,
        "phase": _DUE_PHASE,
        "requests": Column(_INT, "how many; of format 1, of those that were sent only"),
        "p50": Column(_INT, f"the median, {_PERCENTILE}"),
        "p90": Column(_INT, f"the 90th percentile, {_PERCENTILE}"),
        "p99": Column(_INT, f"the 99th percentile, {_PERCENTILE}"),
        "p999": Column(_INT, f"the 99.9th percentile, {_PERCENTILE}"),
        "max": Column(_INT, f"the largest, {_PERCENTILE}"),
    },
)

CURVE = Table(
    "curve",
    "a point of the percentile curve of a phase, eight to a nine",
    {
        "percentile": Column(_FLOAT, "from 0 to where requests without an answer begin"),
        "us": Column(_INT, "the latency there, in µs"),
        "one_in": Column(_FLOAT, "one request in so many is slower: 1 / (1 - p)"),
    },
)

CAUSES_TABLE = Table(
    "causes",
    "what a cause took of the requests that were over in a second, by their latency; with probes",
    {
        "t": _SECOND,
        "phase": _DUE_PHASE,
        "from_us": Column(_INT, "the least latency of these requests; an eighth more at most"),
        "cause": _CAUSE,
        "requests": Column(_INT, "how many: the same for all causes of a second and latency"),
        "us": Column(_INT, "what it took of them all together, in µs"),
    },
)

SLOW = Table(
    "slow",
    "one of the slowest requests of a second; what the kernel saw is null without probes",
    {
        "t": _SECOND,
        "phase": _DUE_PHASE,
        "user": Column(_INT, "the number of its user"),
        "from": Column(_TEXT, "address and port of its client"),
        "due_ns": Column(_INT, "when it was due, in ns of its client's CLOCK_MONOTONIC"),
        "latency_us": Column(_INT, "from due to answered, in µs"),
        "send_lag_us": Column(_INT, "from due to sent, in µs"),
        "blamed": Column(_TEXT, "the cause that took most beyond what is usual"),
        "losses": Column(_INT, "segments of it that were sent again"),
        "client_held_by": Column(_TEXT, "the program that had the CPU its client waited for"),
        "server_held_by": Column(_TEXT, "the program that had the CPU the server waited for"),
        "instants_us": Column(_TEXT, "T1 to T6 in µs since T0, as JSON; null of one not seen"),
    }
    | {cause: Column(_INT, f"what {cause} took of it, in µs") for cause in CAUSES},
)

FAULTS = Table(
    "faults",
    "a fault that was injected on purpose",
    {
        "kind": Column(_TEXT, "which, as docs/experiments.md names it"),
        "start": Column(_INT, "the second in which it began"),
        "end": Column(_INT, "the one in which it ended"),
    },
)

TAIL_SHARES = Table(
    "tail_shares",
    "a second and a cause, of requests that were slow",
    {
        "t": _SECOND,
        "cause": _CAUSE,
        "us": Column(_INT, "what it took of them, in µs"),
        "share": Column(_FLOAT, "the part of all their time"),
    },
)

TIMELINE = Table(
    "timeline",
    "a stretch of a request between two of its INSTANTS",
    {
        "stretch": Column(_TEXT, "from which instant to which"),
        "start": Column(_INT, "µs since the request was due"),
        "end": Column(_INT, "the same of its end"),
    },
)

DIFFERENCES = Table(
    "differences",
    "a field in which two JSON objects differ",
    {
        "field": Column(_TEXT, "its place, with dots"),
        "first": Column(_TEXT, "its value in the first, as JSON; null where it is not there"),
        "second": Column(_TEXT, "the same in the second"),
    },
)

_RUN = Column(_TEXT, "the run's directory within that of the history")
_BEGAN = Column(_INSTANT, "when it began")

RUNS = Table(
    "runs",
    "a run of a directory, in the order in which they began",
    {
        "run": _RUN,
        "began": _BEGAN,
        "experiment": Column(_TEXT, "the experiment's name"),
        "version": Column(_TEXT, "version of the lab, or the commit that it was built from"),
        "kernel": Column(_TEXT, "kernels of its hosts, each once"),
        "host": Column(_TEXT, "its hosts"),
        "cpu_model": Column(_TEXT, "models of their CPUs, each once; null when none is known"),
        "cpus": Column(_INT, "CPUs that the lab could use, of all hosts"),
        "format": Column(_INT, "version of its files; of 1, latencies are of shakes that were sent"),
        "outcome": Column(_TEXT, "completed, aborted, interrupted, or incomplete when it was killed"),
        "valid": Column(_BOOL, "completed, every phase valid, and the books balance"),
        "state": Column(_INT, "counts up where it was made with something else than the one before"),
    },
)

FIGURES = Table(
    "figures",
    "a figure of a phase of a run",
    {
        "run": _RUN,
        "began": _BEGAN,
        "experiment": Column(_TEXT, "the experiment's name"),
        "state": Column(_INT, "that of the run"),
        "phase": Column(_TEXT, "one in which users shook"),
        "figure": Column(_TEXT, "one of FIGURE_NAMES"),
        "value": Column(_FLOAT, "its value; null when it is not known"),
        "valid": Column(_BOOL, "whether the phase is valid, and with it the figure"),
    },
)

#: The figures of a history, with their units.
FIGURE_NAMES: list[str] = [
    "answered/s",
    "p50 µs",
    "p99 µs",
    "p99.9 µs",
    "server CPU µs/request",
]

CHANGES = Table(
    "changes",
    "a field of the manifest in which a run differs from the one of its experiment before it",
    {
        "run": _RUN,
        "before": Column(_TEXT, "the run before it"),
    }
    | DIFFERENCES.columns,
)

#: All of them by name.
TABLES: dict[str, Table] = {
    table.name: table
    for table in [
        PHASES,
        SECONDS,
        PROC,
        LATENCY,
        CURVE,
        CAUSES_TABLE,
        SLOW,
        FAULTS,
        TAIL_SHARES,
        TIMELINE,
        DIFFERENCES,
        RUNS,
        FIGURES,
        CHANGES,
    ]
}


def describe(table: str) -> pl.DataFrame:
    """The columns of a table by its name: column, type, meaning."""
    return TABLES[table].describe()
