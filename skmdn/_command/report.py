"""What the command prints and writes: scores, JSON, and the equivalent Python."""

from __future__ import annotations

import json
import math
import platform
from importlib import metadata
from pathlib import Path
from typing import Any

import pandas as pd
import torch

import skmdn
from skmdn._command.evaluation import Evaluation
from skmdn._command.storing import DATE_FORMATS
from skmdn._command.table import Table

DEPENDENCIES = ("numpy", "pandas", "scikit-learn", "scipy")


def table_of_scores(evaluation: Evaluation, n_outputs: int) -> list[str]:
    """Return the lines of the cross-validated table."""
    if not evaluation.scores:
        return []
    distance = name_of_distance(n_outputs)
    width = max(map(len, evaluation.scores))
    lines = [f"{'cross-validated':{width}}  {'NLL':>9}  {distance:>12}  90 % coverage"]
    for name, scores in evaluation.scores.items():
        nll, score, covered = scores.mean(axis=0)
        lines.append(
            f"{name:{width}}  {nll:9.4f}  {score:12.4g}  {100 * covered:11.1f} %"
        )
    region = "central intervals" if n_outputs == 1 else "highest-density regions"
    return [
        "",
        *lines,
        "",
        f"NLL in nats and {distance} in the unit of the target: lower is better.",
        f"The {region} of 90 % should cover 90 %.",
    ]


def name_of_distance(n_outputs: int) -> str:
    """Return the name of the second score."""
    return "CRPS" if n_outputs == 1 else "energy score"


def write_json(
    path: Path, table: Table, evaluation: Evaluation, seconds: float, seed: int
) -> None:
    """Write the scores and what they are of; a number that is not finite is null."""
    names = (
        "nll",
        name_of_distance(len(table.targets)).lower().replace(" ", "_"),
        "coverage_90",
    )
    content = {
        "source": table.source,
        "targets": table.targets,
        "columns": {name: _kind(dtype) for name, dtype in table.X.dtypes.items()},
        "n_rows": len(table.X),
        "n_groups": None if table.groups is None else len(set(table.groups)),
        "seed": seed,
        "target_support": table.target_support,
        "scores": {
            model: dict(zip(names, map(_finite, scores.mean(axis=0)), strict=True))
            for model, scores in evaluation.scores.items()
        },
        "n_rows_scored": len(evaluation.rows) if evaluation.scores else 0,
        "portfolio_weights": {
            kind: _finite(weight)
            for kind, weight in evaluation.estimator.portfolio_weights_.items()
        },
        "notes": table.notes,
        "seconds": round(seconds, 3),
        "versions": _versions(),
    }
    text = json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False)
    path.write_text(text + "\n", encoding="utf-8")


def equivalent_python(table: Table, seed: int, model: Path | None) -> str:
    """Return the Python that reads the table, fits the estimator and saves it."""
    groups = f", groups=table[{table.group!r}]" if table.group is not None else ""
    support = f", target_support={table.target_support}" if table.support else ""
    formats = f"mdn.{DATE_FORMATS} = {table.date_formats!r}"
    formats += "  # so that skmdn predict reads dates"
    return "\n".join(
        [
            "import pandas as pd",
            "import skops.io",
            "from skmdn import MDNRegressor",
            *table.code,
            f"mdn = MDNRegressor(random_state={seed}{support}).fit(X, y{groups})",
            *([formats] if table.date_formats else []),
            f"skops.io.dump(mdn, {str(model or 'model.skops')!r})",
        ]
    )


def _kind(dtype: Any) -> str:
    return "category" if isinstance(dtype, pd.CategoricalDtype) else "number"


def _finite(number: Any) -> float | None:
    return float(number) if math.isfinite(number) else None


def _versions() -> dict[str, str]:
    return {
        "skmdn": skmdn.__version__,
        "python": platform.python_version(),
        "torch": str(torch.__version__),
        **{name: metadata.version(name) for name in DEPENDENCIES},
    }
