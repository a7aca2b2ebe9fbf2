"""Notices about rows on which a fit is not meaningful."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from skmdn._data.rows import UniqueRows, as_dense, dense_blocks
from skmdn._data.scaling import KNEE, Scaling
from skmdn._data.supports import Supports
from skmdn._data.target_transform import TargetTransform
from skmdn._data.targets import Targets
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
# A value lies absurdly far out from so many scales on, if none lies on the way, from a
# distance smaller by a factor of 2^GAP or more. Tails of real tables have no such gaps.
ABSURD, GAP = 64.0, 5
# Share of all rows up to which such rows are alone.
MOST_OUTLIERS = 0.01
# Powers of two of a distance in scales that are told apart.
EXPONENTS = 64
X_REMEDY = (
    "If this marks missing values, replace it by a likely value and add a column that "
    "says so; the fit bounds its influence."
)
Y_REMEDY = (
    "If it is an error, remove the row; the fit bounds its influence, but the density "
    "has a component of little weight there."
)
CHECK_UNITS = "Check that they have the units of the rows to fit."
CHECK_STEPS = (
    f"{CHECK_UNITS} A pipeline transforms X_val only where it is made with "
    "Pipeline(..., transform_input=['X_val']): see docs/features.md."
)
# With this many rows per distinct value, a density can place spikes on the values.
ROWS_PER_VALUE = 20


def notices_of_ties(
    targets: Targets, transform: TargetTransform, reg_covar: float, ranks: Ranks
) -> list[Notice]:
    """List the outputs on whose values a density can place spikes.

    An output is not listed if it has a resolution, or if `reg_covar`, in units of its
    squared scale, is as wide as the steps between its values.
    """
    scale = transform.scaling.scale
    resolution, supports = transform.recording.resolution, transform.recording.supports
    latent, is_exact = targets.points, targets.is_exact
    notices = []
    for j in np.flatnonzero(resolution == 0):
        known = np.unique(latent[is_exact[:, j], j])
        n_rows = int(ranks.sum(is_exact[:, j].sum()))
        if n_rows < ROWS_PER_VALUE * int(ranks.max(len(known))):
            continue
        known = np.unique(np.concatenate(ranks.all_gather(known)))
        if n_rows < ROWS_PER_VALUE * len(known) or len(known) < 2:
            continue
        floor = np.diff(known).min() ** 2 / 12 / scale[j] ** 2
        if reg_covar >= float(f"{floor:.2g}"):
            continue
        step = np.diff(supports[j].from_latent(known)).min()
        output = "" if len(resolution) == 1 else f" in output {j}"
        notices.append(
            Notice(
                f"y has only {len(known)} distinct values in {n_rows} rows"
                f"{output}: a density can place spikes on them, and its "
                "log-likelihood is then not meaningful. If y was recorded to a step, "
                f"set target_resolution, for example to {step:.3g}: the likelihood is "
                "then that of the recorded values, which is bounded. See "
                "docs/targets.md."
            )
        )
    return notices


def notices_of_unobserved(targets: Targets, ranks: Ranks) -> list[Notice]:
    """Note rows of which no output was observed."""
    known = targets.is_observed
    n_unknown = 0 if known is None else int((~known.any(axis=1)).sum())
    n_unknown = int(ranks.sum(n_unknown))
    if n_unknown == 0:
        return []
    return [
        Notice(
            f"y says nothing about {n_unknown} rows, of which no output was observed: "
            "they are not used."
        )
    ]


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


# -- rows far outside the others ----------------------------------------------------


def notices_of_outliers(
    rows: UniqueRows,
    scalings: tuple[Scaling, Scaling],
    names: tuple[Sequence[str] | None, Sequence[str] | None],
    ranks: Ranks,
    supports: Supports | None = None,
) -> list[Notice]:
    """Note values of X and y that lie absurdly far from all others of their column.

    The parameters are those of `notices_of_scale`, for the rows that determined the
    scale. A few rows lie absurdly far out if they are beyond `ABSURD` scales and no
    row lies on the way: the closest is at most a share 1 / 2^`GAP` as far out.

    Returns
    -------
    notices : list of Notice
        One for X and one for y at most; they name the worst column.
    """
    given = (
        ("X", rows.X, rows.positions, X_REMEDY),
        ("y", rows.y.points, np.arange(len(rows.y)), Y_REMEDY),
    )
    notices = []
    for (name, values, index, remedy), scaling, columns in zip(
        given, scalings, names, strict=True
    ):
        edges, counts = _gaps(values, index, scaling, ranks)
        if not (found := np.isfinite(edges)).any():
            continue
        worst = int(np.argmax(np.where(found, edges, -1)))
        far, low, high = _sides(values, index, scaling, edges, worst, ranks)
        if low == high:
            continue
        if name == "y" and supports is not None:
            ends = np.array([far, low, high])
            far, low, high = supports[worst].from_latent(ends).tolist()
        where = worst if columns is None else repr(columns[worst])
        more = f" and {n - 1} more" if (n := found.sum()) > 1 else ""
        n_far = int(counts[worst])
        which = "1 row" if n_far == 1 else f"the furthest of {n_far} distinct rows"
        notices.append(
            Notice(
                f"{name} has values far outside the others in column {where}{more}: "
                f"{far:.7g} in {which}, while all others lie between {low:.3g} and "
                f"{high:.3g}. {remedy}"
            )
        )
    return notices


def is_outlier(
    rows: UniqueRows, scalings: tuple[Scaling, Scaling], ranks: Ranks
) -> NDArray[np.bool_]:
    """Tell which rows have a value that `notices_of_outliers` notes, (m,).

    If they are more than 1 % of the rows, none is meant: networks learn of the others.
    """
    found = np.zeros(len(rows.y), dtype=bool)
    given = (rows.X, rows.positions), (rows.y.points, np.arange(len(rows.y)))
    for (values, index), scaling in zip(given, scalings, strict=True):
        edges, _ = _gaps(values, index, scaling, ranks)
        if np.isinf(edges).all():
            continue
        for part, block in dense_blocks(values, index):
            distance = np.abs(block - scaling.mean) / np.abs(scaling.scale)
            found[part] |= (distance > edges).any(axis=1)
    n_found, n_rows = ranks.sum([found.sum(), len(found)])
    return found if n_found <= MOST_OUTLIERS * n_rows else np.zeros_like(found)


def _gaps(
    X: Any, index: NDArray[np.intp], scaling: Scaling, ranks: Ranks
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the distance in scales of the values beyond a gap, and their number.

    Both have the shape (n_columns,); the distance is infinite where there is no gap.
    """
    n_columns = X.shape[1]
    counts = np.zeros((n_columns, EXPONENTS))
    for _, block in dense_blocks(X, index):
        distance = np.abs(block - scaling.mean) / np.abs(scaling.scale)
        row, column = np.nonzero(distance >= 2)  # no gap begins before
        bins = np.minimum(np.frexp(distance[row, column])[1], EXPONENTS - 1)
        np.add.at(counts, (column, bins), 1)
    counts = ranks.sum(counts)
    n_beyond = counts[:, ::-1].cumsum(axis=1)[:, ::-1]
    edges, n_far = np.full(n_columns, np.inf), np.zeros(n_columns)
    most = FAR_SHARE * ranks.sum(len(index))
    first = int(np.ceil(np.log2(ABSURD))) + 1
    for exponent in range(EXPONENTS - 1, first - 1, -1):
        # Distances in [2^(e - 1), 2^e) have the exponent e.
        is_gap = n_beyond[:, exponent] == n_beyond[:, exponent - GAP]
        is_gap &= (n_beyond[:, exponent] > 0) & (n_beyond[:, exponent] < most)
        edges[is_gap] = 2.0 ** (exponent - 1)
        n_far[is_gap] = n_beyond[is_gap, exponent]
    if scaling.tails is not None:  # those without hold rare values of another kind
        edges[np.isinf(scaling.tails.high)] = np.inf
    return edges, n_far


def _sides(
    X: Any,
    index: NDArray[np.intp],
    scaling: Scaling,
    edges: NDArray[np.float64],
    column: int,
    ranks: Ranks,
) -> tuple[float, float, float]:
    """Return the value of a column furthest out, and the range of those before it."""
    values = as_dense(X[:, [column]])[index, 0].astype(np.float64)
    distance = np.abs(values - scaling.mean[column]) / abs(scaling.scale[column])
    is_far = distance > edges[column]
    near = values[~is_far]
    high, minus_low = ranks.max(
        [near.max(initial=-np.inf), -near.min(initial=np.inf)]
    ).tolist()
    ours = values[distance.argmax()] if is_far.any() else scaling.mean[column]
    furthest = np.array(ranks.all_gather(ours))
    worst = np.abs(furthest - scaling.mean[column]).argmax()
    return float(furthest[worst]), -minus_low, high


# -- rows outside of a scale -------------------------------------------------------


def notices_of_scale(
    rows: UniqueRows,
    scalings: tuple[Scaling, Scaling],
    names: tuple[Sequence[str] | None, Sequence[str] | None],
    ranks: Ranks,
    supports: Supports | None = None,
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
    supports : Supports, default=None
        Those by which y was mapped.
    is_validation : bool, default=False
        Whether these are validation rows, or else further rows to train on.

    Returns
    -------
    notices : list of Notice
        One for X and one for y at most; they name the worst column.
    """
    every_row = np.arange(len(rows.y))
    suffix, remedies = "", (SCALE_AGAIN, SCALE_AGAIN)
    if is_validation:
        suffix, remedies = "_val", (CHECK_STEPS, CHECK_UNITS)
    is_mapped = supports is not None and not supports.is_identity
    of_y = ", mapped as target_support says," if is_mapped else ""
    notices = []
    for name, values, index, scaling, columns, remedy in zip(
        ("X" + suffix, "y" + suffix + of_y),
        (rows.X, rows.y.points),
        (rows.positions, every_row),
        scalings,
        names,
        remedies,
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
    # With soft tails, a value must be far out both as given and as the networks see
    # it: the rows that determined a scale can be the former, but never the latter.
    seen_far, seen_extreme = (_seen(scaling, distance) for distance in (far, EXTREME))
    sums = np.zeros((5, X.shape[1]))
    with np.errstate(over="ignore", invalid="ignore"):
        for part, block in dense_blocks(X, index):
            z = (block - scaling.mean) / scaling.scale
            distance = np.abs(z)
            is_narrow = (distance > 0) & (distance < NARROW)
            seen = np.abs(scaling.transform(block).numpy())
            is_far = (distance > far) & (seen > seen_far)
            is_extreme = (distance > EXTREME) & (seen > seen_extreme)
            columns = z, z**2, is_far, is_extreme, is_narrow
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


def _seen(scaling: Scaling, distance: float) -> NDArray[np.float64]:
    """Return at what distance a network sees a value so many scales away, (p,)."""
    has_tails = np.isfinite(scaling.knees[1])
    softened = KNEE + np.arcsinh(distance - KNEE)
    return np.where(has_tails, softened, distance)
