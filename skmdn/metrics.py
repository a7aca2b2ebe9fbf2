"""Proper scores and calibration of conditional densities."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from skmdn import _mixture
from skmdn._composite import predict_density
from skmdn._data.checks import weighted_mean
from skmdn._data.outputs import check_one_output
from skmdn._joint_scores import energy_score, variogram_score
from skmdn._utils.arrays import make_seed
from skmdn.density import ConditionalDensity
from skmdn.density.recorded import RecordedDensity
from skmdn.density.rowwise import as_observations, map_rows
from skmdn.density.transformed import Density

__all__ = [
    "coverage",
    "crps",
    "energy_score",
    "interval_score",
    "log_score",
    "neg_crps_scorer",
    "neg_energy_score_scorer",
    "neg_log_score_scorer",
    "pit",
    "predict_density",
    "variogram_score",
]


def log_score(
    y: ArrayLike, density: ConditionalDensity | RecordedDensity
) -> NDArray[np.float64]:
    """Compute the negative log-density of y.

    Parameters
    ----------
    y : array-like of shape (n,) or (n, n_outputs)
        Observed values, one for each row.
    density : ConditionalDensity or RecordedDensity
        Predicted density.

    Returns
    -------
    score : ndarray of shape (n,)
        In nats; lower is better. Of a RecordedDensity it is minus the logarithm of the
        probability of y divided by the step, the mean density in the cell: it is
        comparable with the score of densities, and spikes cannot lower it without
        bound.

    Examples
    --------
    >>> from skmdn import MixtureDensity
    >>> from skmdn.metrics import log_score
    >>> log_score([0.0], MixtureDensity([[1.0]], [[0.0]], [[1.0]])).round(4)
    array([0.9189])
    """
    points = as_observations(y, density)
    values = density.outputs.squeeze(points)
    if isinstance(density, RecordedDensity):
        score: NDArray[np.float64] = np.log(density.step) - density.logpmf(values)
        return score
    return -density.logpdf(values)


def crps(y: ArrayLike, density: Density | RecordedDensity) -> NDArray[np.float64]:
    """Compute the continuous ranked probability score of one output.

    The integral over t of (cdf(t) - 1[y <= t])^2. For a point forecast it is the
    absolute error. In closed form, but for an output in an interval by quadrature with
    a relative error below 1e-10. Of a RecordedDensity it is that of the recorded
    values, see :meth:`skmdn.RecordedDensity.crps`.

    Parameters
    ----------
    y : array-like of shape (n,) or (n, 1)
        Observed values, one for each row.
    density : MixtureDensity, TransformedDensity or RecordedDensity
        Predicted density of one output.

    Returns
    -------
    score : ndarray of shape (n,)
        In the unit of y; lower is better.

    References
    ----------
    S. Baran and S. Lerch, "Log-normal distribution based ensemble model output
    statistics models for probabilistic wind-speed forecasting", Quarterly Journal of
    the Royal Meteorological Society 141, 2015.

    E. P. Grimit et al., "The continuous ranked probability score for circular
    variables and its application to mesoscale forecast ensemble verification",
    Quarterly Journal of the Royal Meteorological Society 132, 2006.

    Examples
    --------
    >>> from skmdn import MixtureDensity
    >>> from skmdn.metrics import crps
    >>> crps([0.0], MixtureDensity([[1.0]], [[0.0]], [[1.0]])).round(6)
    array([0.233695])
    """
    points = as_observations(y, density, finite=True)
    check_one_output("crps", density.outputs)
    if isinstance(density, RecordedDensity):
        return density.crps(density.outputs.squeeze(points))
    n_points, bounds = density.n_components, density.supports.bounds
    score = _mixture.crps
    if bounds is not None:
        score = partial(_mixture.bounded_crps, bounds=bounds)
    return map_rows(score, density.mixture, points, axis=-1, n_points=n_points)


def interval_score(
    y: ArrayLike,
    density: ConditionalDensity | RecordedDensity,
    confidence: ArrayLike = 0.9,
) -> NDArray[np.float64]:
    """Compute the interval score of the central interval of one output.

    The width of the interval, plus 2 / (1 - confidence) times the distance of y
    from the interval.

    Parameters
    ----------
    y : array-like of shape (n,) or (n, 1)
        Observed values, one for each row.
    density : ConditionalDensity or RecordedDensity
        Predicted density of one output.
    confidence : float or array-like of shape (m,), default=0.9
        Probability of the interval, in [0, 1).

    Returns
    -------
    score : ndarray of shape (n,), or (m, n) for several confidences
        In the unit of y; lower is better.

    References
    ----------
    T. Gneiting and A. E. Raftery, "Strictly proper scoring rules, prediction, and
    estimation", Journal of the American Statistical Association 102, 2007, eq. 43.

    Examples
    --------
    >>> from skmdn import MixtureDensity
    >>> from skmdn.metrics import interval_score
    >>> interval_score([0.0], MixtureDensity([[1.0]], [[0.0]], [[1.0]])).round(4)
    array([3.2897])
    """
    points = as_observations(y, density, finite=True)[..., 0].numpy()
    check_one_output("interval_score", density.outputs)
    low, high = _interval_of_rows(density, confidence)
    confidences = np.asarray(confidence)
    if (confidences == 1).any():
        raise ValueError("confidence must lie in [0, 1), got 1.0.")
    distance = np.maximum(low - points, 0) + np.maximum(points - high, 0)
    if confidences.ndim:
        confidences = confidences[:, None]
    score: NDArray[np.float64] = high - low + 2 / (1 - confidences) * distance
    return score


def coverage(
    y: ArrayLike,
    density: ConditionalDensity | RecordedDensity,
    confidence: ArrayLike = 0.9,
    *,
    region: str | None = None,
) -> NDArray[Any]:
    """Return whether y lies in the predicted region of the given probability.

    A region of a RecordedDensity holds whole cells, and covers more than the given
    probability. The result is therefore the share of the cell of y, by probability,
    that lies in the central interval of the density before rounding.

    Parameters
    ----------
    y : array-like of shape (n,) or (n, n_outputs)
        Observed values, one for each row.
    density : ConditionalDensity or RecordedDensity
        Predicted density.
    confidence : float or array-like of shape (m,), default=0.9
        Probability of the region, in [0, 1].
    region : {"hdr", "interval"}, default=None
        Highest-density region, for any number of outputs, or central interval, for
        one output. By default "hdr", but "interval" for a RecordedDensity, which has
        no other.

    Returns
    -------
    covered : ndarray of bool of shape (n,), or (m, n) for several confidences
        Shares in [0, 1] for a RecordedDensity.
        The mean of a calibrated density is `confidence`; it is lower where the
        density is overconfident, and higher where it is underconfident.

    Examples
    --------
    >>> from skmdn import MixtureDensity
    >>> from skmdn.metrics import coverage
    >>> density = MixtureDensity([[1.0]] * 2, [[0.0]] * 2, [[1.0]] * 2)
    >>> coverage([1.6, 1.7], density, 0.9)
    array([ True, False])
    """
    points = as_observations(y, density)
    if isinstance(density, RecordedDensity):
        if region not in (None, "interval"):
            raise ValueError(
                f"region must be 'interval' for a RecordedDensity, got {region!r}."
            )
        return density.share_inside(density.outputs.squeeze(points), confidence)
    if region in (None, "hdr"):
        return density.in_hdr(density.outputs.squeeze(points), confidence)
    if region != "interval":
        raise ValueError(f"region must be 'hdr' or 'interval', got {region!r}.")
    check_one_output("coverage with region='interval'", density.outputs)
    values = points[..., 0].numpy()
    low, high = _interval_of_rows(density, confidence)
    return (low <= values) & (values <= high)


def _interval_of_rows(
    density: ConditionalDensity | RecordedDensity, confidence: ArrayLike
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the central interval of one output without an output axis."""
    low, high = density.interval(confidence)
    shape = low.shape[: low.ndim - len(density.outputs.event_shape)]
    return low.reshape(shape), high.reshape(shape)


def pit(
    y: ArrayLike,
    density: ConditionalDensity | RecordedDensity,
    random_state: Any = None,
) -> NDArray[np.float64]:
    """Compute the probability integral transform of y.

    It is the cdf of one output. For several outputs it is the Rosenblatt transform:
    the cdf of each output given those before it. For a RecordedDensity it is drawn
    uniformly between the values of the cdf at the ends of the cell of y.

    Parameters
    ----------
    y : array-like of shape (n,) or (n, n_outputs)
        Observed values, one for each row.
    density : ConditionalDensity or RecordedDensity
        Predicted density.
    random_state : int, RandomState, Generator or None, default=None
        Seed of the draws for a RecordedDensity. A generator is advanced for every
        density, though only recorded values need it.

    Returns
    -------
    u : ndarray of shape (n, n_outputs), or (n,) for a density of scalars
        In [0, 1]; uniform, and independent between outputs, if the density is true.

    References
    ----------
    M. Rosenblatt, "Remarks on a multivariate transformation", Annals of
    Mathematical Statistics 23, 1952.

    C. Czado, T. Gneiting and L. Held, "Predictive model assessment for count data",
    Biometrics 65, 2009.

    Examples
    --------
    >>> from skmdn import MixtureDensity
    >>> from skmdn.metrics import pit
    >>> pit([0.0], MixtureDensity([[1.0]], [[0.0]], [[1.0]]))
    array([0.5])
    """
    points, seed = as_observations(y, density), make_seed(random_state)
    if isinstance(density, RecordedDensity):
        draws = density.pit(density.outputs.squeeze(points), seed)
        return draws.reshape(-1, *density.outputs.event_shape)
    if density.n_outputs == 1:
        cdf = density.cdf(density.outputs.squeeze(points))
        return cdf.reshape(-1, *density.outputs.event_shape)
    if len(density) < len(points):  # the conditionals differ
        density = density[np.zeros(len(points), dtype=np.intp)]
    values = points.numpy()
    columns = [density.marginal(0).cdf(values[:, 0])]
    for output in range(1, density.n_outputs):
        previous = {j: values[:, j] for j in range(output)}
        conditional = density.marginal(range(output + 1)).condition(previous)
        columns.append(conditional.cdf(values[:, [output]]))
    return np.column_stack(columns)


class _DensityScorer:
    """Scorer that returns the negative mean of a score; greater is better."""

    def __init__(self, score: Callable[[ArrayLike, Any], NDArray[np.float64]]) -> None:
        self.score = score

    def __call__(
        self, estimator: Any, X: Any, y: Any, sample_weight: Any = None
    ) -> float:
        score = self.score(y, self._predict(estimator, X))
        return -weighted_mean(score, sample_weight)

    def _predict(self, estimator: Any, X: Any) -> Density | RecordedDensity:
        """Predict densities, or distributions of recorded values if y has a step."""
        density = predict_density(estimator, X)
        is_recorded = density.n_outputs == 1 and density.resolution is not None
        can_be_recorded = self.score in (log_score, crps)
        return density.recorded() if is_recorded and can_be_recorded else density

    def _accept_sample_weight(self) -> bool:
        """Make scikit-learn's multi-metric scoring pass sample_weight."""
        return True

    def __repr__(self) -> str:
        return f"neg_{self.score.__name__}_scorer"


neg_log_score_scorer = _DensityScorer(log_score)
neg_crps_scorer = _DensityScorer(crps)
neg_energy_score_scorer = _DensityScorer(energy_score)
