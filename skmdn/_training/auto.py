"""Settings of the training loop, and the values that "auto" stands for.

`docs/quality.md` describes how these numbers were chosen.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

# With fewer rows than this many of the largest batches, the number of steps is fixed.
SMALLEST_BATCH, LARGEST_BATCH, BATCHES_PER_EPOCH = 32, 512, 32
STEPS, FEWEST_EPOCHS, MOST_EPOCHS, PATIENT_SHARE = 3000, 20, 400, 1 / 3

ROWS_PER_COMPONENT = 2000
FEWEST_COMPONENTS, MOST_COMPONENTS = 5, 16


@dataclass(frozen=True)
class TrainingSettings:
    """Parameters of `MDNRegressor` that control the training loop, resolved."""

    learning_rate_init: float
    learning_rate: str
    alpha: float
    batch_size: int
    max_iter: int
    warmup_iter: int
    tol: float
    n_iter_no_change: int
    max_grad_norm: float | None
    verbose: bool

    @classmethod
    def resolve(cls, params: Mapping[str, Any], n_rows: int) -> TrainingSettings:
        """Replace "auto" by values for a number of unique rows.

        Raises
        ------
        ValueError
            If `warmup_iter` is not smaller than the resolved `max_iter`.
        """
        settings = {name: params[name] for name in cls.__dataclass_fields__}
        if settings["batch_size"] == "auto":
            settings["batch_size"] = auto_batch_size(n_rows)
        if settings["max_iter"] == "auto":
            settings["max_iter"] = auto_max_iter(n_rows, settings["batch_size"])
        if settings["n_iter_no_change"] == "auto":
            settings["n_iter_no_change"] = auto_n_iter_no_change(settings["max_iter"])
        if settings["warmup_iter"] >= settings["max_iter"]:
            raise ValueError(
                f"warmup_iter must be smaller than max_iter={settings['max_iter']}, "
                f"got warmup_iter={settings['warmup_iter']}."
            )
        return cls(**settings)


def auto_n_components(n_rows: int) -> int:
    """Return a number of components in proportion to the rows, within bounds."""
    n_components = round(n_rows / ROWS_PER_COMPONENT)
    return min(max(n_components, FEWEST_COMPONENTS), MOST_COMPONENTS)


def auto_batch_size(n_rows: int) -> int:
    """Return the power of two nearest to a fixed share of the rows, within bounds."""
    size = 2 ** round(np.log2(max(1, n_rows / BATCHES_PER_EPOCH)))
    return int(np.clip(size, SMALLEST_BATCH, LARGEST_BATCH))


def auto_max_iter(n_rows: int, batch_size: int) -> int:
    """Return the epochs that make a fixed number of steps, within bounds."""
    n_epochs = round(STEPS / math.ceil(n_rows / batch_size))
    return min(max(n_epochs, FEWEST_EPOCHS), MOST_EPOCHS)


def auto_n_iter_no_change(max_iter: int) -> int:
    """Return a fixed share of the epochs."""
    return math.ceil(PATIENT_SHARE * max_iter)
