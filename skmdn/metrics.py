"""Proper scores of conditional densities, and densities of composite estimators."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, Literal, overload

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from sklearn.compose import TransformedTargetRegressor
from sklearn.pipeline import Pipeline
from sklearn.utils.validation import check_is_fitted

from skmdn import _mixture
from skmdn._data.checks import weighted_mean
from skmdn._data.conversion import as_real
from skmdn._mixture import Mixture
from skmdn._utils.arrays import check_n_samples, row_chunks
from skmdn.density import ConditionalDensity, MixtureDensity
from skmdn.density.rowwise import as_observations, check_one_output, map_rows

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


def predict_density(estimator: Any, X: ArrayLike) -> MixtureDensity:
    """Predict the conditional density of y by an estimator, pipeline or search.

    Parameters
    ----------
    estimator : estimator
        A fitted `MDNRegressor`, a pipeline whose last step is one, or a fitted
        search over either.
    X : array-like of shape (n_samples, n_features)
        Features, in the form that the outermost estimator expects.

    Returns
    -------
    density : MixtureDensity

    Raises
    ------
    TypeError
        If the estimator predicts no density, or transforms y.

    Examples
    --------
    >>> from sklearn.pipeline import make_pipeline
    >>> from sklearn.preprocessing import StandardScaler
    >>> from skmdn import MDNRegressor, predict_density
    >>> from skmdn.datasets import load_geyser
    >>> X, y = load_geyser(return_X_y=True)
    >>> pipeline = make_pipeline(StandardScaler(), MDNRegressor(max_iter=2)).fit(X, y)
    >>> predict_density(pipeline, X[:3])
    MixtureDensity(n_rows=3, n_components=96, n_outputs=1)
    """
    if hasattr(estimator, "predict_density"):
        density: MixtureDensity = estimator.predict_density(X)
        return density
    if hasattr(estimator, "best_estimator_"):
        return predict_density(estimator.best_estimator_, X)
    if isinstance(estimator, Pipeline):
        check_is_fitted(estimator)
        return predict_density(estimator[-1], estimator[:-1].transform(X))
    if isinstance(estimator, TransformedTargetRegressor):
        raise TypeError(
            "A TransformedTargetRegressor transforms y, and the density of y itself "
            "is in general not a Gaussian mixture. Remove the wrapper: MDNRegressor "
            "standardises y itself. For the density of the transformed y, pass the "
            "attribute regressor_."
        )
    raise TypeError(
        f"{type(estimator).__name__} predicts no density. Pass an MDNRegressor, a "
        "Pipeline that ends in one, or a fitted search over either."
    )


def log_score(y: ArrayLike, density: ConditionalDensity) -> NDArray[np.float64]:
    """Compute the negative log-density of y.

    Parameters
    ----------
    y : array-like of shape (n,) or (n, n_outputs)
        Observed values, one for each row.
    density : ConditionalDensity
        Predicted density.

    Returns
    -------
    score : ndarray of shape (n,)
        In nats; lower is better.

    Examples
    --------
    >>> from skmdn import MixtureDensity
    >>> from skmdn.metrics import log_score
    >>> log_score([0.0], MixtureDensity([[1.0]], [[0.0]], [[1.0]])).round(4)
    array([0.9189])
    """
    points = as_observations(y, density)
    return -density.logpdf(density.outputs.squeeze(points))


def crps(y: ArrayLike, density: MixtureDensity) -> NDArray[np.float64]:
    """Compute the continuous ranked probability score of one output.

    The integral over t of (cdf(t) - 1[y <= t])^2, in closed form. For a point
    forecast it is the absolute error.

    Parameters
    ----------
    y : array-like of shape (n,) or (n, 1)
        Observed values, one for each row.
    density : MixtureDensity
        Predicted density of one output.

    Returns
    -------
    score : ndarray of shape (n,)
        In the unit of y; lower is better.

    References
    ----------
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
    n_points = density.n_components
    return map_rows(_mixture.crps, density.mixture, points, axis=-1, n_points=n_points)


@overload
def energy_score(
    y: ArrayLike,
    density: MixtureDensity,
    *,
    n_samples: int = ...,
    random_state: Any = ...,
    return_error: Literal[False] = ...,
) -> NDArray[np.float64]: ...


@overload
def energy_score(
    y: ArrayLike,
    density: MixtureDensity,
    *,
    n_samples: int = ...,
    random_state: Any = ...,
    return_error: Literal[True],
) -> tuple[NDArray[np.float64], NDArray[np.float64]]: ...


def energy_score(
    y: ArrayLike,
    density: MixtureDensity,
    *,
    n_samples: int = 256,
    random_state: Any = 0,
    return_error: bool = False,
) -> NDArray[np.float64] | tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Compute the energy score E|Y - y| - E|Y - Y'| / 2 by sampling.

    It generalises the CRPS to several outputs. Distances are Euclidean, so the
    outputs should have comparable units.

    Parameters
    ----------
    y : array-like of shape (n,) or (n, n_outputs)
        Observed values, one for each row.
    density : MixtureDensity
        Predicted density.
    n_samples : int, default=256
        Draws per row. All pairs of draws are used, and the estimate is unbiased.
    random_state : int, RandomState, Generator or None, default=0
        Seed of the draws.
    return_error : bool, default=False
        Whether to return the standard error of each score as well.

    Returns
    -------
    score : ndarray of shape (n,)
        In the unit of y; lower is better.
    error : ndarray of shape (n,)
        Monte Carlo standard error, in the unit of y; only with `return_error`. It
        decreases with the square root of `n_samples`.

    References
    ----------
    T. Gneiting and A. E. Raftery, "Strictly proper scoring rules, prediction, and
    estimation", Journal of the American Statistical Association 102, 2007.

    Examples
    --------
    >>> from skmdn import MixtureDensity
    >>> from skmdn.metrics import energy_score
    >>> density = MixtureDensity([[1.0]], [[[0.0, 0.0]]], [[[[1.0, 0.0], [0.0, 1.0]]]])
    >>> score, error = energy_score([[0.0, 0.0]], density, return_error=True)
    >>> bool(abs(score[0] - 0.3671) < 4 * error[0])
    True
    """
    points = as_observations(y, density, finite=True)
    n_samples = check_n_samples(n_samples, least=2)
    # The score of Y and y is that of Y - y and 0, whose draws keep their digits.
    means = density.mixture.means - points[:, None]
    n_rows = len(means)
    shifted = Mixture(
        density.mixture.log_weights.expand(n_rows, -1),
        means,
        density.mixture.precision_factors.expand(n_rows, -1, -1, -1),
    )
    draws = _mixture.sample_rows(
        [shifted], n_rows, density.n_outputs, n_samples, random_state
    )
    samples = torch.from_numpy(draws)
    scores = torch.empty((2, n_rows), dtype=torch.float64, device="cpu")
    # The distances of all pairs of draws are held at once.
    for rows in row_chunks(n_rows, 8 * n_samples**2):
        scores[:, rows] = _mixture.energy_score(samples[rows])
    score, error = scores.numpy()
    return (score, error) if return_error else score


def variogram_score(
    y: ArrayLike, density: MixtureDensity, *, order: float = 0.5
) -> NDArray[np.float64]:
    """Compute the variogram score, of the differences between outputs.

    The sum over pairs of outputs of ``(|y_i - y_j|^p - E|Y_i - Y_j|^p)^2``. It is
    more sensitive to wrong correlations than the energy score, and insensitive to a
    shift that all outputs share.

    Parameters
    ----------
    y : array-like of shape (n, n_outputs)
        Observed values, one for each row.
    density : MixtureDensity
        Predicted density of at least two outputs.
    order : float, default=0.5
        The power p, positive.

    Returns
    -------
    score : ndarray of shape (n,)
        In the unit of y to the power 2 p; lower is better. There is no Monte Carlo
        error: a difference of outputs is a Gaussian mixture, whose absolute moments
        have a closed form.

    References
    ----------
    M. Scheuerer and T. M. Hamill, "Variogram-based proper scoring rules for
    probabilistic forecasts of multivariate quantities", Monthly Weather Review
    143, 2015.

    Examples
    --------
    >>> from skmdn import MixtureDensity
    >>> from skmdn.metrics import variogram_score
    >>> cov = [[[[1.0, 0.0], [0.0, 1.0]]]]
    >>> density = MixtureDensity.from_covariances([[1.0]], [[[0.0, 0.0]]], cov)
    >>> variogram_score([[1.0, 0.0]], density, order=1).round(4)
    array([0.0165])
    """
    points = as_observations(y, density, finite=True)
    if density.n_outputs < 2:
        raise ValueError("variogram_score needs at least two outputs, got one.")
    power = as_real("order", order)
    if power.ndim or not power > 0:
        raise ValueError(f"order must be a positive number, got {order!r}.")
    score = partial(_mixture.variogram_score, order=float(power))
    return map_rows(score, density.mixture, points, axis=-1, n_points=density.n_outputs)


def interval_score(
    y: ArrayLike, density: ConditionalDensity, confidence: ArrayLike = 0.9
) -> NDArray[np.float64]:
    """Compute the interval score of the central interval of one output.

    The width of the interval, plus 2 / (1 - confidence) times the distance of y
    from the interval.

    Parameters
    ----------
    y : array-like of shape (n,) or (n, 1)
        Observed values, one for each row.
    density : ConditionalDensity
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
    density: ConditionalDensity,
    confidence: ArrayLike = 0.9,
    *,
    region: str = "hdr",
) -> NDArray[np.bool_]:
    """Return whether y lies in the predicted region of the given probability.

    Parameters
    ----------
    y : array-like of shape (n,) or (n, n_outputs)
        Observed values, one for each row.
    density : ConditionalDensity
        Predicted density.
    confidence : float or array-like of shape (m,), default=0.9
        Probability of the region, in [0, 1].
    region : {"hdr", "interval"}, default="hdr"
        Highest-density region, for any number of outputs, or central interval, for
        one output.

    Returns
    -------
    covered : ndarray of bool of shape (n,), or (m, n) for several confidences
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
    if region == "hdr":
        return density.in_hdr(density.outputs.squeeze(points), confidence)
    if region != "interval":
        raise ValueError(f"region must be 'hdr' or 'interval', got {region!r}.")
    check_one_output("coverage with region='interval'", density.outputs)
    values = points[..., 0].numpy()
    low, high = _interval_of_rows(density, confidence)
    return (low <= values) & (values <= high)


def _interval_of_rows(
    density: ConditionalDensity, confidence: ArrayLike
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the central interval of one output without an output axis."""
    low, high = density.interval(confidence)
    shape = low.shape[: low.ndim - len(density.outputs.event_shape)]
    return low.reshape(shape), high.reshape(shape)


def pit(y: ArrayLike, density: ConditionalDensity) -> NDArray[np.float64]:
    """Compute the probability integral transform of y.

    It is the cdf of one output. For several outputs it is the Rosenblatt transform:
    the cdf of each output given those before it.

    Parameters
    ----------
    y : array-like of shape (n,) or (n, n_outputs)
        Observed values, one for each row.
    density : ConditionalDensity
        Predicted density.

    Returns
    -------
    u : ndarray of shape (n, n_outputs), or (n,) for a density of scalars
        In [0, 1]; uniform, and independent between outputs, if the density is true.

    References
    ----------
    M. Rosenblatt, "Remarks on a multivariate transformation", Annals of
    Mathematical Statistics 23, 1952.

    Examples
    --------
    >>> from skmdn import MixtureDensity
    >>> from skmdn.metrics import pit
    >>> pit([0.0], MixtureDensity([[1.0]], [[0.0]], [[1.0]]))
    array([0.5])
    """
    points = as_observations(y, density)
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

    def __init__(
        self, score: Callable[[ArrayLike, MixtureDensity], NDArray[np.float64]]
    ) -> None:
        self.score = score

    def __call__(
        self, estimator: Any, X: Any, y: Any, sample_weight: Any = None
    ) -> float:
        score = self.score(y, predict_density(estimator, X))
        return -weighted_mean(score, sample_weight)

    def _accept_sample_weight(self) -> bool:
        """Make scikit-learn's multi-metric scoring pass sample_weight."""
        return True

    def __repr__(self) -> str:
        return f"neg_{self.score.__name__}_scorer"


neg_log_score_scorer = _DensityScorer(log_score)
neg_crps_scorer = _DensityScorer(crps)
neg_energy_score_scorer = _DensityScorer(energy_score)
