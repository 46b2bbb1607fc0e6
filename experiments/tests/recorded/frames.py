"""What the package notebooks/lab makes of runs, as JSON: shapes and sums of its tables.

    python frames.py NOTEBOOKS RUN...     # a line of JSON for each run, by its directory's name

The sums do not depend on the order of rows where the tables themselves do not.
"""

import json
import math
import sys
from pathlib import Path

sys.path.insert(0, sys.argv[1])

import lab  # noqa: E402
import polars as pl  # noqa: E402


def column(values: pl.Series) -> dict:
    """How many values a column has, and what they add up to; of texts, how often each is there
    when they are few, else how long they are together."""
    known = values.drop_nulls()
    if known.dtype == pl.String:
        texts = known.value_counts().sort(values.name)
        few = len(texts) <= 12
        told = dict(texts.iter_rows()) if few else {"bytes": int(known.str.len_bytes().sum())}
    elif known.dtype == pl.Boolean:
        told = {"true": int(known.sum())}
    elif known.dtype.is_numeric():
        told = {"sum": math.fsum(known) if known.dtype.is_float() else sum(known.to_list())}
    else:
        told = {"kind": str(known.dtype)}
    return {"known": len(known)} | told


def frame(table: pl.DataFrame) -> dict:
    return {"rows": table.height} | {name: column(table[name]) for name in table.columns}


def attempt(what):
    """What a function makes; where there is nothing to be made, that."""
    try:
        return what()
    except lab.NoRun:
        return "NoRun"


def all_of(run: lab.Run) -> dict:
    tables = ["samples", "events", "phases", "seconds", "proc", "latency", "causes", "slow", "faults"]
    made = {name: attempt(lambda name=name: frame(getattr(run, name))) for name in tables}
    made["phases_rows"] = run.phases.rows()
    made["curves"] = {phase: frame(run.curve(phase)) for phase in run.phases["phase"]}
    made["cpu_per_request"] = {
        phase: [run.cpu_per_request(phase, side) for side in ("server", "client")]
        for phase in run.phases["phase"]
    }
    made["has_causes"] = run.why_no_causes is None
    made["tail_shares"] = frame(run.tail_shares(1000))
    made["worst_second"] = attempt(run.worst_second)
    made["timelines"] = [run.timeline(row)["end"].to_list() for row in run.slow.rows(named=True)][:8]
    made["projection"] = attempt(lambda: lab.projection(run))
    return made


runs = {Path(name).name: lab.Run(Path(name)) for name in sys.argv[2:]}
for name, run in runs.items():
    made = all_of(run)
    other = next(iter(runs.values()))
    made["differs_from_the_first"] = lab.differences(other.made_with, run.made_with)["field"].to_list()
    print(json.dumps({name: made}, ensure_ascii=False))
