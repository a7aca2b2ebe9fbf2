"""Notices about rows on which a fit is not meaningful."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from skmdn._data.rows import UniqueRows, dense_blocks
from skmdn._data.scaling import Scaling
from skmdn._utils.warn import Notice
from skmdn.distributed import Ranks

# From this number of rows on, the default networks predict half of all small linear
# tables better than a Gaussian of y alone.
FEW_ROWS = 25
# A column lies far outside a scale if this share of its rows is further from the mean
# than this many scales. By Chebyshev's inequality, at most 1 % of the rows that
# determined the scale are.
FAR_SHARE, FAR = 0.25, 10.0
# In a small piece, one outlier is a large share: more of them must be, and further out.
FAR_ROWS, PIECE_ROWS = 4, 10
# So far out, and no fewer, a smaller share of the rows is enough.
EXTREME_SHARE, EXTREME, EXTREME_ROWS = 0.05, 1000.0, 2
# Columns that were constant have the scale one, and this is far inside it.
NARROW = 0.1
# Least standard deviation, in scales, of a column that varies in a piece.
LEAST_SPREAD = 1 / 300
SCALE_AGAIN = (
    "Fit again, or begin partial_fit again, with rows that are representative of all."
)
CHECK_UNITS = "Check that they have the units of the rows to fit."
# With this many rows per distinct value, a density can place spikes on the values.
ROWS_PER_VALUE = 20


def notices_of_ties(
    y: NDArray[np.float64], scale: NDArray[np.float64], reg_covar: float, ranks: Ranks
) -> list[Notice]:
    """List the outputs on whose values a density can place spikes.

    An output is not listed if `reg_covar`, in units of the squared scale (d,), is as
    wide as the steps between its values.
    """
    n_rows = int(ranks.sum(len(y)))
    notices = []
    for j, column in enumerate(y.T):
        values = np.unique(column)
        if n_rows < ROWS_PER_VALUE * int(ranks.max(len(values))):
            continue
        values = np.unique(np.concatenate(ranks.all_gather(values)))
        if n_rows < ROWS_PER_VALUE * len(values) or len(values) == 1:
            continue
        step = np.diff(values).min()
        floor = step**2 / 12 / scale[j] ** 2
        if reg_covar >= float(f"{floor:.2g}"):  # rounded as in the message
            continue
        output = "" if y.shape[1] == 1 else f" in output {j}"
        notices.append(
            Notice(
                f"y has only {len(values)} distinct values in {n_rows} rows"
                f"{output}: a density can place spikes on them, and its "
                "log-likelihood is then not meaningful. Judge it by the CRPS or by "
                "the probability of an interval around each value, add uniform noise "
                f"of width {step:.3g}, or set reg_covar={floor:.2g}, the variance of "
                "such noise."
            )
        )
    return notices


# -- few rows ----------------------------------------------------------------------


def effective_rows(weight: NDArray[np.float64], ranks: Ranks) -> float:
    """Return the effective number of rows (sum w)^2 / sum w^2 (Kish 1965)."""
    total, squares = ranks.sum([weight.sum(), np.square(weight).sum()])
    return float(total**2 / squares)


def notices_of_few_rows(
    weight: NDArray[np.float64], ranks: Ranks, *, is_piece: bool
) -> list[Notice]:
    """Note that there are few rows, or that few of them have nearly all the weight.

    The weights are those of distinct rows. A piece of a longer training may be short.
    """
    n_rows, n_effective = int(ranks.sum(len(weight))), effective_rows(weight, ranks)
    if n_effective >= FEW_ROWS or (is_piece and n_rows < FEW_ROWS):
        return []
    remedy = "Give more rows, or use a simpler model"
    if n_rows < FEW_ROWS:
        text = f"The number of distinct rows, {n_rows}, is small"
    else:
        text = (
            f"The weights of the {n_rows} distinct rows are so unequal that they count "
            f"as {n_effective:.3g} of equal weight, (sum w)^2 / (sum w^2)"
        )
        remedy = f"Limit the largest weights. {remedy}"
    return [
        Notice(
            f"{text}: with fewer than {FEW_ROWS}, the networks often predict worse "
            "than a Gaussian that ignores X, and scores of held-out rows, such as "
            f"oof_score_, are not reliable. {remedy}, such as "
            "sklearn.linear_model.BayesianRidge."
        )
    ]


# -- rows outside of a scale -------------------------------------------------------


def notices_of_scale(
    rows: UniqueRows,
    scalings: tuple[Scaling, Scaling],
    names: tuple[Sequence[str] | None, Sequence[str] | None],
    ranks: Ranks,
    *,
    is_validation: bool = False,
) -> list[Notice]:
    """Note columns of X and y that lie far outside the scale of a network.

    Parameters
    ----------
    rows : UniqueRows
        Rows that did not determine the scale.
    scalings : tuple of Scaling
        Those of X and of y.
    names : tuple of (sequence of str or None)
        Names of the columns of X and of y.
    ranks : Ranks
    is_validation : bool, default=False
        Whether these are validation rows, or else further rows to train on.

    Returns
    -------
    notices : list of Notice
        One for X and one for y at most; they name the worst column.
    """
    every_row = np.arange(len(rows.y))
    suffix, remedy = ("_val", CHECK_UNITS) if is_validation else ("", SCALE_AGAIN)
    notices = []
    for name, values, index, scaling, columns in zip(
        ("X" + suffix, "y" + suffix),
        (rows.X, rows.y),
        (rows.positions, every_row),
        scalings,
        names,
        strict=True,
    ):
        mean, std, is_outside = _compare(values, rows.weight, index, scaling, ranks)
        if not is_outside.any():
            continue
        with np.errstate(divide="ignore"):
            misfit = np.maximum(np.abs(mean), np.abs(np.log(std)))
        worst = int(np.argmax(np.where(is_outside, misfit, -1)))
        where = worst if columns is None else repr(columns[worst])
        more = f" and {n - 1} more" if (n := is_outside.sum()) > 1 else ""
        notices.append(
            Notice(
                f"{name} does not fit the scale that earlier rows determined. Less the "
                f"mean {scaling.mean[worst]:.3g} and divided by the scale "
                f"{abs(scaling.scale[worst]):.3g} of column {where}{more}, these rows "
                f"have the mean {mean[worst]:.3g} and the standard deviation "
                f"{std[worst]:.3g} there, not about 0 and 1: the networks cannot learn "
                f"from them, or predict them, well. {remedy}"
            )
        )
    return notices


def _compare(
    X: Any,
    weight: NDArray[np.float64],
    index: NDArray[np.intp],
    scaling: Scaling,
    ranks: Ranks,
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.bool_]]:
    """Return mean and standard deviation of each scaled column, and which are outside.

    Weights (m,) belong to the rows of the index.
    """
    n_rows = effective_rows(weight, ranks)
    far = FAR * max(1.0, PIECE_ROWS / n_rows) ** 2
    far_share = min(1.0, max(FAR_SHARE, FAR_ROWS / n_rows)) - 1e-9  # for rounding
    extreme_share = max(EXTREME_SHARE, EXTREME_ROWS / n_rows) - 1e-9
    share = weight / ranks.sum(weight.sum())
    sums = np.zeros((5, X.shape[1]))
    with np.errstate(over="ignore", invalid="ignore"):
        for part, block in dense_blocks(X, index):
            z = (block - scaling.mean) / scaling.scale
            distance = np.abs(z)
            is_narrow = (distance > 0) & (distance < NARROW)
            is_extreme = distance > EXTREME
            columns = z, z**2, distance > far, is_extreme, is_narrow
            sums += [share[part] @ column for column in columns]
    mean, square, is_far, is_extreme, is_narrow = ranks.sum(sums)
    with np.errstate(over="ignore", invalid="ignore"):
        variance = square - mean**2
        # A column that is constant up to rounding has no spread to compare.
        varies = np.isinf(square) | (variance > 1e-12 * square)
    std = np.sqrt(np.where(varies, np.where(np.isinf(square), np.inf, variance), 0))
    # The scale of a constant column is one, which may be far too wide.
    is_narrow *= scaling.scale == 1
    is_outside = (is_far >= far_share) | (is_narrow >= 1 - FAR_SHARE)
    is_outside |= is_extreme >= extreme_share
    if n_rows >= PIECE_ROWS:
        is_outside |= varies & (std < LEAST_SPREAD)
    return mean * np.sign(scaling.scale), std, is_outside
