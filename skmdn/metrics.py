"""Proper scores of conditional densities, and densities of composite estimators."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from scipy import special
from sklearn.compose import TransformedTargetRegressor
from sklearn.pipeline import Pipeline
from sklearn.utils.validation import check_is_fitted
from torch import Tensor

from skmdn import _mixture
from skmdn._checks import weighted_mean
from skmdn._mixture import Mixture
from skmdn.density import MixtureDensity

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

# Beyond this argument Kummer's function has left SciPy's accurate range, and two
# terms of the expansion around the mean are exact to 1e-6.
LARGEST_KUMMER = 500.0


def predict_density(estimator: Any, X: ArrayLike) -> MixtureDensity:
    """Predict the density of y given X, through pipelines and searches.

    Parameters
    ----------
    estimator : estimator
        A fitted `MDNRegressor`, a pipeline that ends in one, or a fitted search
        over either.
    X : array-like of shape (n_samples, n_features)
        Features, as the outermost estimator takes them.

    Returns
    -------
    density : MixtureDensity

    Raises
    ------
    TypeError
        If no density can be reached, or a step changes y on the way.

    Examples
    --------
    >>> from sklearn.pipeline import make_pipeline
    >>> from sklearn.preprocessing import StandardScaler
    >>> from skmdn import MDNRegressor, predict_density
    >>> from skmdn.datasets import load_geyser
    >>> X, y = load_geyser(return_X_y=True)
    >>> pipeline = make_pipeline(StandardScaler(), MDNRegressor(max_iter=2)).fit(X, y)
    >>> predict_density(pipeline, X[:3])
    MixtureDensity(n_rows=3, n_components=80, n_outputs=1)
    """
    if hasattr(estimator, "predict_density"):
        return estimator.predict_density(X)
    if hasattr(estimator, "best_estimator_"):
        return predict_density(estimator.best_estimator_, X)
    if isinstance(estimator, Pipeline):
        check_is_fitted(estimator)
        return predict_density(estimator[-1], estimator[:-1].transform(X))
    if isinstance(estimator, TransformedTargetRegressor):
        raise TypeError(
            "A TransformedTargetRegressor changes y, and a Gaussian mixture of the "
            "changed y is none of y. Leave it out: MDNRegressor standardises y itself. "
            "For the density of the changed y give its regressor_."
        )
    raise TypeError(
        f"{type(estimator).__name__} predicts no density. Give an MDNRegressor, a "
        "Pipeline that ends in one, or a fitted search over either."
    )


def log_score(y: ArrayLike, density: MixtureDensity) -> NDArray[np.float64]:
    """Negative log-density of y.

    Parameters
    ----------
    y : array-like of shape (n,) or (n, n_outputs)
        What happened, one for each row.
    density : MixtureDensity
        What was predicted.

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
    return -density.logpdf(y)


def crps(y: ArrayLike, density: MixtureDensity) -> NDArray[np.float64]:
    """Continuous ranked probability score of one output, in closed form.

    The integral over t of (cdf(t) - 1[y <= t])^2; for a point forecast the
    absolute error.

    Parameters
    ----------
    y : array-like of shape (n,), or (n, 1) where the density keeps its output axis
        What happened, one for each row.
    density : MixtureDensity
        What was predicted, of one output.

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
    density._check_one_output("crps")
    return density._over_rows(
        _mixture.crps,
        density._points("y", y, finite=True),
        axis=-1,
        n_points=density.n_components,
    )


def energy_score(
    y: ArrayLike,
    density: MixtureDensity,
    *,
    n_samples: int = 256,
    random_state: Any = 0,
    return_error: bool = False,
) -> Any:
    """Energy score E|Y - y| - E|Y - Y'| / 2, the CRPS of several outputs.

    Distances are Euclidean, so give outputs comparable units.

    Parameters
    ----------
    y : array-like of shape (n, n_outputs)
        What happened, one for each row.
    density : MixtureDensity
        What was predicted.
    n_samples : int, default=256
        Draws per row. All their pairs enter, so the estimate is unbiased.
    random_state : int, RandomState instance or None, default=0
        Seed of the draws.
    return_error : bool, default=False
        Also return the standard error of each score.

    Returns
    -------
    score : ndarray of shape (n,)
        In the unit of y; lower is better.
    error : ndarray of shape (n,)
        Monte Carlo standard error; only with `return_error`. It shrinks with the
        square root of `n_samples`.

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
    if n_samples < 2:
        raise ValueError(f"n_samples must be at least 2, got {n_samples}.")
    points = density._points("y", y, finite=True)
    draws = density.sample(n_samples, random_state)
    draws = draws.reshape(len(density), n_samples, -1)
    samples = torch.from_numpy(draws).transpose(0, 1)  # (n_samples, n, d)

    def score_and_error(mixture: Mixture, samples: Tensor, y: Tensor) -> Tensor:
        to_y = torch.linalg.vector_norm(samples - y, dim=-1).T
        samples = samples.transpose(0, 1)
        apart = torch.cdist(samples, samples).sum(-1) / (n_samples - 1)
        # The influence of a draw: it enters the first mean once, the pairs twice.
        error = (to_y - apart).std(dim=-1) / math.sqrt(n_samples)
        return torch.stack([(to_y - apart / 2).mean(-1), error])

    # All pairs of draws are held at once.
    n_points = max(1, n_samples // (density.n_components * (density.n_outputs + 3)))
    score, error = density._over_rows(
        score_and_error, samples, points, axis=-1, n_points=n_points
    )
    return (score, error) if return_error else score


def variogram_score(
    y: ArrayLike, density: MixtureDensity, *, order: float = 0.5
) -> NDArray[np.float64]:
    """Variogram score: how well the differences between outputs are predicted.

    The sum over pairs of outputs of ``(|y_i - y_j|^p - E|Y_i - Y_j|^p)^2``. It sees
    wrong correlations where the energy score hardly does, and is blind to a shift
    of all outputs alike.

    Parameters
    ----------
    y : array-like of shape (n, n_outputs)
        What happened, one for each row.
    density : MixtureDensity
        What was predicted, of at least two outputs.
    order : float, default=0.5
        The power p, positive.

    Returns
    -------
    score : ndarray of shape (n,)
        In the unit of y to the power 2 p; lower is better. Exact: a difference of
        outputs is a Gaussian mixture, whose absolute moments are closed, so there
        is no Monte Carlo error.

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
    if density.n_outputs < 2:
        raise ValueError("variogram_score needs at least two outputs, got one.")
    if not order > 0:
        raise ValueError(f"order must be positive, got {order}.")
    points = density._points("y", y, finite=True)
    first, second = np.triu_indices(density.n_outputs, 1)

    def score(mixture: Mixture, y: Tensor) -> Tensor:
        covariances = _mixture.covariances(mixture.precision_factors)
        variances = covariances.diagonal(dim1=-2, dim2=-1)
        mean = mixture.means[..., first] - mixture.means[..., second]
        variance = (
            variances[..., first]
            + variances[..., second]
            - 2 * covariances[..., first, second]
        )
        moments = torch.from_numpy(
            _absolute_moment(mean.numpy(), variance.numpy(), order)
        )
        expected = (mixture.log_weights.exp()[..., None] * moments).sum(-2)
        observed = (y[..., first] - y[..., second]).abs() ** order
        return (observed - expected).square().sum(-1)

    return density._over_rows(score, points, axis=-1, n_points=density.n_outputs)


def _absolute_moment(mean: NDArray, variance: NDArray, order: float) -> NDArray:
    """E|X|^p of a Gaussian, by Kummer's function (Winkelbauer 2012, eq. 17)."""
    half = np.minimum(mean**2 / (2 * variance), LARGEST_KUMMER)
    factor = (2 * variance) ** (order / 2) * special.gamma((1 + order) / 2)
    moment = factor / np.sqrt(np.pi) * special.hyp1f1(-order / 2, 0.5, -half)
    # So far out X hardly changes sign: E|X|^p by its expansion around the mean.
    ratio = variance / np.maximum(mean**2, np.finfo(np.float64).tiny)
    far = np.abs(mean) ** order * (1 + order * (order - 1) / 2 * ratio)
    return np.where(half < LARGEST_KUMMER, moment, far)


def interval_score(
    y: ArrayLike, density: MixtureDensity, confidence: float = 0.9
) -> NDArray[np.float64]:
    """Interval score of the central interval of one output.

    Its width, plus 2 / (1 - confidence) times the distance by which y misses it.

    Parameters
    ----------
    y : array-like of shape (n,), or (n, 1) where the density keeps its output axis
        What happened, one for each row.
    density : MixtureDensity
        What was predicted, of one output.
    confidence : float, default=0.9
        Probability of the interval, in [0, 1).

    Returns
    -------
    score : ndarray of shape (n,)
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
    density._check_one_output("interval_score")
    if not 0 <= confidence < 1:
        raise ValueError(f"confidence must lie in [0, 1), got {confidence}.")
    y = density._points("y", y, finite=True)[..., 0].numpy()
    low, high = (bound.reshape(len(density)) for bound in density.interval(confidence))
    missed = np.maximum(low - y, 0) + np.maximum(y - high, 0)
    return high - low + 2 / (1 - confidence) * missed


def coverage(
    y: ArrayLike,
    density: MixtureDensity,
    confidence: float = 0.9,
    *,
    region: str = "hdr",
) -> NDArray[np.bool_]:
    """Whether y lies in the region that should hold it with a probability.

    Parameters
    ----------
    y : array-like of shape (n,) or (n, n_outputs)
        What happened, one for each row.
    density : MixtureDensity
        What was predicted.
    confidence : float, default=0.9
        Probability of the region, in [0, 1].
    region : {"hdr", "interval"}, default="hdr"
        Highest-density region, for any number of outputs, or central interval, for
        one.

    Returns
    -------
    covered : ndarray of bool of shape (n,)
        Its mean should equal `confidence`: below it the density is too sure, above
        it not sure enough.

    Examples
    --------
    >>> from skmdn import MixtureDensity
    >>> from skmdn.metrics import coverage
    >>> density = MixtureDensity([[1.0]] * 2, [[0.0]] * 2, [[1.0]] * 2)
    >>> coverage([1.6, 1.7], density, 0.9)
    array([ True, False])
    """
    if region == "hdr":
        return density.in_hdr(y, confidence)
    if region != "interval":
        raise ValueError(f"region must be 'hdr' or 'interval', got {region!r}.")
    density._check_one_output("coverage with region='interval'")
    y = density._points("y", y)[..., 0].numpy()
    low, high = (bound.reshape(len(density)) for bound in density.interval(confidence))
    return (low <= y) & (y <= high)


def pit(y: ArrayLike, density: MixtureDensity) -> NDArray[np.float64]:
    """Probability integral transform: where y lies in what was predicted.

    For several outputs the Rosenblatt transform: the cdf of each output given the
    ones before it.

    Parameters
    ----------
    y : array-like of shape (n,) or (n, n_outputs)
        What happened, one for each row.
    density : MixtureDensity
        What was predicted.

    Returns
    -------
    u : ndarray of shape (n,) or (n, n_outputs)
        In [0, 1]. Uniform, and independent between outputs, if the density is
        right.

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
    if density.n_outputs == 1:
        u = density.cdf(y)
        return u.reshape(np.shape(y))
    points = density._points("y", y).expand(len(density), -1).numpy()
    columns = [density.marginal(0).cdf(points[:, 0])]
    for output in range(1, density.n_outputs):
        known = {j: points[:, j] for j in range(output)}
        following = density.marginal(range(output + 1)).condition(known)
        columns.append(following.cdf(points[:, [output]]))
    return np.column_stack(columns)


class _DensityScorer:
    """Minus the mean of a score: a scorer for which greater is better."""

    def __init__(self, score: Callable[..., NDArray[np.float64]]) -> None:
        self.score = score

    def __call__(
        self, estimator: Any, X: Any, y: Any, sample_weight: Any = None
    ) -> float:
        return -weighted_mean(
            self.score(y, predict_density(estimator, X)), sample_weight
        )

    def _accept_sample_weight(self) -> bool:
        """What scikit-learn asks each of several scorers."""
        return True

    def __repr__(self) -> str:
        return f"neg_{self.score.__name__}_scorer"


neg_log_score_scorer = _DensityScorer(log_score)
neg_crps_scorer = _DensityScorer(crps)
neg_energy_score_scorer = _DensityScorer(energy_score)
