"""The scikit-learn estimator: parameters, validation, scaling, orchestration."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import replace
from functools import partial
from numbers import Integral, Real
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, RegressorMixin, _fit_context
from sklearn.utils import check_array, check_consistent_length
from sklearn.utils._param_validation import Interval, StrOptions
from sklearn.utils.validation import (
    check_is_fitted,
    validate_data,
)
from torch import Tensor

from skmdn._arrays import (
    make_generator,
    make_seed,
    resolve_device,
    to_numpy,
)
from skmdn._calibration import Calibration
from skmdn._checks import (
    as_targets,
    as_weights,
    as_widths,
    check_unmasked,
    naming_what_is_no_number,
    output_names,
    warn_of_ties,
    weighted_mean,
)
from skmdn._compat import CallbackSupportMixin
from skmdn._covariance import COVARIANCE_TYPES
from skmdn._inference import Predictor, log_density_held_out
from skmdn._mixture import Mixture
from skmdn._persistence import (
    digest,
    network_from_arrays,
    network_to_arrays,
    seal,
    unseal,
)
from skmdn._rows import (
    Distinct,
    LazyRows,
    ScaledRows,
    Scaling,
    Subset,
    UsedRows,
    WeightedRows,
    count_folds,
    every_row,
    fingerprint,
    hold_out,
    merge_rows,
    orientation,
)
from skmdn._schedule import (
    auto_batch_size,
    auto_max_iter,
    auto_n_components,
    auto_n_iter_no_change,
)
from skmdn._start import unconditional_mixtures
from skmdn._threads import shared_threads, take_share
from skmdn._training import (
    LEARNING_RATES,
    FlatParameters,
    History,
    MemberRows,
    Moments,
    Trainer,
    Training,
    TrainingSettings,
    train,
    warn_of_divergence,
)
from skmdn._validation import HeldOut
from skmdn.density import MixtureDensity
from skmdn.distributed import Ranks, join
from skmdn.nn import (
    ACTIVATIONS,
    EMBEDDINGS,
    MixtureDensityNetwork,
)

__all__ = ["MDNRegressor"]

# Float32 input is used as it is; everything else is read as float64.
FLOATS = (np.float64, np.float32)
HELD_OUT_ATTRIBUTES = ("validation_scores_", "best_validation_score_")
OUT_OF_FOLD_ATTRIBUTES = ("oof_log_density_", "oof_score_")


class MDNRegressor(CallbackSupportMixin, RegressorMixin, BaseEstimator):
    """Mixture density network: estimates the density p(y given x).

    Several networks are trained together, each on its own fold, and predict one
    mixture of Gaussians for every row. The mixture's exact mean, variance,
    quantiles, marginals, conditionals and samples are those of `predict_density`.

    Parameters
    ----------
    n_components : int or "auto", default="auto"
        Gaussians of each network; "auto" takes one for every 2000 rows, but from 5
        to 16.
    covariance_type : {"full", "tied", "diag", "spherical", "low_rank"}, default="full"
        Covariance of a component over the outputs, as in
        :class:`~sklearn.mixture.GaussianMixture`: a matrix of its own, one shared
        by the row's components, a diagonal, or one variance; or, for many outputs,
        a diagonal plus `rank` factors. All depend on x.
    rank : int, default=4
        Factors of "low_rank", which take time and memory linear in the outputs.
    n_estimators : int, default=16
        Networks trained in one batched computation from different starts. The
        prediction is the equally weighted mixture of their mixtures, so still a
        Gaussian mixture, of ``n_estimators * n_components_`` components. From 4 on,
        the networks hold out folds, at most 8, that together cover every row.
    embedding : {"periodic"} or None, default="periodic"
        What the features pass before the network: cosines of trainable frequencies
        (:class:`skmdn.nn.PeriodicEmbedding`), which also bound what a far-out row
        can do, or nothing.
    hidden_layer_sizes : array-like of int, default=(64, 64)
        Widths of the hidden layers.
    activation : {"identity", "logistic", "tanh", "relu", "silu"}, default="silu"
        Activation of the hidden layers.
    dropout : float, default=0.0
        Probability of dropping a hidden unit while training, in [0, 1).
    network : callable or None, default=None
        ``network(n_features)`` builds a :class:`torch.nn.Module` that maps standardised
        rows (n, n_features) to (n, width), anew in each call. Such modules then take
        the place of the four parameters above, which are ignored; a linear layer of
        ours reads the mixtures off what they give. `docs/network.md` says more.
    reg_covar : float, default=1e-6
        Floor added to the variance of each output given those that explain it, in
        units of the standardised target's variance. It bounds the density.
    alpha : float, default=0.01
        Decoupled weight decay of the matrices, as a share of the learning rate.
    learning_rate_init : float, default=1e-2
        Learning rate of the Adam optimiser at the start.
    learning_rate : {"constant", "cosine"}, default="cosine"
        Schedule; "cosine" anneals to zero over `max_iter` epochs.
    batch_size : int or "auto", default="auto"
        Rows per step; "auto" takes about a 32nd of the rows, from 32 to 512.
    max_iter : int or "auto", default="auto"
        Epochs at most; "auto" takes those that make 3000 steps, but from 20 to 400.
    tol : float, default=1e-4
        Smallest progress of the score that counts, in nats, absolute.
    n_iter_no_change : int or "auto", default="auto"
        Epochs without progress after which training stops; "auto" takes a third of
        `max_iter`.
    early_stopping : bool, default=True
        Hold out rows, calibrate the densities on them after each epoch, and keep
        the epoch whose calibrated log-likelihood there is best. If False, all rows
        train, training stops on its loss, the last weights are kept as they are,
        and there are no out-of-fold attributes.
    validation_fraction : float, default=0.1
        Share of the rows held out where there are fewer than 4 networks.
    warmup_iter : int, default=0
        Epochs at the start that minimise the Jensen upper bound of the negative
        log-likelihood (see :func:`skmdn.nn.mixture_nll_bound`).
    max_grad_norm : float or None, default=5.0
        Largest norm of a network's gradient; None turns clipping off.
    input_noise, target_noise : float, default=0.0
        Standard deviation, in standardised units, of Gaussian noise redrawn at
        every step (Rothfuss et al. 2019).
    shuffle : bool, default=True
        Draw a new order of the rows in each epoch. Rows are sorted by a hash of
        their content first, so the fit never depends on the order given.
    warm_start : bool, default=False
        Continue `fit` from the networks and the scaling of the previous one.
    verbose : bool, default=False
        Print the loss and the validation score of each epoch.
    random_state : int, RandomState instance or None, default=None
        Seed of folds, starts and batches. Global generators are never used.
    device : str, default="auto"
        "cpu", "cuda", "cuda:1", "mps", or "auto": a GPU where there is one.

    Attributes
    ----------
    n_features_in_ : int
        Number of features.
    feature_names_in_ : ndarray of shape (`n_features_in_`,)
        Names of the features, where X had string column names.
    n_outputs_ : int
        Number of outputs.
    n_components_ : int
        Gaussians of each network.
    output_names_ : tuple of str
        Names of the outputs, where y was a data frame or a named series.
    n_iter_ : int
        Epochs run.
    loss_curve_ : ndarray of shape (`n_iter_`,)
        Mean training loss of the networks in each epoch, in nats in the unit of y.
    validation_scores_ : ndarray of shape (`n_iter_`,)
        Mean log-likelihood of the held-out rows (of 65,536 of them, where there are
        more) under the calibrated networks that held them out; greater is better. A
        little too high where the floor `reg_covar` acts, since it is calibrated too;
        `oof_score_` is not.
    best_validation_score_ : float
        The best of them, that of the weights kept.
    oof_log_density_ : ndarray of shape (n_samples,)
        Log-density of every training row under the networks that did not train
        on it, pooled. Only with folds: 4 networks or more, and no `X_val`.
    oof_score_ : float
        Weighted mean of `oof_log_density_`: each fit is its own cross-validation.
    network_ : MixtureDensityNetwork
        The networks, an ordinary :class:`torch.nn.Module` on the CPU in float64.
        It maps ``(X - X_mean_) / X_scale_`` to mixtures over
        ``(y - y_mean_) / y_scale_``.
    X_mean_, X_scale_, y_mean_, y_scale_ : ndarray
        The standardisation, exactly undone in all predictions. A target of negative
        skewness has a negative scale, so that mirrored targets give mirrored fits.

    See Also
    --------
    MixtureDensity : What `predict_density` returns.
    skmdn.callbacks.Checkpoint : Let a long fit survive its process.
    sklearn.neural_network.MLPRegressor : Point predictions of a network.
    sklearn.mixture.GaussianMixture : Density estimation without features.

    Notes
    -----
    A sample weight means repetition, exactly: identical rows are merged and their
    weights added before anything else, and rows of weight zero are dropped.

    With "full" and "tied" covariance every network takes the outputs in a random order
    of its own, since in a triangular factor it matters which output explains which. So
    the order of the columns of y does not.

    Networks are surest of the rows they have seen. So one factor of all precision
    factors and one power of all weights are fitted to the held-out rows, and are
    part of the networks afterwards. They leave the means alone.

    The log-likelihood of a target that takes few values says little, since a
    density can stand in spikes on them; see the warning below.

    Where `torch.distributed` is initialised, as under ``torchrun``, all ranks fit one
    model, each giving rows of its own to `fit` or `partial_fit`: see
    :mod:`skmdn.distributed`. `batch_size` then counts the rows of all ranks, and
    `oof_log_density_` has the rows of this one.

    References
    ----------
    C. M. Bishop, "Mixture density networks", Aston University, 1994.

    J. Kruse, "Training Mixture Density Networks with full covariance matrices",
    arXiv:2003.05739, 2020.

    J. Rothfuss et al., "Noise regularization for conditional density estimation",
    arXiv:1907.08982, 2019.

    Y. Gorishniy, I. Rubachev and A. Babenko, "On embeddings for numerical features
    in tabular deep learning", NeurIPS 2022.

    Examples
    --------
    >>> from skmdn import MDNRegressor
    >>> from skmdn.datasets import load_geyser
    >>> X, y = load_geyser(return_X_y=True)
    >>> mdn = MDNRegressor(max_iter=30, random_state=0).fit(X, y)
    >>> density = mdn.predict_density([[50.0], [80.0]])
    >>> density.mean().shape
    (2,)
    >>> bool(density.cdf(3.0)[1] > 0.3)  # after a long wait: short or long eruptions
    True
    >>> bool(mdn.score(X, y) > -1.0)  # mean log-likelihood, in nats
    True
    """

    _parameter_constraints: ClassVar[dict[str, list[Any]]] = {
        "n_components": [
            Interval(Integral, 1, None, closed="left"),
            StrOptions({"auto"}),
        ],
        "covariance_type": [StrOptions(set(COVARIANCE_TYPES))],
        "rank": [Interval(Integral, 1, None, closed="left")],
        "n_estimators": [Interval(Integral, 1, None, closed="left")],
        "embedding": [StrOptions(set(EMBEDDINGS)), None],
        "hidden_layer_sizes": ["array-like"],
        "activation": [StrOptions(set(ACTIVATIONS))],
        "dropout": [Interval(Real, 0, 1, closed="left")],
        "network": [callable, None],
        "reg_covar": [Interval(Real, 0, None, closed="left")],
        "alpha": [Interval(Real, 0, None, closed="left")],
        "learning_rate_init": [Interval(Real, 0, None, closed="neither")],
        "learning_rate": [StrOptions(set(LEARNING_RATES))],
        "batch_size": [
            Interval(Integral, 1, None, closed="left"),
            StrOptions({"auto"}),
        ],
        "max_iter": [Interval(Integral, 1, None, closed="left"), StrOptions({"auto"})],
        "tol": [Interval(Real, 0, None, closed="left")],
        "n_iter_no_change": [
            Interval(Integral, 1, None, closed="left"),
            StrOptions({"auto"}),
        ],
        "early_stopping": ["boolean"],
        "validation_fraction": [Interval(Real, 0, 1, closed="neither")],
        "warmup_iter": [Interval(Integral, 0, None, closed="left")],
        "max_grad_norm": [Interval(Real, 0, None, closed="neither"), None],
        "input_noise": [Interval(Real, 0, None, closed="left")],
        "target_noise": [Interval(Real, 0, None, closed="left")],
        "shuffle": ["boolean"],
        "warm_start": ["boolean"],
        "verbose": ["verbose"],
        "random_state": ["random_state"],
        "device": [str],
    }

    def __init__(
        self,
        n_components="auto",
        *,
        covariance_type="full",
        rank=4,
        n_estimators=16,
        embedding="periodic",
        hidden_layer_sizes=(64, 64),
        activation="silu",
        dropout=0.0,
        network=None,
        reg_covar=1e-6,
        alpha=0.01,
        learning_rate_init=1e-2,
        learning_rate="cosine",
        batch_size="auto",
        max_iter="auto",
        tol=1e-4,
        n_iter_no_change="auto",
        early_stopping=True,
        validation_fraction=0.1,
        warmup_iter=0,
        max_grad_norm=5.0,
        input_noise=0.0,
        target_noise=0.0,
        shuffle=True,
        warm_start=False,
        verbose=False,
        random_state=None,
        device="auto",
    ):
        self.n_components = n_components
        self.covariance_type = covariance_type
        self.rank = rank
        self.n_estimators = n_estimators
        self.embedding = embedding
        self.hidden_layer_sizes = hidden_layer_sizes
        self.activation = activation
        self.dropout = dropout
        self.network = network
        self.reg_covar = reg_covar
        self.alpha = alpha
        self.learning_rate_init = learning_rate_init
        self.learning_rate = learning_rate
        self.batch_size = batch_size
        self.max_iter = max_iter
        self.tol = tol
        self.n_iter_no_change = n_iter_no_change
        self.early_stopping = early_stopping
        self.validation_fraction = validation_fraction
        self.warmup_iter = warmup_iter
        self.max_grad_norm = max_grad_norm
        self.input_noise = input_noise
        self.target_noise = target_noise
        self.shuffle = shuffle
        self.warm_start = warm_start
        self.verbose = verbose
        self.random_state = random_state
        self.device = device

    # -- fitting -----------------------------------------------------------------

    @_fit_context(prefer_skip_nested_validation=True)
    def fit(
        self,
        X,
        y,
        sample_weight=None,
        *,
        X_val=None,
        y_val=None,
        sample_weight_val=None,
    ):
        """Fit the networks.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Features.
        y : array-like of shape (n_samples,) or (n_samples, n_outputs)
            Targets. Where it is one-dimensional, predictions have no output axis.
        sample_weight : array-like of shape (n_samples,), default=None
            Repetitions of each row, not necessarily whole.
        X_val, y_val, sample_weight_val : array-like, default=None
            Validation rows on which all networks stop, instead of held-out ones.

        Returns
        -------
        self : MDNRegressor

        Raises
        ------
        ValueError
            If an argument has a wrong shape, or holds NaN or infinity.
        RanksLostError
            If other ranks that fit the same model failed or died.

        Warns
        -----
        ConvergenceWarning
            If a constant learning rate is still making progress at `max_iter`, or if
            training diverges again and again; the best weights are kept.
        UserWarning
            If there are too few rows to hold any out; all of them train then. If an
            output takes few distinct values, so that its log-likelihood says little.
        """
        with join() as ranks, shared_threads():
            given = self._check_rows(
                X, y, sample_weight, reset=True, min_rows=2 if ranks.size == 1 else 1
            )
            validation = self._check_validation(X_val, y_val, sample_weight_val)
            is_continued = self.warm_start and hasattr(self, "network_")
            self._check_agreement(validation is not None, is_continued, ranks)
            self._fit(
                given.rescaled(ranks),
                validation and validation.rescaled(ranks),
                sample_weight is not None,
                is_continued,
                ranks,
            )
        return self

    @_fit_context(prefer_skip_nested_validation=True)
    def partial_fit(self, X, y, sample_weight=None):
        """Train for one pass over the rows given, for data that arrives in pieces.

        The first call fixes the scaling and the starting mixture, so let its piece
        be a fair sample. All rows train all networks: nothing is held out, the
        learning rate is constant, and there are no out-of-fold attributes.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Features.
        y : array-like of shape (n_samples,) or (n_samples, n_outputs)
            Targets.
        sample_weight : array-like of shape (n_samples,), default=None
            Repetitions of each row.

        Returns
        -------
        self : MDNRegressor
        """
        is_first = not hasattr(self, "network_")
        with join() as ranks, shared_threads():
            min_rows = 2 if is_first and ranks.size == 1 else 1
            given = self._check_rows(
                X, y, sample_weight, reset=is_first, min_rows=min_rows
            )
            self._check_agreement(False, not is_first, ranks)
            given = given.rescaled(ranks)
            used = UsedRows.of(given, merge_rows(given))
            if is_first:
                self._seed = int(ranks.first(make_seed(self.random_state)))
            n_seen = 0 if is_first else self.n_iter_
            generator = make_generator(self._seed, stream=n_seen)
            network = (
                self._new_network(used, generator, ranks)
                if is_first
                else self._copied_network()
            )
            settings = replace(self._settings(used, ranks), learning_rate="constant")
            moments = getattr(self, "_moments", None)
            trainer = self._trainer(network, settings, generator, ranks, moments)
            rows, _ = self._split(used, None, None, trainer)
            take_share()
            loss = trainer.advance(rows, n_seen)
        if loss is None:
            warn_of_divergence(stacklevel=3)
            loss = math.nan
        loss += self._scalings()[1].log_scale
        losses = [] if is_first else list(self.loss_curve_)
        self._set_fitted(network, History([*losses, loss]))
        self._moments = trainer.moments()
        return self

    # -- predicting --------------------------------------------------------------

    def predict(self, X, return_std=False, return_cov=False):
        """Predict the conditional mean.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Features.
        return_std, return_cov : bool, default=False
            Also return the conditional standard deviation of each output, or the
            conditional covariance of the outputs; not both.

        Returns
        -------
        y_mean : ndarray of shape (n_samples,) or (n_samples, n_outputs)
            In the unit of y.
        y_std : ndarray of the same shape
            Only with `return_std`.
        y_cov : ndarray of shape (n_samples,) or (n_samples, n_outputs, n_outputs)
            Only with `return_cov`.
        """
        if return_std and return_cov:
            raise ValueError(
                "At most one of return_std and return_cov can be requested."
            )
        predictor, X = self._predictor(X)
        if return_cov:
            densities = map(self._density, predictor.mixtures(X))
            moments = zip(*((p.mean(), p.cov()) for p in densities), strict=True)
            return tuple(map(np.concatenate, moments))
        if return_std:
            mean, variance = predictor.means_and_variances(X)
            return self._as_y(mean.numpy()), self._as_y(variance.sqrt().numpy())
        return self._as_y(predictor.means(X).numpy())

    def predict_density(self, X, y=None):
        """Predict the conditional density, or its values.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Features.
        y : array-like of shape (n_samples,) or (n_samples, n_outputs), default=None
            A value of the targets for each row of X.

        Returns
        -------
        density : MixtureDensity, or ndarray of shape (n_samples,)
            Without `y` the density itself; with `y` the values p(y given x), in one
            over the unit of y.
        """
        if y is not None:
            return np.exp(self.score_samples(X, y))
        predictor, X = self._predictor(X)
        parts = zip(*predictor.mixtures(X), strict=True)
        return self._density(Mixture(*map(torch.cat, parts)))

    def score_samples(self, X, y=None):
        """Log-density of y given x, or the log-density that the model expects.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Features.
        y : array-like of shape (n_samples,) or (n_samples, n_outputs), default=None
            A value of the targets for each row of X.

        Returns
        -------
        log_density : ndarray of shape (n_samples,)
            In nats, greater is better. With `y`, log p(y given x); without, minus
            the conditional entropy (:meth:`MixtureDensity.entropy`): how sure the
            model is at x.
        """
        predictor, X = self._predictor(X)
        if y is None:
            entropies = [
                self._density(mixture).entropy() for mixture in predictor.mixtures(X)
            ]
            return -np.concatenate(entropies)
        check_consistent_length(X, y)
        return predictor.log_density(X, self._check_targets(y)).numpy()

    def sample(self, X, n_samples=1, random_state=None):
        """Draw targets from the conditional density.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Features.
        n_samples : int, default=1
            Draws for each row.
        random_state : int, RandomState instance or None, default=None
            Seed. With `None` every call gives new draws.

        Returns
        -------
        y : ndarray of shape (n_rows, n_samples) or (n_rows, n_samples, n_outputs)
            Independent draws, in the unit of y.
        """
        return self.predict_density(X).sample(n_samples, random_state)

    def score(self, X, y, sample_weight=None):
        """Mean log-likelihood, as :meth:`GaussianMixture.score`.

        So `cross_val_score` and `GridSearchCV` cross-validate the negative
        log-likelihood with no further argument; R2 is `scoring="r2"`.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Features.
        y : array-like of shape (n_samples,) or (n_samples, n_outputs)
            Targets.
        sample_weight : array-like of shape (n_samples,), default=None
            Weights of the mean.

        Returns
        -------
        score : float
            In nats; greater is better.
        """
        return weighted_mean(self.score_samples(X, y), sample_weight)

    # -- the way of a fit ----------------------------------------------------------

    def _fit(
        self,
        given: WeightedRows,
        validation: WeightedRows | None,
        is_weighted: bool,
        is_continued: bool,
        ranks: Ranks,
    ) -> None:
        """Fit checked rows, on which and on whose kind all ranks agree."""
        if not is_continued:
            self._seed = make_seed(self.random_state)
        distinct = merge_rows(given)
        used = UsedRows.of(given, distinct)
        settings = self._settings(used, ranks)
        metadata = {"sample_weight": given.weight} if is_weighted else None
        data = {"X": given.X, "y": self._as_y(given.y), "metadata": metadata}
        task = self._init_callback_context(max_subtasks=settings.max_iter)
        task.call_on_fit_task_begin(estimator=self, **data)
        self._seed = int(ranks.first(self._seed))
        # A continued fit draws the same folds again, so that nothing leaks.
        generator = make_generator(self._seed)
        folds = None
        if self.early_stopping and validation is None:
            folds = self._hold_out(used, generator, ranks)
        network = (
            self._copied_network()
            if is_continued
            else self._new_network(used, generator, ranks)
        )
        warn_of_ties(used.y, self.y_scale_, self.reg_covar, ranks)
        trainer = self._trainer(network, settings, generator, ranks)
        training = Training(
            trainer,
            *self._split(used, validation, folds, trainer),
            self._scalings()[1].log_scale,
            partial(self._identity, given, validation, is_continued, trainer),
        )
        history = self._run(training, task, data)
        held_out = training.held_out
        calibrations = None if held_out is None else held_out.calibrations(network)
        self._set_fitted(network, history)
        if calibrations is not None:
            self._calibrate(*calibrations, given, distinct, used, folds, ranks)
        if not training.is_interrupted:
            task.call_on_fit_task_end(estimator=self, **data)

    def _check_agreement(
        self, has_validation: bool, is_continued: bool, ranks: Ranks
    ) -> None:
        """Refuse ranks that would not fit the same model in the same steps."""
        if ranks.size == 1:
            return
        inputs = self._inputs(is_continued) | {
            "features": [self.n_features_in_, getattr(self, "feature_names_in_", None)],
            "outputs": [self.n_outputs_, getattr(self, "output_names_", None)],
            "y.ndim": self._y_ndim,
            "X_val": has_validation,
            "callbacks": [
                type(callback).__qualname__
                for callback in getattr(self, "_skl_callbacks", [])
            ],
        }
        del inputs["random_state"], inputs["device"]
        ours = np.array([digest(item) for item in inputs.values()])
        for rank, theirs in enumerate(ranks.share(ours)):
            if (ours != theirs).any():
                names = ", ".join(np.array([*inputs])[ours != theirs])
                raise ValueError(
                    "All ranks must fit the same model, but those of ranks "
                    f"{ranks.rank} and {rank} differ in {names}."
                )

    def _inputs(self, is_continued: bool) -> dict[str, Any]:
        """What a fit is determined by, besides its rows and its device."""
        inputs = self.get_params(deep=False)
        del inputs["verbose"]
        networks = is_continued and network_to_arrays(self.network_)
        return inputs | {"networks": networks}

    # -- checking what comes in --------------------------------------------------

    def _check_rows(
        self, X: Any, y: Any, sample_weight: Any, *, reset: bool, min_rows: int = 1
    ) -> WeightedRows:
        """Check rows to learn from; with `reset`, learn their kind."""
        names = output_names(y)
        check_unmasked("y", y)
        with naming_what_is_no_number(X):
            X, y = validate_data(
                self,
                X,
                y,
                multi_output=True,
                accept_sparse="csr",
                dtype=FLOATS,
                reset=reset,
                ensure_min_samples=min_rows,
            )
        if reset:
            y = as_targets(y)
            self._y_ndim = y.ndim
            self.n_outputs_ = y.reshape(len(y), -1).shape[1]
            self._forget("output_names_")
            if names is not None:
                self.output_names_ = names
            y = y.reshape(len(y), -1)
        else:
            y = self._check_targets(y)
        return WeightedRows(X, y, as_weights(sample_weight, X))

    def _check_validation(
        self, X: Any, y: Any, sample_weight: Any
    ) -> WeightedRows | None:
        if X is None and y is None:
            if sample_weight is not None:
                raise ValueError("sample_weight_val was given without X_val and y_val.")
            return None
        if X is None or y is None:
            raise ValueError(
                "X_val and y_val must be given together, got only "
                f"{'y_val' if X is None else 'X_val'}."
            )
        if not self.early_stopping:
            raise ValueError(
                "X_val and y_val were given, but early_stopping=False does not use "
                "them. Set early_stopping=True, or leave them out."
            )
        return self._check_rows(X, y, sample_weight, reset=False)

    def _check_targets(self, y: Any) -> NDArray[np.float64]:
        """Check targets of fitted rows, (n, d)."""
        check_unmasked("y", y)
        y = as_targets(check_array(y, ensure_2d=False, dtype=None, input_name="y"))
        flat = y.reshape(len(y), -1)
        if flat.shape[1] != self.n_outputs_:
            raise ValueError(
                f"y has {flat.shape[1]} outputs, but {type(self).__name__} was fitted "
                f"with {self.n_outputs_}."
            )
        return flat

    def _hold_out(
        self, rows: UsedRows, generator: torch.Generator, ranks: Ranks
    ) -> tuple[Subset, Subset] | None:
        try:
            return hold_out(
                rows, self.n_estimators, self.validation_fraction, generator, ranks
            )
        except ValueError as exc:
            warnings.warn(
                f"{exc} With n_estimators={self.n_estimators} and validation_fraction="
                f"{self.validation_fraction}, all rows train and nothing is held out.",
                UserWarning,
                stacklevel=5,
            )
            return None

    # -- networks ----------------------------------------------------------------

    def _network_parameters(self, auto_n_components: int) -> dict[str, Any]:
        is_auto = self.n_components == "auto"
        return {
            "n_features": self.n_features_in_,
            "n_outputs": self.n_outputs_,
            "n_components": auto_n_components if is_auto else int(self.n_components),
            "n_members": int(self.n_estimators),
            "covariance_type": self.covariance_type,
            "rank": int(self.rank),
            "embedding": self.embedding,
            "hidden_layer_sizes": as_widths(self.hidden_layer_sizes),
            "activation": self.activation,
            "dropout": float(self.dropout),
            "network": self.network,
            "reg_covar": float(self.reg_covar),
        }

    def _new_network(
        self, rows: UsedRows, generator: torch.Generator, ranks: Ranks
    ) -> MixtureDensityNetwork:
        """Fix the scaling, and build networks that start as the mixture of y alone."""
        n_rows = len(rows.y)
        mean, scale = Scaling.of("y", rows.y, rows.weight, np.arange(n_rows), ranks)
        y_scaling = Scaling(mean, scale * orientation(rows.y, rows.weight, ranks))
        self.X_mean_, self.X_scale_ = Scaling.of(
            "X", rows.X, rows.weight, rows.positions, ranks
        )
        self.y_mean_, self.y_scale_ = y_scaling
        n_components = auto_n_components(int(ranks.sum(n_rows)))
        self._structure = self._network_parameters(n_components)
        self.n_components_ = self._structure["n_components"]
        network = MixtureDensityNetwork(**self._structure, generator=generator)
        # Rounded as the networks will see it: clusters hang on ties.
        y_scaled = y_scaling.apply(rows.y).float().double().numpy()
        network.head.start_at(
            *unconditional_mixtures(
                y_scaled,
                rows.weight,
                self.n_components_,
                self.n_estimators,
                seed=int(torch.randint(2**32, (), generator=generator)),
                ranks=ranks,
            )
        )
        return network

    def _copied_network(self) -> MixtureDensityNetwork:
        """Copy the fitted networks to train them further."""
        wanted = self._network_parameters(self.n_components_)
        changed = [key for key in wanted if wanted[key] != self._structure[key]]
        if changed:
            raise ValueError(
                "The fitted networks cannot be trained further with another "
                f"{', '.join(changed)}. Fit anew with warm_start=False."
            )
        return deepcopy(self.network_)

    def _settings(self, rows: UsedRows, ranks: Ranks) -> TrainingSettings:
        """Resolve the parameters that steer the training of so many distinct rows."""
        n_rows = int(ranks.sum(len(rows.y)))
        batch_size = self.batch_size
        if batch_size == "auto":
            batch_size = auto_batch_size(n_rows)
        max_iter = self.max_iter
        if max_iter == "auto":
            max_iter = auto_max_iter(n_rows, batch_size)
        n_iter_no_change = self.n_iter_no_change
        if n_iter_no_change == "auto":
            n_iter_no_change = auto_n_iter_no_change(max_iter)
        if self.warmup_iter >= max_iter:
            raise ValueError(
                f"warmup_iter must be smaller than max_iter={max_iter}, got "
                f"warmup_iter={self.warmup_iter}."
            )
        return TrainingSettings(
            learning_rate_init=self.learning_rate_init,
            learning_rate=self.learning_rate,
            alpha=self.alpha,
            batch_size=batch_size,
            max_iter=max_iter,
            warmup_iter=self.warmup_iter,
            tol=self.tol,
            n_iter_no_change=n_iter_no_change,
            max_grad_norm=self.max_grad_norm,
            input_noise=self.input_noise,
            target_noise=self.target_noise,
            shuffle=self.shuffle,
            verbose=bool(self.verbose) and ranks.rank == 0,
        )

    def _trainer(
        self,
        network: MixtureDensityNetwork,
        settings: TrainingSettings,
        generator: torch.Generator,
        ranks: Ranks,
        moments: Moments | None = None,
    ) -> Trainer:
        device = resolve_device(self.device, fitting=True)
        if device.type != "cpu" or ranks.size > 1:
            seed = int(torch.randint(2**62, (), generator=generator))
            generator = make_generator(seed, stream=ranks.rank, device=device)
        network = network.to(device, torch.float32)
        return Trainer(network, settings, generator, moments, ranks)

    def _scalings(self) -> tuple[Scaling, Scaling]:
        return (
            Scaling(self.X_mean_, self.X_scale_),
            Scaling(self.y_mean_, self.y_scale_),
        )

    def _split(
        self,
        used: UsedRows,
        validation: WeightedRows | None,
        folds: tuple[Subset, Subset] | None,
        trainer: Trainer,
    ) -> tuple[MemberRows, HeldOut | None]:
        """Standardised rows to train on, and to validate on if any are."""

        def scaled(rows: UsedRows) -> ScaledRows:
            return ScaledRows.of(rows, *self._scalings(), torch.float32, trainer.device)

        ranks, rows = trainer.ranks, scaled(used)
        if folds is not None:
            trains, held_out = folds
            return (
                MemberRows.of(rows, trains, ranks),
                HeldOut.of(rows, held_out, ranks),
            )
        everything = every_row(len(used.y), self.n_estimators)
        member_rows = MemberRows.of(rows, everything, ranks)
        if validation is None:
            return member_rows, None
        n_rows = len(validation.y)
        rows = scaled(UsedRows(*validation, np.arange(n_rows)))
        return member_rows, HeldOut.of(rows, every_row(n_rows, 1), ranks)

    # -- callbacks ---------------------------------------------------------------

    def _run(self, training: Training, task: Any, data: dict[str, Any]) -> History:
        """Train while callbacks watch; they find the training at the estimator."""
        self._training = training
        try:
            return train(training, partial(self._epoch_task, task, data))
        finally:
            del self._training

    @contextmanager
    def _epoch_task(self, task: Any, data: dict[str, Any]) -> Iterator[None]:
        """Tell the callbacks of an epoch; any of them may stop the training."""
        hooks = data | {
            "estimator": self,
            "reconstruction_attributes": partial(self._as_if_stopped, self._training),
        }
        epoch = task.subcontext(task_name="epoch").call_on_fit_task_begin(**hooks)
        take_share()
        yield
        if epoch.call_on_fit_task_end(**hooks):
            self._training.is_stopped = True

    def _as_if_stopped(self, training: Training) -> dict[str, Any]:
        """Fitted attributes as they would be if training had stopped by now."""
        network = MixtureDensityNetwork(**self._structure)
        network.load_state_dict(training.trainer.network.state_dict())
        FlatParameters(network).values.copy_(training.best.values)
        if training.held_out is not None:
            network.to(training.trainer.device)
            _, calibration = training.held_out.calibrations(network)
            network.double().head.calibrate_(calibration)
        return {"network_": network.to("cpu", torch.float64).eval()}

    def _identity(
        self,
        given: WeightedRows,
        validation: WeightedRows | None,
        is_continued: bool,
        trainer: Trainer,
    ) -> dict[str, str]:
        """Digests of all that a fit is determined by, to tell it from others."""
        inputs = self._inputs(is_continued) | {
            "device": trainer.device.type,
            "rows": fingerprint(given, trainer.ranks),
            "validation rows": validation and fingerprint(validation, trainer.ranks),
        }
        return {name: digest(item) for name, item in inputs.items()}

    # -- what a fit leaves behind ------------------------------------------------

    def _set_fitted(self, network: MixtureDensityNetwork, history: History) -> None:
        network.generator = None
        network.zero_grad(set_to_none=True)
        self.network_ = network.to("cpu", torch.float64).eval()
        self._forget("_moments", *HELD_OUT_ATTRIBUTES, *OUT_OF_FOLD_ATTRIBUTES)
        self.loss_curve_ = np.array(history.losses)
        self.n_iter_ = len(history.losses)
        if history.scores:
            self.validation_scores_ = np.array(history.scores)
            self.best_validation_score_ = history.best_score

    def _forget(self, *names: str) -> None:
        for name in names:
            if hasattr(self, name):
                delattr(self, name)

    def _calibrate(
        self,
        of_fold: Calibration,
        of_all: Calibration,
        given: WeightedRows,
        distinct: Distinct,
        used: UsedRows,
        folds: tuple[Subset, Subset] | None,
        ranks: Ranks,
    ) -> None:
        """Calibrate the networks; before all of them, those that share a fold."""
        head = self.network_.head
        head.calibrate_(of_fold)
        if folds is None or count_folds(self.n_estimators) == 1:
            head.calibrate_(of_all.after(of_fold))
            return
        log_density = self._out_of_fold(used, folds[1])
        head.calibrate_(of_all.after(of_fold))
        self._set_out_of_fold(log_density, given, distinct, ranks)

    def _out_of_fold(self, used: UsedRows, held_out: Subset) -> Tensor:
        """Log-density of every row by the networks that did not train on it."""
        X_scaling, y_scaling = self._scalings()
        X = LazyRows(used.X, used.positions, X_scaling, torch.float64)
        y = y_scaling.apply(used.y)
        log_density = log_density_held_out(self.network_, X, y, held_out)
        return log_density - y_scaling.log_scale

    def _set_out_of_fold(
        self,
        log_density: Tensor,
        given: WeightedRows,
        distinct: Distinct,
        ranks: Ranks,
    ) -> None:
        """Give every row its value; a row of weight zero trained no network."""
        is_used = distinct.weight > 0
        values = np.empty(len(is_used))
        values[is_used] = to_numpy(log_density)
        unused = distinct.positions[~is_used]
        if len(unused):
            values[~is_used] = self.score_samples(given.X[unused], given.y[unused])
        self.oof_log_density_ = values[distinct.number]
        score = weighted_mean(self.oof_log_density_, given.weight)
        share = given.weight.sum() / float(ranks.sum(given.weight.sum()))
        self.oof_score_ = float(ranks.sum(share * score))

    # -- predicting in chunks ----------------------------------------------------

    def _predictor(self, X: Any) -> tuple[Predictor, Any]:
        """The fitted networks, and checked rows for them."""
        check_is_fitted(self)
        with naming_what_is_no_number(X):
            X = validate_data(self, X, reset=False, accept_sparse="csr", dtype=FLOATS)
        device = resolve_device(self.device, fitting=False)
        return Predictor.on(device, self.network_, *self._scalings()), X

    def _as_y(self, outputs: NDArray[np.float64]) -> NDArray[np.float64]:
        """As y was given to `fit`, with or without an output axis."""
        return outputs[:, 0] if self._y_ndim == 1 else outputs

    def _density(self, mixture: Mixture) -> MixtureDensity:
        names = getattr(self, "output_names_", None)
        return MixtureDensity._wrap(mixture, self._y_ndim == 1, names)

    # -- persistence and tags ----------------------------------------------------

    def __getstate__(self):
        """Replace the networks by arrays: a state of arrays and builtins only."""
        state = dict(super().__getstate__())
        state.pop("_training", None)
        if "network_" in state:
            state["network_"] = network_to_arrays(state["network_"])
        return seal(state)

    def __setstate__(self, state):
        # States of form 1 are of a release without the parameter `network`.
        state = {"network": None} | unseal(type(self).__name__, state)
        if "network_" in state:
            state["_structure"] = {"network": None} | state["_structure"]
            state["network_"] = network_from_arrays(
                state["_structure"], state["network_"]
            )
        super().__setstate__(state)

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.target_tags.multi_output = True
        tags.input_tags.sparse = True
        # score is the log-likelihood; the check behind this tag expects R2 > 0.5.
        tags.regressor_tags.poor_score = True
        return tags
