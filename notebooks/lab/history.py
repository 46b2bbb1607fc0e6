"""The runs of a directory as tables: figures over commits and machines.

Owns: which runs a directory has, and in which order they are. Which figures moved beyond chance
`lab history` says; here one looks at them. Must not know: how the files of one run are read.
"""

from __future__ import annotations

import os
from datetime import datetime, timezone
from functools import cached_property
from pathlib import Path
from typing import Any

import polars as pl

from .columns import CHANGES, DIFFERENCES, FIGURE_NAMES, FIGURES, RUNS
from .compare import differences
from .run import RECORDED, NoRun, Run


def load_runs(path: str | os.PathLike[str] | None = None, variable: str = "LAB_RUNS") -> History:
    """The runs of a directory; else of that of an environment variable; else the recorded ones."""
    return History(Path(path or os.environ.get(variable) or RECORDED))


def _each_once(hosts: list[dict[str, Any]], field: str) -> str | None:
    """What hosts say of a field, each answer once."""
    values = dict.fromkeys(str(host[field]) for host in hosts if host.get(field) is not None)
    return ", ".join(values) or None


class History:
    """The runs of a directory, those that `lab run --repeat` made in it included."""

    def __init__(self, directory: Path):
        self.directory = directory
        #: What of the directory is no run, or none that can be read, each with its reason.
        self.left_out: list[str] = []
        if not directory.is_dir():
            raise NoRun(f"{directory}: there is no such directory")
        found = []
        for name, path in self._candidates():
            try:
                run = Run(path)
                found.append((run.manifest["started"], name, run, run.summary))
            except (NoRun, OSError, ValueError, KeyError) as error:
                self.left_out.append(f"{name}: {error}")
        if not found:
            raise NoRun(f"{directory}: no run, and no directory of runs")
        found.sort(key=lambda it: it[:2])
        #: The runs by name, in the order in which they began.
        self.by_name: dict[str, Run] = {name: run for _, name, run, _ in found}

    def __repr__(self) -> str:
        return f"History({len(self.by_name)} runs, {self.directory})"

    def _candidates(self) -> list[tuple[str, Path]]:
        """Directories that may be a run, with their names."""
        if (self.directory / "manifest.json").exists():
            return [(self.directory.name, self.directory)]
        found = []
        for path in sorted(self.directory.iterdir()):
            if not path.is_dir() or path.name.startswith("."):
                continue
            repeated = [it for it in sorted(path.iterdir()) if (it / "manifest.json").exists()]
            if (path / "manifest.json").exists() or not repeated:
                found.append((path.name, path))
            else:
                found += [(f"{path.name}/{it.name}", it) for it in repeated]
        return found

    @cached_property
    def _steps(self) -> list[tuple[str, str | None, pl.DataFrame, int]]:
        """Each run with the one of its experiment before it, how they differ, and its state."""
        before: dict[str, tuple[str, Run, int]] = {}
        steps: list[tuple[str, str | None, pl.DataFrame, int]] = []
        for name, run in self.by_name.items():
            experiment = run.manifest["experiment"]["name"]
            last = before.get(experiment)
            if last is None:
                steps.append((name, None, DIFFERENCES.empty(), 1))
                state = 1
            else:
                changed = differences(last[1].made_with, run.made_with)
                state = last[2] + (not changed.is_empty())
                steps.append((name, last[0], changed, state))
            before[experiment] = (name, run, state)
        return steps

    @cached_property
    def runs(self) -> pl.DataFrame:
        """The table RUNS: a row a run."""
        rows = []
        for name, _, _, state in self._steps:
            run = self.by_name[name]
            manifest, summary = run.manifest, run.summary
            hosts = manifest.get("hosts") or []
            outcome = summary.get("outcome")
            phases = all(phase["valid"] for phase in summary["phases"])
            balanced = summary["ledger"].get("balanced") is True
            rows.append(
                (
                    name,
                    datetime.fromtimestamp(manifest["started"], timezone.utc),
                    manifest["experiment"]["name"],
                    manifest.get("version"),
                    _each_once(hosts, "kernel"),
                    _each_once(hosts, "host"),
                    _each_once(hosts, "cpu_model"),
                    sum(len(host.get("cpus") or []) for host in hosts),
                    manifest.get("format"),
                    outcome,
                    outcome == "completed" and phases and balanced,
                    state,
                )
            )
        return pl.DataFrame(rows, schema=RUNS.schema, orient="row")

    @cached_property
    def figures(self) -> pl.DataFrame:
        """The table FIGURES: a row a figure of a phase in which users shook."""
        rows = []
        for name, _, _, state in self._steps:
            run = self.by_name[name]
            began = datetime.fromtimestamp(run.manifest["started"], timezone.utc)
            completed = run.summary.get("outcome") == "completed"
            for phase in run.summary["phases"]:
                if not phase["shake"]["offered"] or not phase["seconds"]:
                    continue
                latency = phase["latency_us"]
                values = [
                    phase["shake"]["answered"] / phase["seconds"],
                    latency["p50"],
                    latency["p99"],
                    latency["p999"],
                    phase["cpu_us_per_request"]["server"],
                ]
                about = (name, began, run.manifest["experiment"]["name"], state, phase["name"])
                for figure, value in zip(FIGURE_NAMES, values, strict=True):
                    value = None if value is None else float(value)
                    rows.append((*about, figure, value, completed and phase["valid"]))
        return pl.DataFrame(rows, schema=FIGURES.schema, orient="row")

    @cached_property
    def changes(self) -> pl.DataFrame:
        """The table CHANGES: what was made with something else, run after run."""
        parts = [
            changed.select(
                pl.lit(name).alias("run"), pl.lit(before).alias("before"), *DIFFERENCES.columns
            )
            for name, before, changed, _ in self._steps
            if before is not None and not changed.is_empty()
        ]
        return pl.concat(parts) if parts else CHANGES.empty()

    def percent_of_first(self) -> pl.DataFrame:
        """FIGURES with `percent`: how far a value is from the first valid one of its phase and
        figure. Null where that is nothing or 0."""
        valid = pl.col("value").filter(pl.col("valid") & pl.col("value").is_not_null())
        first = valid.first().over("experiment", "phase", "figure")
        percent = pl.when(first != 0).then((pl.col("value") / first - 1) * 100)
        return self.figures.with_columns(percent.alias("percent"))
