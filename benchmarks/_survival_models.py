"""Models of censored times: skmdn and peers, each as a predicted distribution."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from _censored import EARLIEST, STEP, Times, structured
from _tables import Array
from scipy import stats

# Lower bound of the lower ends of intervals, whose logarithm LogNormalAFTFitter takes.
EARLIEST_LEFT = 1e-3
# Of parametric peers that do not converge without one.
PENALTIES = (0.0, 0.01, 0.1)
# Of Cox's regression: Newton steps need a little on collinear columns.
COX_PENALTY = 1e-4


@dataclass(frozen=True)
class Prediction:
    """Distribution of the time in each of n test rows.

    Parameters
    ----------
    survival : callable
        Maps times (m,) to probabilities (n, m) to survive them.
    cdf : callable
        Maps one time for each row, (n,), to probabilities (n,).
    log_mass : callable or None
        Maps lower and upper ends, (n,) each, to the log-probability of the cells, in
        nats. None for distributions of steps, which have no likelihood.
    oof_score : float
        Out-of-fold log-likelihood on the training rows.
    """

    survival: Callable[[Array], Array]
    cdf: Callable[[Array], Array]
    log_mass: Callable[[Array, Array], Array] | None
    oof_score: float = np.nan


# fit(X, times, X_test, params)
Fit = Callable[[Array, Times, Array, dict[str, Any]], Prediction]


def fit_skmdn(
    X: Array, times: Times, X_test: Array, params: dict[str, Any]
) -> Prediction:
    from skmdn import MDNRegressor

    given: dict[str, Any] = {
        "target_support": (0, None),
        "target_resolution": STEP,
        "random_state": 0,
    }
    mdn = MDNRegressor(**given | params).fit(X, times.left, y_upper=times.right)
    density = mdn.predict_density(X_test)
    return Prediction(
        lambda at: np.asarray(density.sf(at[:, None]).T),
        density.cdf,
        lambda lower, upper: mdn.score_samples(X_test, lower, y_upper=upper),
        getattr(mdn, "oof_score_", np.nan),
    )


def fit_without_step(
    X: Array, times: Times, X_test: Array, params: dict[str, Any]
) -> Prediction:
    times = Times(*(np.maximum(part, EARLIEST) for part in tuple(times)))
    return fit_skmdn(X, times, X_test, params | {"target_resolution": None})


def log_difference(dist: Any, lower: Array, upper: Array) -> Array:
    """Return log(S(lower) - S(upper)) of a frozen distribution."""
    low, high = dist.logsf(lower), dist.logsf(upper)
    with np.errstate(divide="ignore"):
        return np.asarray(low + np.log(-np.expm1(np.minimum(high - low, 0.0))))


def fit_aft(name: str, X: Array, times: Times, X_test: Array) -> Prediction:
    """Fit an accelerated failure time model of lifelines."""
    import lifelines
    from lifelines.exceptions import ConvergenceError

    columns = [f"x{j}" for j in range(X.shape[1])]
    frame = pd.DataFrame(X, columns=columns)
    left = np.maximum(times.left, EARLIEST)
    is_interval = np.isfinite(times.right) & ~times.is_event
    for penalty in PENALTIES:
        fitter = getattr(lifelines, f"{name}AFTFitter")(penalizer=penalty)
        try:
            if is_interval.any():
                low = np.where(is_interval, np.maximum(times.left, EARLIEST_LEFT), left)
                high = np.where(times.is_event, left, times.right)
                frame = frame.assign(low=low, high=high)
                fitter.fit_interval_censoring(frame, "low", "high")
            else:
                frame = frame.assign(time=left, event=times.is_event)
                fitter.fit(frame, "time", "event")
        except ConvergenceError:
            continue
        if np.isfinite(fitter.params_).all():
            break
    else:
        raise RuntimeError(f"{name} does not converge with penalties {PENALTIES}")
    values = fitter.params_
    location, shape = values.index.get_level_values(0).unique()

    def predictor(parameter: str) -> Array:
        coefficients = values.loc[parameter]
        slopes = coefficients.drop("Intercept").reindex(columns).fillna(0.0)
        return np.asarray(coefficients["Intercept"] + X_test @ slopes.to_numpy())

    where, width = predictor(location), np.exp(predictor(shape))
    dist = {
        "LogNormal": lambda: stats.lognorm(width, scale=np.exp(where)),
        "Weibull": lambda: stats.weibull_min(width, scale=np.exp(where)),
        "LogLogistic": lambda: stats.fisk(width, scale=np.exp(where)),
    }[name]()
    return Prediction(
        lambda at: np.asarray(dist.sf(at[:, None]).T),
        dist.cdf,
        lambda lower, upper: log_difference(dist, lower, upper),
    )


def aft(name: str) -> Fit:
    return lambda X, times, X_test, params: fit_aft(name, X, times, X_test)


def of_steps(curves: Any) -> Prediction:
    """Return the prediction of step functions of scikit-survival, one for each row."""
    at, values = curves[0].x, np.stack([curve.y for curve in curves])
    values = np.concatenate([np.ones((len(values), 1)), values], axis=1)

    def survival(times: Array) -> Array:
        return np.asarray(values[:, np.searchsorted(at, times, side="right")])

    def cdf(times: Array) -> Array:
        chosen = np.searchsorted(at, times, side="right")
        known = np.take_along_axis(values, chosen[:, None], axis=1)[:, 0]
        return np.asarray(np.where(np.isinf(times), 1.0, 1 - known))

    return Prediction(survival, cdf, None)


def fit_cox(
    X: Array, times: Times, X_test: Array, params: dict[str, Any]
) -> Prediction:
    from sksurv.linear_model import CoxPHSurvivalAnalysis

    model = CoxPHSurvivalAnalysis(alpha=COX_PENALTY).fit(X, structured(times))
    return of_steps(model.predict_survival_function(X_test))


def fit_forest(
    X: Array, times: Times, X_test: Array, params: dict[str, Any]
) -> Prediction:
    from sksurv.ensemble import RandomSurvivalForest

    model = RandomSurvivalForest(200, min_samples_leaf=15, random_state=0)
    model.fit(X, structured(times))
    return of_steps(model.predict_survival_function(X_test))


PARAMETRIC = ("lognormal", "weibull", "loglogistic")
LINEAR = (*PARAMETRIC, "cox")
MODELS: dict[str, Fit] = {
    "skmdn": fit_skmdn,
    "skmdn, no step": fit_without_step,
    "lognormal": aft("LogNormal"),
    "weibull": aft("Weibull"),
    "loglogistic": aft("LogLogistic"),
    "cox": fit_cox,
    "forest": fit_forest,
}
