"""From a measured run to many shakes.

Owns: the arithmetic of the articles' conclusion. `lab plan` does it with margins, and for clients.
"""

from __future__ import annotations

from typing import Any

from .run import NoRun, Run


def projection(
    run: Run, shakes: float = 1e10, cores: int | None = None, busy: float = 0.7
) -> dict[str, Any]:
    """What a server like the measured one could answer if its CPUs were its own, and what follows
    for many shakes. The phase with the most answers counts. `lab plan` does it with margins."""
    phases = [phase for phase in run.summary["phases"] if phase["shake"]["answered"]]
    if not phases:
        raise NoRun(f"{run.directory}: no user shook")
    phase = max(phases, key=lambda phase: phase["shake"]["answered"] / phase["seconds"])
    cores = cores or len(run.manifest["hosts"][0]["cpus"])
    us = run.cpu_per_request(phase["name"])
    measured = phase["shake"]["answered"] / phase["seconds"]
    by_cpu = cores * busy * 1e6 / us if us else None
    memory = phase["memory"]
    parts = [memory["server_user_bytes_per_connection"], memory["kernel_bytes_per_socket"]]
    return {
        "phase": phase["name"],
        "cores": cores,
        "shakes": shakes,
        "measured_rate": measured,
        "server_us": us,
        "rate_by_cpu": by_cpu,
        "bytes_per_connection": None if None in parts else sum(parts),
        "server_minutes": shakes / by_cpu / 60 if by_cpu else None,
    }
