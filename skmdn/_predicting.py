"""Predictions of a fitted estimator: densities, moments, samples and scores."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal, overload

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.utils.validation import check_is_fitted

from skmdn._data.checks import check_features, check_targets, mean_of_known
from skmdn._held_out import OutOfFold, digest_of_rows
from skmdn._mixture import Mixture
from skmdn._model import ConditionalModel
from skmdn.density import MixtureDensity
from skmdn.density._checks import as_confidences
from skmdn.density._parameters import from_mixture
from skmdn.density.transformed import Density, TransformedDensity


class PredictionMixin:
    """Predict with an estimator that has a `ConditionalModel` and a `device`."""

    _model: ConditionalModel
    _out_of_fold: OutOfFold
    device: str

    @overload
    def predict(
        self,
        X: Any,
        return_std: Literal[False] = False,
        return_cov: Literal[False] = False,
    ) -> NDArray[np.float64]: ...
    @overload
    def predict(
        self, X: Any, return_std: bool = False, return_cov: bool = False
    ) -> Any: ...
    def predict(
        self, X: Any, return_std: bool = False, return_cov: bool = False
    ) -> Any:
        """Predict the conditional mean.

        Parameters
        ----------
        X : array-like or sparse matrix of shape (n_samples, n_features)
            Features.
        return_std, return_cov : bool, default=False
            Also return the conditional standard deviation of each output, or the
            conditional covariance of the outputs; not both.

        Returns
        -------
        y_mean : ndarray of shape (n_samples,) or (n_samples, n_outputs)
            In the unit of y.
        y_std : ndarray of the same shape
            In the unit of y; only with `return_std`.
        y_cov : ndarray of shape (n_samples,) or (n_samples, n_outputs, n_outputs)
            In squared units of y; only with `return_cov`.

        Raises
        ------
        NotFittedError
            If the estimator is not fitted.
        ValueError
            If X has a wrong shape, or holds NaN or infinity.
        """
        if return_std and return_cov:
            raise ValueError(
                "At most one of return_std and return_cov can be requested."
            )
        model, X = self._predicting(X)
        if return_cov:
            return _concatenated((p.mean(), p.cov()) for p in self._densities(model, X))
        if not model.target.recording.supports.is_identity:
            if return_std:
                densities = self._densities(model, X)
                return _concatenated((p.mean(), p.std()) for p in densities)
            return np.concatenate([p.mean() for p in self._densities(model, X)])
        if return_std:
            return tuple(map(model.outputs.squeeze, model.means_and_stds(X)))
        return model.outputs.squeeze(model.means(X))

    @overload
    def predict_density(self, X: Any, y: None = None) -> Density: ...
    @overload
    def predict_density(self, X: Any, y: ArrayLike) -> NDArray[np.float64]: ...
    def predict_density(
        self, X: Any, y: ArrayLike | None = None
    ) -> Density | NDArray[np.float64]:
        """Predict the conditional density, or its values.

        Parameters
        ----------
        X : array-like or sparse matrix of shape (n_samples, n_features)
            Features.
        y : array-like of shape (n_samples,) or (n_samples, n_outputs), default=None
            Value of the targets for each row of X.

        Returns
        -------
        density : MixtureDensity, TransformedDensity, or ndarray of shape (n_samples,)
            Without `y` the density itself, with `target_support` a transformed one;
            with `y` the values p(y | x), in one over the unit of y. With
            `target_resolution` it is the density of values before rounding; its method
            `recorded` returns the distribution of the recorded ones.
        """
        if y is not None:
            return np.exp(self.score_samples(X, y))
        model, X = self._predicting(X)
        return self._density(model.mixture(X))

    def score_samples(
        self, X: Any, y: ArrayLike | None = None, *, y_upper: ArrayLike | None = None
    ) -> NDArray[np.float64]:
        """Compute the log-likelihood of y given x, or the one that the model expects.

        Parameters
        ----------
        X : array-like or sparse matrix of shape (n_samples, n_features)
            Features.
        y : array-like of shape (n_samples,) or (n_samples, n_outputs), default=None
            Value of the targets for each row of X. NaN for an output that was not
            observed: the value is then the marginal log-density of the others.
        y_upper : array-like of shape (n_samples,), default=None
            Upper ends of intervals [y, y_upper] that contain the target, as in `fit`.

        Returns
        -------
        log_density : ndarray of shape (n_samples,)
            In nats, higher is better. With `y`, log p(y | x); with
            `target_resolution`, the logarithm of the probability of the recorded value
            divided by the step; for an interval, the logarithm of its probability.
            Without `y`, minus the conditional entropy (:meth:`MixtureDensity.entropy`),
            which is high where the model is certain.

        Raises
        ------
        ValueError
            If y has a wrong shape, or lies outside of `target_support`.
        """
        model, X = self._predicting(X)
        if y is None:
            if y_upper is not None:
                raise ValueError("y_upper was given without y, the lower ends.")
            return -np.concatenate([p.entropy() for p in self._densities(model, X)])
        return model.log_prob(X, check_targets(self, model.fitted, X, y, y_upper))

    def sample(
        self, X: Any, n_samples: int = 1, random_state: Any = None
    ) -> NDArray[np.float64]:
        """Draw targets from the conditional density.

        Parameters
        ----------
        X : array-like or sparse matrix of shape (n_rows, n_features)
            Features.
        n_samples : int, default=1
            Draws for each row.
        random_state : int, RandomState, Generator or None, default=None
            Seed. With `None` every call gives new draws.

        Returns
        -------
        y : ndarray of shape (n_rows, n_samples) or (n_rows, n_samples, n_outputs)
            Independent draws, in the unit of y.
        """
        model, X = self._predicting(X)
        return model.outputs.squeeze(model.sample(X, n_samples, random_state))

    def score(
        self,
        X: Any,
        y: ArrayLike,
        sample_weight: ArrayLike | None = None,
        *,
        y_upper: ArrayLike | None = None,
    ) -> float:
        """Compute the mean of `score_samples`, in nats.

        The same as :meth:`sklearn.mixture.GaussianMixture.score` computes.
        Rows of whose targets nothing was observed do not count.

        `cross_val_score` and `GridSearchCV` therefore cross-validate the negative
        log-likelihood without further arguments; R2 is `scoring="r2"`.

        Parameters
        ----------
        X : array-like or sparse matrix of shape (n_samples, n_features)
            Features.
        y : array-like of shape (n_samples,) or (n_samples, n_outputs)
            Targets.
        sample_weight : array-like of shape (n_samples,), default=None
            Weights of the mean.
        y_upper : array-like of shape (n_samples,), default=None
            Upper ends of intervals, as in `score_samples`.

        Returns
        -------
        score : float
            In nats; higher is better.
        """
        model, X = self._predicting(X)
        targets = check_targets(self, model.fitted, X, y, y_upper)
        return mean_of_known(model.log_prob(X, targets), targets, sample_weight)

    def out_of_fold_density(self, X: Any) -> Density:
        """Return the density of each training row by the networks that held it out.

        Calibration, CRPS and pictures of a fit need no second one: metrics and displays
        take this density as any other. Its log-density is `oof_log_density_`.

        Parameters
        ----------
        X : array-like or sparse matrix of shape (n_samples, n_features)
            Features as given to `fit`, in the same order.

        Returns
        -------
        density : MixtureDensity or TransformedDensity
            As of `predict_density`, with fewer components. A row of weight zero has the
            density of all networks.

        Raises
        ------
        ValueError
            If the fit had no folds, or if these are other rows.

        Examples
        --------
        >>> from skmdn import MDNRegressor
        >>> from skmdn.datasets import load_geyser
        >>> from skmdn.metrics import crps
        >>> X, y = load_geyser(return_X_y=True)
        >>> mdn = MDNRegressor(max_iter=30, random_state=0).fit(X, y)
        >>> density = mdn.out_of_fold_density(X)
        >>> round(float(crps(y, density).mean()), 1)  # minutes
        0.4
        """
        out_of_fold = self._kept_of_folds("out_of_fold_density")
        X = check_features(self, X, self._model.fitted.encoder)
        if digest_of_rows(X) != out_of_fold.digest:
            raise ValueError(
                "X must be the rows given to fit, in the same order. For other rows "
                "use predict_density."
            )
        return self._density(out_of_fold.held_out.mixture(self._model, X))

    def predict_interval(
        self, X: Any, confidence: ArrayLike = 0.9
    ) -> NDArray[np.float64]:
        """Predict intervals whose coverage is that of the held-out targets.

        These are the central intervals of the density, ``ppf(0.5 - s)`` to
        ``ppf(0.5 + s)``, with s such that the share `confidence` of the training rows
        lies inside when the networks that held out a row predict it. Where the density
        is wrong for all rows alike, too narrow or too wide, its own central intervals
        have another coverage and these have the right one.

        Parameters
        ----------
        X : array-like or sparse matrix of shape (n_samples, n_features)
            Features.
        confidence : float or array-like of shape (m,), default=0.9
            Probability that the interval contains the target, in (0, 1).

        Returns
        -------
        interval : ndarray of shape (n_samples, 2) or (n_samples, 2, m)
            Lower and upper ends, in the unit of y. Infinite, or the bounds of
            `target_support`, where the training rows, or their groups, are too few for
            the confidence.

        Raises
        ------
        ValueError
            With several outputs, for a fit without folds or with intervals in y, or if
            a confidence is not between 0 and 1.

        Notes
        -----
        This is the jackknife of Barber et al. (2021) with folds in the place of rows
        and the scores of Chernozhukov et al. (2021). Whatever the distribution of the
        rows, a new row is covered with a probability of at least c - 2 sqrt(nu) if its
        F(y) under all networks and under those that hold out one fold differ by at most
        eps, except with probability nu, and the interval is widened by eps in
        probability (their theorem 5, for folds of one row). So the guarantee needs a
        stable fit: many rows, or networks that agree. All networks together predict
        better than those of one fold, so that the coverage tends to be above c. It
        holds on average over rows, not for given features. New rows are taken to be as
        often copies of a training row, in X and in y, as the training rows are of each
        other: of two equal rows, each is judged by a fit that knows the other. To
        repeat rows on purpose, use `sample_weight` instead. With `groups` the guarantee
        holds for rows of new groups, which count as one score each (Lee et al. 2023).

        References
        ----------
        R. F. Barber, E. J. Candes, A. Ramdas and R. J. Tibshirani, "Predictive
        inference with the jackknife+", Annals of Statistics 49(1), 2021.

        Y. Lee, R. F. Barber and R. Willett, "Distribution-free inference with
        hierarchical data", arXiv:2306.06342, 2023.

        V. Chernozhukov, K. Wuthrich and Y. Zhu, "Distributional conformal prediction",
        PNAS 118(48), 2021.

        Examples
        --------
        >>> from skmdn import MDNRegressor
        >>> from skmdn.datasets import load_geyser
        >>> X, y = load_geyser(return_X_y=True)
        >>> mdn = MDNRegressor(max_iter=30, random_state=0).fit(X, y)
        >>> mdn.predict_interval([[50.0]], confidence=0.8).round()  # minutes
        array([[4., 5.]])
        """
        scores = self._kept_of_folds("predict_interval").scores
        if scores is None:
            raise ValueError(
                "predict_interval needs one output, and a fit without y_upper. Use "
                "predict_density(X).interval, or hdr for several outputs."
            )
        levels = as_confidences(confidence)
        around = np.array([scores.quantile(c) for c in np.atleast_1d(levels)])
        ends = np.stack([0.5 - around, 0.5 + around]).reshape(-1, 1)  # (2 m, 1)
        model, X = self._predicting(X)
        quantiles = [density.ppf(ends).T for density in self._densities(model, X)]
        intervals = np.concatenate(quantiles).reshape(X.shape[0], 2, -1)
        return intervals if levels.ndim else intervals[:, :, 0]

    # -- privates ----------------------------------------------------------------

    def _predicting(self, X: Any) -> tuple[ConditionalModel, Any]:
        """Return the fitted model on the device that predicts, and checked rows."""
        check_is_fitted(self)
        X = check_features(self, X, self._model.fitted.encoder)
        return self._model.on(self.device), X

    def _kept_of_folds(self, name: str) -> OutOfFold:
        """Return what the fit kept of its folds, for a method of this name."""
        check_is_fitted(self)
        if not hasattr(self, "_out_of_fold"):
            raise ValueError(
                f"{name} needs a fit in which folds of rows were held out: "
                "early_stopping=True, n_estimators of 4 or more, and no X_val. "
                "partial_fit holds out no rows."
            )
        return self._out_of_fold

    def _densities(self, model: ConditionalModel, X: Any) -> Iterator[Density]:
        """Yield the densities of checked rows, in chunks."""
        return (self._density(mixture) for mixture in model.mixtures(X))

    def _density(self, mixture: Mixture) -> Density:
        """Return the density of the targets for a mixture over latent ones."""
        recording = self._model.target.recording
        outputs = self._model.outputs.recorded_to(recording.resolution)
        latent = from_mixture(MixtureDensity, mixture, outputs)
        supports = recording.supports
        return latent if supports.is_identity else TransformedDensity(latent, supports)


def _concatenated(parts: Any) -> tuple[NDArray[np.float64], ...]:
    """Concatenate the results of chunks, each a tuple of arrays."""
    return tuple(map(np.concatenate, zip(*parts, strict=True)))
