"""Executes notebooks from beginning to end, and fails at the first error: for tests and CI.

    python notebooks/execute.py [NOTEBOOK]...      all of them when none is named

Writes nothing: outputs stay out of the repository. LAB_RUN, LAB_RUN_BEFORE, LAB_RUN_AFTER and LAB_RUNS
name the runs that they read.
"""

import sys
from pathlib import Path

import nbformat
from nbclient import NotebookClient

HERE = Path(__file__).resolve().parent


def execute(file: Path) -> int:
    """The number of charts that a notebook draws."""
    notebook = nbformat.read(file, as_version=4)
    NotebookClient(notebook, timeout=120, resources={"metadata": {"path": str(HERE)}}).execute()
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    for output in outputs:
        if output.output_type == "stream" and output.name == "stderr":
            raise SystemExit(f"{file.name}: said on stderr: {output.text}")
    return sum("vegaEmbed" in it.get("data", {}).get("text/html", "") for it in outputs)


def main() -> None:
    files = [Path(name) for name in sys.argv[1:]] or sorted(HERE.glob("*.ipynb"))
    for file in files:
        charts = execute(file)
        if charts == 0:
            raise SystemExit(f"{file.name}: draws nothing")
        print(f"{file.name}: {charts} charts")


if __name__ == "__main__":
    main()
