"""What two runs were made with, and where that differs."""

from __future__ import annotations

import json
from typing import Any

import polars as pl

from .columns import DIFFERENCES


def differences(
    first: dict[str, Any], second: dict[str, Any], prefix: str = ""
) -> pl.DataFrame:
    """The fields in which two JSON objects differ, such as the tuning of two manifests."""
    rows = []
    for key in sorted(set(first) | set(second)):
        a, b = first.get(key), second.get(key)
        name = f"{prefix}{key}"
        if isinstance(a, dict) and isinstance(b, dict):
            rows += differences(a, b, f"{name}.").rows()
        elif a != b:
            rows.append((name, json.dumps(a), json.dumps(b)))
    return pl.DataFrame(rows, schema=DIFFERENCES.schema, orient="row")
