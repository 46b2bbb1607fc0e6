"""What the package lab makes of recorded runs: one, of one without probes, and of what is no run."""

import json
import shutil
from pathlib import Path

import lab
import polars as pl
import pytest

HERE = Path(__file__).resolve().parent


@pytest.fixture(scope="module")
def run():
    return lab.Run(lab.RECORDED / "bad-second")


@pytest.fixture(scope="module")
def without_probes():
    return lab.Run(lab.RECORDED / "cubic")


def test_seconds_add_up_to_the_summary(run):
    for phase in run.summary["phases"]:
        if phase["shake"]["offered"]:
            due = run.seconds.filter(pl.col("phase") == phase["name"])
            assert due["offered"].sum() == phase["shake"]["offered"]
    assert run.seconds["answered"].sum() == sum(p["shake"]["answered"] for p in run.summary["phases"])
    ledger = run.summary["ledger"]
    assert run.seconds["packets_created"].sum() == ledger["created"]["count"]
    assert run.seconds["cents_created"].sum() == ledger["created"]["amount"]
    assert run.seconds["packets_received"].sum() == ledger["granted"]["count"]


def test_percentiles_are_those_of_the_summary(run):
    for phase in run.summary["phases"]:
        if phase["shake"]["answered"]:
            merged = run.merged(phase["name"])
            for name, percentile in [("p50", 50), ("p99", 99), ("p999", 99.9)]:
                ours, theirs = merged.get_value_at_percentile(percentile), phase["latency_us"][name]
                assert ours == pytest.approx(theirs, rel=2e-3, abs=1), (phase["name"], name)
            curve = run.curve(phase["name"])
            assert curve["us"].is_sorted() and curve["percentile"][0] == 0.0
            requests = run.latency.filter(pl.col("phase") == phase["name"])["requests"].sum()
            shake = phase["shake"]
            # Before format 2, of those that were sent only.
            sent = shake["answered"] + shake["timed_out"]
            assert requests == (shake["offered"] if run.manifest["format"] > 1 else sent)


def test_the_bad_second_is_that_of_a_fault(run):
    worst = run.worst_second()
    kinds = {kind for kind, start, end in run.faults.iter_rows() if start <= worst["t"] <= end}
    assert kinds, f"{worst} is outside of {run.faults}"
    assert set(run.faults["kind"]) == {"slow_handler", "hog"}


def test_causes_are_the_time_that_requests_took(run):
    assert run.why_no_causes is None
    causes = run.causes.group_by("t", "phase", "from_us").agg(
        pl.col("us").sum(), pl.col("requests").first(), pl.col("cause").len()
    )
    # Recorded runs are older than the causes after "unexplained".
    seven = lab.CAUSES.index("unexplained") + 1
    assert causes["cause"].is_in([seven, len(lab.CAUSES)]).all()
    # All causes of a bucket's requests together lie within the bucket, an eighth wide.
    slow = causes.filter(pl.col("from_us") >= 1000)
    each = slow.select(each=pl.col("us") / pl.col("requests"), floor=pl.col("from_us"))
    assert (each["each"] >= 0.99 * each["floor"]).all(), each
    assert (each["each"] <= 1.13 * each["floor"] + 10).all(), each
    shares = run.tail_shares(1000).group_by("t").agg(pl.col("share").sum())
    assert shares["share"].to_list() == pytest.approx([1.0] * len(shares))


def test_a_slow_request_has_a_timeline(run):
    request = run.slow.filter(pl.col("instants_us").is_not_null()).row(-1, named=True)
    timeline = run.timeline(request)
    assert timeline.height == 6
    assert timeline["start"][1:].to_list() == timeline["end"][:-1].to_list()
    last = timeline["end"][-1]
    assert last == pytest.approx(request["latency_us"], rel=0.02, abs=100)
    assert sum(request[cause] for cause in lab.CAUSES) == pytest.approx(last, rel=0.02, abs=100)


def test_without_probes_nothing_is_invented(without_probes):
    assert without_probes.causes.is_empty()
    assert without_probes.why_no_causes .endswith("(probes: Off)")
    assert without_probes.slow["blamed"].null_count() == without_probes.slow.height
    request = dict.fromkeys(without_probes.slow.columns)
    assert without_probes.timeline(request).is_empty()
    assert without_probes.faults.is_empty()


def test_buckets_are_those_of_the_clients():
    assert [lab.bucket_floor(at) for at in (0, 7, 8, 15, 16, 17, 24)] == [0, 7, 8, 15, 16, 18, 32]
    floors = [lab.bucket_floor(at) for at in range(200)]
    assert floors == sorted(set(floors))


def test_differences_name_fields():
    first = {"a": 1, "b": {"c": 2, "d": 3}, "e": [1]}
    second = {"a": 1, "b": {"c": 4, "d": 3}, "f": None}
    found = lab.differences(first, second).rows()
    assert found == [("b.c", "2", "4"), ("e", "[1]", "null")]


def test_the_recorded_pair_differs_in_its_congestion_control(without_probes):
    bbr = lab.Run(lab.RECORDED / "bbr")
    found = lab.differences(bbr.made_with, without_probes.made_with).rows()
    assert found == [("experiment.network.congestion", '"bbr"', '"cubic"')]


def test_the_projection_is_arithmetic(without_probes):
    it = lab.projection(without_probes, shakes=1e10, cores=8, busy=0.5)
    assert it["rate_by_cpu"] == pytest.approx(8 * 0.5 * 1e6 / it["server_us"])
    assert it["server_minutes"] * 60 * it["rate_by_cpu"] == pytest.approx(1e10)
    assert it["phase"] == "disturbed"


def test_cpu_is_that_of_the_summary_where_it_has_one(run, without_probes):
    seen = 0
    for it in (run, without_probes):
        for phase in it.summary["phases"]:
            for side in ("server", "client"):
                theirs = phase["cpu_us_per_request"][side]
                if theirs is not None:
                    assert it.cpu_per_request(phase["name"], side) == pytest.approx(theirs, rel=0.01)
                    seen += 1
    assert seen >= 4
    assert run.cpu_per_request("connect") is None


def test_a_column_that_is_not_known_is_null(without_probes, tmp_path):
    copy = tmp_path / "run"
    shutil.copytree(without_probes.directory, copy)
    samples = pl.read_parquet(copy / "samples.parquet").drop("granted")
    samples.write_parquet(copy / "samples.parquet")
    seconds = lab.Run(copy).seconds
    assert seconds["granted"].null_count() == seconds.height
    assert seconds["answered"].null_count() == 0


def test_what_is_no_run_is_told(run, tmp_path):
    with pytest.raises(lab.NoRun, match="no manifest.json"):
        lab.Run(tmp_path)
    (tmp_path / "manifest.json").write_text("{")
    with pytest.raises(lab.NoRun, match="no JSON"):
        lab.Run(tmp_path)
    (tmp_path / "manifest.json").write_text(json.dumps(run.manifest | {"format": lab.FORMAT + 1}))
    with pytest.raises(lab.NoRun, match=f"format {lab.FORMAT + 1}"):
        lab.Run(tmp_path)
    (tmp_path / "manifest.json").write_text(json.dumps(run.manifest))
    with pytest.raises(lab.NoRun, match="lab report"):
        _ = lab.Run(tmp_path).samples
    # A histogram log that was cut off in a line.
    for name in ["events.parquet", "samples.parquet", "summary.json"]:
        shutil.copy(run.directory / name, tmp_path)
    whole = (run.directory / "latency.hlog").read_text()
    (tmp_path / "latency.hlog").write_text(whole[: whole.rindex(":latency,") + 30])
    assert lab.Run(tmp_path).latency.height == run.latency.height - 1


def test_the_run_of_the_environment_is_loaded(monkeypatch):
    monkeypatch.setenv("LAB_RUN", str(lab.RECORDED / "bbr"))
    assert lab.load().directory.name == "bbr"
    monkeypatch.delenv("LAB_RUN")
    assert lab.load().directory.name == "bad-second"


def made(run):
    """What a run makes of each table that it has."""
    request = run.slow.row(-1, named=True)
    return {
        "phases": run.phases,
        "seconds": run.seconds,
        "proc": run.proc,
        "latency": run.latency,
        "curve": run.curve(run.summary["phases"][-1]["name"]),
        "causes": run.causes,
        "slow": run.slow,
        "faults": run.faults,
        "tail_shares": run.tail_shares(1000),
        "timeline": run.timeline(request),
        "differences": lab.differences(run.made_with, {}),
    }


def test_tables_have_the_columns_that_are_described(run, without_probes):
    history = lab.load_runs(lab.RECORDED)
    of_history = {"runs": history.runs, "figures": history.figures, "changes": history.changes}
    for tables in [made(run), made(without_probes), of_history]:
        for name, frame in tables.items():
            assert dict(frame.schema) == dict(lab.TABLES[name].schema), name
    assert set(made(run)) | set(of_history) == set(lab.TABLES)
    for table in lab.TABLES.values():
        assert table.doc and all(len(column.doc) > 5 for column in table.columns.values())
        assert lab.describe(table.name).height == len(table.columns)
        assert table.empty().columns == list(table.columns)


@pytest.fixture
def directory(tmp_path):
    """Five runs over three commits and two machines, and what is none."""

    def put(name, source, day, **changes):
        shutil.copytree(lab.RECORDED / source, tmp_path / name)
        manifest = tmp_path / name / "manifest.json"
        made = json.loads(manifest.read_text()) | {"started": 1_795_000_000 + 86_400 * day}
        made |= {key: value for key, value in changes.items() if key not in ("called", "host")}
        made["experiment"]["name"] = changes.get("called", "same")
        made["hosts"][0] |= changes.get("host", {})
        manifest.write_text(json.dumps(made))

    put("b", "cubic", 1, version="one")
    put("a", "cubic", 0, version="one")
    put("set/1", "cubic", 2, version="two")
    put("set/2", "cubic", 3, version="two", host={"host": "far", "kernel": "7.0.1"})
    put("other", "bad-second", 2, version="one", called="other")
    (tmp_path / "empty").mkdir()
    (tmp_path / ".hidden").mkdir()
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "manifest.json").write_text("{")
    put("raw", "bbr", 5)
    (tmp_path / "raw" / "summary.json").unlink()
    return tmp_path


def test_a_directory_is_its_runs_in_their_order(directory):
    history = lab.load_runs(directory)
    runs = history.runs
    assert runs["run"].to_list() == ["a", "b", "other", "set/1", "set/2"]
    assert runs["state"].to_list() == [1, 1, 1, 2, 3]
    assert runs["host"].to_list()[-1] == "far" and runs["kernel"].to_list()[-1] == "7.0.1"
    assert runs["began"].is_sorted() and runs["began"].dtype == pl.Datetime("us", "UTC")
    changed = {row["run"]: [] for row in history.changes.iter_rows(named=True)}
    for row in history.changes.iter_rows(named=True):
        changed[row["run"]].append((row["before"], row["field"]))
    assert changed == {
        "set/1": [("b", "version")],
        "set/2": [("set/1", "hosts.0.host"), ("set/1", "hosts.0.kernel")],
    }
    left_out = " | ".join(history.left_out)
    for words in ["broken: ", "empty: ", "raw: ", "lab report"]:
        assert words in left_out, left_out
    assert len(history.left_out) == 3


def test_figures_of_a_history_are_those_of_the_summaries(directory):
    history = lab.load_runs(directory)
    seen = 0
    for row in history.figures.iter_rows(named=True):
        phases = history.by_name[row["run"]].summary["phases"]
        phase = next(it for it in phases if it["name"] == row["phase"])
        if row["figure"] == "p99 µs":
            assert row["value"] == phase["latency_us"]["p99"]
            seen += 1
        if row["figure"] == "answered/s":
            assert row["value"] * phase["seconds"] == pytest.approx(phase["shake"]["answered"])
    assert seen >= 5
    beside = history.percent_of_first()
    of_a = beside.filter(pl.col("run") == "a", pl.col("valid"), pl.col("value").is_not_null())
    assert set(of_a["percent"].to_list()) <= {0.0}
    # The same run again is as far from the first as it is.
    of_b = beside.filter(pl.col("run") == "b", pl.col("valid"), pl.col("value").is_not_null())
    assert set(of_b["percent"].to_list()) <= {0.0}


def test_what_is_no_directory_of_runs_is_told(tmp_path, monkeypatch):
    with pytest.raises(lab.NoRun, match="no such directory"):
        lab.load_runs(tmp_path / "nowhere")
    with pytest.raises(lab.NoRun, match="no directory of runs"):
        lab.load_runs(tmp_path)
    monkeypatch.setenv("LAB_RUNS", str(lab.RECORDED / "bbr"))
    assert lab.load_runs().runs["run"].to_list() == ["bbr"]
    monkeypatch.delenv("LAB_RUNS")
    assert lab.load_runs().runs.height == 3


def test_notebooks_have_no_outputs():
    notebooks = sorted(HERE.glob("*.ipynb"))
    assert [file.name[:2] for file in notebooks] == ["01", "02", "03", "04", "05"]
    for file in notebooks:
        for cell in json.loads(file.read_text())["cells"]:
            assert not cell.get("outputs"), f"{file.name}: clear its outputs"
            assert cell.get("execution_count") is None, f"{file.name}: clear its outputs"
