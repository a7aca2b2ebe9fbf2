"""Predictions of a fitted estimator: densities, moments, samples and scores."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal, overload

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.utils.validation import check_is_fitted

from skmdn._data.checks import check_features, check_targets, mean_of_known
from skmdn._mixture import Mixture
from skmdn._model import ConditionalModel
from skmdn.density import MixtureDensity
from skmdn.density._parameters import from_mixture
from skmdn.density.transformed import Density, TransformedDensity


class PredictionMixin:
    """Predict with an estimator that has a `ConditionalModel` and a `device`."""

    _model: ConditionalModel
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
        """Compute the mean of `score_samples`, as :meth:`GaussianMixture.score` does.

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

    # -- privates ----------------------------------------------------------------

    def _predicting(self, X: Any) -> tuple[ConditionalModel, Any]:
        """Return the fitted model on the device that predicts, and checked rows."""
        check_is_fitted(self)
        X = check_features(self, X)
        return self._model.on(self.device), X

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
