"""Runs of the lab as tables, for the notebooks.

    run = lab.load()                 # the run of LAB_RUN, or a recorded one
    run.seconds                      # what was due, sent and answered, second by second
    run.latency                      # percentiles by phase and second
    run.causes                       # where the time of slow requests went (with probes)

    runs = lab.load_runs()           # the runs of LAB_RUNS, or the recorded ones
    runs.runs                        # a row a run
    runs.figures                     # their figures, over commits and machines

    lab.describe("slow")             # what the columns of a table mean

`run` reads one run, `history` a directory of them, `columns` has every column with its type and its
meaning, `compare` what two were made with, `plan` the arithmetic of many shakes. It knows the files
of a run (manifest.json, summary.json, *.parquet, latency.hlog) and draws nothing.
"""

from .columns import CAUSES, FIGURE_NAMES, INSTANTS, TABLES, Column, Table, describe
from .compare import differences
from .history import History, load_runs
from .plan import projection
from .run import FORMAT, RECORDED, NoRun, Run, bucket_floor, load

__all__ = [
    "CAUSES",
    "FIGURE_NAMES",
    "FORMAT",
    "INSTANTS",
    "RECORDED",
    "TABLES",
    "Column",
    "History",
    "NoRun",
    "Run",
    "Table",
    "bucket_floor",
    "describe",
    "differences",
    "load",
    "load_runs",
    "projection",
]
