"""What the parameters that are "auto" stand for, given the number of rows.

`docs/quality.md` says how these numbers were chosen.
"""

from __future__ import annotations

import math

import numpy as np

__all__ = [
    "auto_batch_size",
    "auto_max_iter",
    "auto_n_components",
    "auto_n_iter_no_change",
]

# What counts is the number of steps, until there are more rows than that many batches
# hold.
SMALLEST_BATCH, LARGEST_BATCH, BATCHES_PER_EPOCH = 32, 512, 32
STEPS, FEWEST_EPOCHS, MOST_EPOCHS, PATIENT_SHARE = 3000, 20, 400, 1 / 3

# Rows for each component, and how many components there are at least and at most.
ROWS_PER_COMPONENT = 2000
FEWEST_COMPONENTS, MOST_COMPONENTS = 5, 16


def auto_n_components(n_rows: int) -> int:
    """Many rows can tell many components apart."""
    n_components = round(n_rows / ROWS_PER_COMPONENT)
    return min(max(n_components, FEWEST_COMPONENTS), MOST_COMPONENTS)


def auto_batch_size(n_rows: int) -> int:
    """Power of two near a fixed share of the rows, within bounds."""
    size = 2 ** round(np.log2(max(1, n_rows / BATCHES_PER_EPOCH)))
    return int(np.clip(size, SMALLEST_BATCH, LARGEST_BATCH))


def auto_max_iter(n_rows: int, batch_size: int) -> int:
    """Epochs that make a fixed number of steps, within bounds."""
    n_epochs = round(STEPS / math.ceil(n_rows / batch_size))
    return min(max(n_epochs, FEWEST_EPOCHS), MOST_EPOCHS)


def auto_n_iter_no_change(max_iter: int) -> int:
    """Patience is a share of the epochs."""
    return math.ceil(PATIENT_SHARE * max_iter)
