"""Settings of the training loop, and the values that "auto" stands for.

`docs/quality.md` describes how these numbers were chosen.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

# Below this number of rows there are many small networks: batches are small, so that
# the steps of wide ones take longer than their gradients.
ROWS_OF_WIDE_NETWORKS = 5000
SMALL_NETWORKS, WIDE_NETWORKS = (32, (32, 32)), (16, (64, 64))

# With fewer rows than this many of the largest batches, the number of steps is fixed.
SMALLEST_BATCH, LARGEST_BATCH, BATCHES_PER_EPOCH = 32, 512, 32
FEWEST_EPOCHS, MOST_EPOCHS, PATIENT_SHARE = 20, 400, 1 / 3
# Of small and wide networks.
STEPS, MORE_STEPS = 1500, 2000

# Steps after which held-out rows decide which kinds of networks go on, and the largest
# share of all epochs for this. Some kinds are dropped after half of these steps.
STEPS_OF_CHOICE, LARGEST_SHARE_OF_CHOICE = 200, 0.25
# Epochs are scored at about this distance: on small tables scoring takes as long as the
# few steps of an epoch.
STEPS_PER_SCORE = 32

ROWS_PER_COMPONENT, FEWEST_COMPONENTS, MOST_COMPONENTS = 2000, 3, 16
# Of 2 to 5 outputs: regions of a plane are bent and have corners. With more outputs,
# a component has too many parameters.
SEVERAL_OUTPUTS = range(2, 6)
ROWS_PER_COMPONENT_OF_SEVERAL, FEWEST_OF_SEVERAL = 300, 8


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
    verbose: bool | int
    n_epochs_of_halving: int
    n_epochs_of_choice: int
    n_epochs_per_score: int

    @classmethod
    def resolve(cls, params: Mapping[str, Any], n_rows: int) -> TrainingSettings:
        """Replace "auto" by values for a number of unique rows.

        Raises
        ------
        ValueError
            If `warmup_iter` is not smaller than the resolved `max_iter`.
        """
        settings = {
            name: params[name] for name in params if name in cls.__dataclass_fields__
        }
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
        n_steps = math.ceil(n_rows / settings["batch_size"])
        # Weights before the end of the warm-up are not kept, and tell nothing.
        n_left = settings["max_iter"] - settings["warmup_iter"]
        most = math.ceil(LARGEST_SHARE_OF_CHOICE * n_left)
        n_epochs = min(max(1, round(STEPS_OF_CHOICE / n_steps)), most)
        return cls(
            **settings,
            n_epochs_of_halving=settings["warmup_iter"] + max(1, n_epochs // 2),
            n_epochs_of_choice=settings["warmup_iter"] + n_epochs,
            n_epochs_per_score=min(
                max(1, round(STEPS_PER_SCORE / n_steps)), settings["n_iter_no_change"]
            ),
        )


def auto_networks(n_rows: int) -> tuple[int, tuple[int, ...]]:
    """Return the number of networks, and the widths of their hidden layers."""
    return SMALL_NETWORKS if n_rows < ROWS_OF_WIDE_NETWORKS else WIDE_NETWORKS


def auto_n_components(n_rows: int, n_outputs: int) -> int:
    """Return a number of components in proportion to the rows, within bounds."""
    rows_per_component, fewest = ROWS_PER_COMPONENT, FEWEST_COMPONENTS
    if n_outputs in SEVERAL_OUTPUTS:
        rows_per_component, fewest = ROWS_PER_COMPONENT_OF_SEVERAL, FEWEST_OF_SEVERAL
    return min(max(round(n_rows / rows_per_component), fewest), MOST_COMPONENTS)


def auto_batch_size(n_rows: int) -> int:
    """Return the power of two nearest to a fixed share of the rows, within bounds."""
    size = 2 ** round(np.log2(max(1, n_rows / BATCHES_PER_EPOCH)))
    return int(np.clip(size, SMALLEST_BATCH, LARGEST_BATCH))


def auto_max_iter(n_rows: int, batch_size: int) -> int:
    """Return the epochs that make a fixed number of steps, within bounds."""
    n_steps = STEPS if n_rows < ROWS_OF_WIDE_NETWORKS else MORE_STEPS
    n_epochs = round(n_steps / math.ceil(n_rows / batch_size))
    return min(max(n_epochs, FEWEST_EPOCHS), MOST_EPOCHS)


def auto_n_iter_no_change(max_iter: int) -> int:
    """Return a fixed share of the epochs."""
    return math.ceil(PATIENT_SHARE * max_iter)
