"""The scikit-learn estimator: parameters, checks, and publishing the fitted state."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ClassVar, Literal, Self

import numpy as np
import torch
from numpy.typing import ArrayLike
from sklearn.base import BaseEstimator, RegressorMixin

from skmdn._data.checks import check_rows, check_validation_rows
from skmdn._fit.constraints import CONSTRAINTS
from skmdn._fit.prepare import fitting, prepare
from skmdn._fit.publishing import FittedStateMixin
from skmdn._fit.session import FitSession
from skmdn._predicting import PredictionMixin
from skmdn._utils.compat import CallbackSupportMixin, callbacks_of, fit_context

__all__ = ["MDNRegressor"]


class MDNRegressor(
    CallbackSupportMixin,  # type: ignore[misc]
    FittedStateMixin,
    PredictionMixin,
    RegressorMixin,  # type: ignore[misc]
    BaseEstimator,  # type: ignore[misc]
):
    """Mixture density network: estimate the conditional density p(y | x).

    Networks of several kinds are trained together, each on its own fold; held-out
    likelihood decides which of them predict one mixture of Gaussians for every row.
    `predict_density` gives its exact mean, variance, quantiles, marginals, conditionals
    and samples. Consider these parameters first: `target_support`, `target_resolution`,
    `covariance_type`, `n_components` and `portfolio` (:doc:`why </choosing>`).

    Parameters
    ----------
    n_components : int or "auto", default="auto"
        Gaussians of each network; "auto" uses one per 2000 rows, between 3 and 16;
        with 2 to 5 outputs one per 300 rows, between 8 and 16.
    covariance_type : {"full", "tied", "diag", "spherical", "low_rank"}, default="full"
        Covariance of a component over the outputs, as in
        :class:`~sklearn.mixture.GaussianMixture`: a full matrix, one full matrix shared
        by the components of a row, a diagonal, or a single variance; or, for many
        outputs, a diagonal plus `rank` factors. All depend on x.
    rank : int, default=4
        Number of factors of "low_rank", whose time and memory are linear in the number
        of outputs.
    n_estimators : int or "auto", default="auto"
        Number of networks that predict, as the mixture of their mixtures; "auto" uses
        32, or 16 from 5000 distinct rows on. With 4 or more, the networks hold out
        folds, at most 8, that together cover every row.
    portfolio : "auto", sequence of str or None, default="auto"
        Kinds of networks that compete (:doc:`default fit </fit>`). After about 200
        steps those with the highest held-out log-likelihood go on; those with views of
        the other rows (kriging and trees) only if they gain more than noise. None,
        no held-out rows, a `network`, or fewer than 5 epochs mean one kind; fewer than
        25 rows keep the start of "linear". A fit that keeps a view stores up to 65,536
        training rows.
    embedding : {"auto", "periodic", "bins"} or None, default="auto"
        Transform of the features before the hidden layers: cosines of trainable
        frequencies (:class:`skmdn.nn.PeriodicEmbedding`), a piecewise linear encoding,
        or none. "auto" lets the portfolio choose, and is "periodic" without one; all
        else restricts the portfolio.
    hidden_layer_sizes : array-like of int or "auto", default="auto"
        Widths of the hidden layers; "auto" is (32, 32), or (64, 64) from 5000 rows on.
    activation : {"identity", "logistic", "tanh", "relu", "silu"}, default="silu"
        Activation of the hidden layers.
    dropout : float, default=0.0
        Probability of dropping a hidden unit during training, in [0, 1).
    network : callable or None, default=None
        ``network(n_features)`` builds a new :class:`torch.nn.Module` that maps
        standardised rows (n, n_features) to (n, width). These modules replace
        the five parameters above, which are ignored; a linear layer on top of each
        gives the parameters of the mixtures. See :doc:`networks </network>`.
    categorical_features : "from_dtype", array-like or None, default="from_dtype"
        Columns of X that hold categories, as in
        :class:`~sklearn.ensemble.HistGradientBoostingRegressor`: those of a frame with
        a categorical dtype, or names, positions or a mask of columns. A level of at
        least 10 distinct rows gets an indicator, others share one. See
        :doc:`features </features>`.
    target_support : pair, sequence, dict or None, default=None
        Bounds ``(low, high)`` of the targets, None for an open end: ``(0, None)`` for
        a positive target, ``(0, 1)`` for a share. One pair holds for every output; a
        list has one pair or None for each, a dict pairs by name. The density is zero
        outside: networks predict mixtures over log(y - low), -log(high - y), or the
        logit. See :doc:`targets </targets>`.
    target_resolution : float, "auto", sequence, dict or None, default=None
        Step to which y was recorded, in the unit of y, or one for each output. The
        likelihood of a row is then the probability of the cell [y - step/2, y + step/2]
        divided by the step, which spikes cannot raise above 1 / step. "auto" looks for
        a step of which all values are multiples, and many repeat.
    reg_covar : float, default=1e-6
        Floor added to the variance of each output given those that explain it, in
        units of the standardised target's variance. It bounds the density.
    alpha : float, default=0.01
        Decoupled weight decay of the matrices, as a share of the learning rate.
    learning_rate_init : float, default=1e-2
        Initial learning rate of Muon, in the hidden layers, and of Adam.
    learning_rate : {"constant", "cosine"}, default="cosine"
        Schedule; "cosine" anneals to zero over `max_iter` epochs.
    batch_size : int or "auto", default="auto"
        Rows per step; "auto" uses about a 32nd of the rows, between 32 and 512.
    max_iter : int or "auto", default="auto"
        Maximum number of epochs; "auto" uses as many as make 1500 steps, or 2000
        from 5000 distinct rows on, between 20 and 400.
    tol : float, default=1e-4
        Smallest improvement of the score that counts as progress, in nats, absolute.
    n_iter_no_change : int or "auto", default="auto"
        Epochs without progress after which training stops; "auto" uses a third of
        `max_iter`.
    early_stopping : bool, default=True
        Hold out rows, calibrate the densities on them after each epoch (on small
        tables after each 32 steps), and keep the best epoch of each kind. If False,
        all rows train, training stops on its loss, the last weights are kept without
        calibration, and there are no out-of-fold attributes.
    validation_fraction : float, default=0.1
        Share of the rows held out if there are fewer than 4 networks.
    warmup_iter : int, default=0
        First epochs, which minimise the Jensen upper bound of the negative
        log-likelihood (see :func:`skmdn.nn.mixture_nll_bound`).
    max_grad_norm : float or None, default=5.0
        Largest norm of a network's gradient; None disables clipping.
    warm_start : bool, default=False
        Continue `fit` from the networks, the scaling, the seed and so the folds of the
        previous one.
    verbose : bool or int, default=False
        Print a line for each epoch: loss, held-out score, time and an estimate of what
        is left; and which kinds go on. Numbers above 1 print no more than 1.
    random_state : int, RandomState, Generator or None, default=None
        Seed of folds, initial networks and batches. Global generators are never used.
    device : str, default="auto"
        "cpu", "cuda", "cuda:1", "mps", or "auto": a GPU if there is one. Fitting raises
        if the device does not exist; prediction then uses the CPU, with a warning.

    Attributes
    ----------
    n_features_in_ : int
        Number of features.
    feature_names_in_ : ndarray of shape (`n_features_in_`,)
        Names of the features, if X had string column names.
    n_outputs_ : int
        Number of outputs.
    n_components_ : int
        Gaussians of each network.
    output_names_ : tuple of str
        Names of the outputs, if y was a data frame or a named series. A frame of
        targets that is given later is then taken by name.
    n_iter_ : int
        Epochs run.
    loss_curve_ : ndarray of shape (`n_iter_`,)
        Mean training loss of the networks in each epoch, in nats in the unit of y;
        lower is better.
    validation_scores_ : ndarray of shape (`n_iter_`,)
        Mean log-likelihood of the held-out rows (of 65,536 at most) under the
        calibrated networks that held them out, in nats; higher is better. Slightly too
        high where the floor `reg_covar` acts, since it is calibrated too; `oof_score_`
        has no such bias.
    best_validation_score_ : float
        Score of the weights that are kept: of each kind the best ones of the epochs
        after the warm-up and of the start.
    portfolio_weights_ : dict of float
        Weight of each kind in the prediction, shared equally by its networks.
    portfolio_scores_ : dict of float
        Mean held-out log-likelihood of each kind when it was last trained, in nats,
        less 16 nats over the number of rows if training changed it.
    oof_log_density_ : ndarray of shape (n_samples,)
        Log-density of every training row under the networks that did not train
        on it, pooled, in nats. Only with folds: 4 networks or more, and no `X_val`.
    oof_score_ : float
        Weighted mean of `oof_log_density_`: a cross-validated score.
    network_ : NetworkPool
        The networks, an ordinary :class:`torch.nn.Module` on the CPU in float64.
        It maps ``(soft(X) - X_mean_) / X_scale_`` to mixtures over
        ``(y - y_mean_) / y_scale_``; for ``soft`` see `X_knees_`. Indicators of
        categories and missing values come before these columns.
    feature_encoder_ : FeatureEncoder
        Levels of categorical columns, and medians that stand for missing values.
    X_mean_, X_scale_, y_mean_, y_scale_ : ndarray
        Standardisation, exactly undone in all predictions: means of ``soft(X)`` and
        y, and standard deviations of X and y, clipped to ten robust deviations from the
        median. The scale of a categorical column is infinite. A target of negative
        skewness has a negative scale, so that mirrored targets give mirrored fits.
        Assigning to these does not change the model.
    X_knees_, X_spread_ : ndarray of shape (2, n_features) and (n_features,)
        Soft tails: with ``inside = np.clip(X, *X_knees_)``, ``soft(X)`` is ``inside +
        X_spread_ * np.arcsinh((X - inside) / X_spread_)``. The knees lie three robust
        deviations from the median, or at infinity where nearly all values are equal.

    See Also
    --------
    MixtureDensity : Density returned by `predict_density`.
    skmdn.callbacks.Checkpoint : Resume a fit after its process has ended.
    sklearn.mixture.GaussianMixture : Density estimation without features.

    Notes
    -----
    A sample weight means repetition, exactly: equal rows of a group are merged and
    their weights added before anything else, and rows of weight zero are dropped. The
    fit does not depend on row order. If it fails, the estimator stays as it was.

    With "full" and "tied" covariance every network takes the outputs in a random order,
    since in a triangular factor it matters which output explains which: the order of
    the columns of y has no systematic effect.

    Networks are overconfident on their training rows. A factor of the precision factors
    and an inverse temperature of the weights are therefore fitted to held-out rows.

    If `torch.distributed` is initialised, as under ``torchrun``, all ranks fit one
    model, each on its own rows: see :mod:`skmdn.distributed`. `batch_size` then counts
    the rows of all ranks, and `oof_log_density_` has the rows of this one.

    References
    ----------
    C. M. Bishop, "Mixture density networks", Aston University, 1994.

    J. Kruse, "Training Mixture Density Networks with full covariance matrices",
    arXiv:2003.05739, 2020.

    Y. Gorishniy, I. Rubachev and A. Babenko, "On embeddings for numerical features
    in tabular deep learning", NeurIPS 2022.

    Examples
    --------
    >>> from skmdn import MDNRegressor
    >>> from skmdn.datasets import load_geyser
    >>> X, y = load_geyser(return_X_y=True)
    >>> mdn = MDNRegressor(max_iter=30, random_state=0).fit(X, y)
    >>> density = mdn.predict_density([[50.0], [80.0]])
    >>> density.ppf([[0.1], [0.9]]).round()  # two quantiles, two rows; minutes
    array([[4., 2.],
           [5., 4.]])
    >>> print(density.cdf(3.0)[1])  # after a long wait  # doctest: +ELLIPSIS
    0.5...
    >>> round(mdn.score(X, y), 1)  # mean log-likelihood, in nats
    -0.5
    """

    _parameter_constraints: ClassVar[dict[str, list[Any]]] = CONSTRAINTS

    def __init__(
        self,
        n_components: int | Literal["auto"] = "auto",
        *,
        covariance_type: str = "full",
        rank: int = 4,
        n_estimators: int | Literal["auto"] = "auto",
        portfolio: str | Sequence[str] | None = "auto",
        embedding: str | None = "auto",
        hidden_layer_sizes: ArrayLike | Literal["auto"] = "auto",
        activation: str = "silu",
        dropout: float = 0.0,
        network: Callable[[int], torch.nn.Module] | None = None,
        categorical_features: Any = "from_dtype",
        target_support: Any = None,
        target_resolution: Any = None,
        reg_covar: float = 1e-6,
        alpha: float = 0.01,
        learning_rate_init: float = 1e-2,
        learning_rate: str = "cosine",
        batch_size: int | Literal["auto"] = "auto",
        max_iter: int | Literal["auto"] = "auto",
        tol: float = 1e-4,
        n_iter_no_change: int | Literal["auto"] = "auto",
        early_stopping: bool = True,
        validation_fraction: float = 0.1,
        warmup_iter: int = 0,
        max_grad_norm: float | None = 5.0,
        warm_start: bool = False,
        verbose: bool | int = False,
        random_state: int | np.random.RandomState | np.random.Generator | None = None,
        device: str = "auto",
    ) -> None:
        self.n_components = n_components
        self.covariance_type = covariance_type
        self.rank = rank
        self.n_estimators = n_estimators
        self.portfolio = portfolio
        self.embedding = embedding
        self.hidden_layer_sizes = hidden_layer_sizes
        self.activation = activation
        self.dropout = dropout
        self.network = network
        self.categorical_features = categorical_features
        self.target_support = target_support
        self.target_resolution = target_resolution
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
        self.warm_start = warm_start
        self.verbose = verbose
        self.random_state = random_state
        self.device = device

    # -- fitting -----------------------------------------------------------------

    @fit_context(prefer_skip_nested_validation=True)
    def fit(
        self,
        X: Any,
        y: Any,
        sample_weight: ArrayLike | None = None,
        *,
        groups: Any = None,
        y_upper: ArrayLike | None = None,
        X_val: Any = None,
        y_val: Any = None,
        sample_weight_val: ArrayLike | None = None,
    ) -> Self:
        """Fit the networks.

        Parameters
        ----------
        X : array-like or sparse matrix of shape (n_samples, n_features)
            Features. A dense X may have missing values, and columns of categories: see
            `categorical_features`.
        y : array-like of shape (n_samples,) or (n_samples, n_outputs)
            Targets. If y is one-dimensional, predictions have no output axis. With
            several outputs, NaN means that this one was not observed in this row: the
            likelihood is then that of the others.
        sample_weight : array-like of shape (n_samples,), default=None
            Repetitions of each row, not necessarily integers.
        groups : array-like of shape (n_samples,), default=None
            Label of the group of each row. Rows of one group are never on both sides of
            a split, see :doc:`evaluating a density </judging>`.
        y_upper : array-like of shape (n_samples,), default=None
            Upper ends of intervals, for one output: of each target it is only known
            that it lies in [y, y_upper]. Equal ends mean an observed value; -inf in y
            or inf in y_upper an open end, a target censored from the left or right.
        X_val, y_val, sample_weight_val : array-like, default=None
            Validation rows that decide when all networks stop, in place of held-out
            training rows. Their targets have no intervals.

        Returns
        -------
        self : MDNRegressor

        Raises
        ------
        ValueError
            If an argument has a wrong shape, or holds NaN, infinity or text where it
            must not, if y lies outside of `target_support`, if an output was never
            observed, or if there are fewer than 2 groups.
        RanksLostError
            If other ranks that fit the same model failed or died.
        KeyboardInterrupt
            After Ctrl-C; the best weights of the epochs so far are kept.

        Warns
        -----
        ConvergenceWarning
            If a constant learning rate is still making progress at `max_iter`, or if
            training diverges repeatedly; the best weights are kept.
        UserWarning
            If there are few rows, or few of them have nearly all the weight; if an
            output has few distinct values and no `target_resolution`; if no output of
            some rows was observed; if rows lie far outside the scale of the networks.
        """
        with fitting() as ranks:
            start = getattr(self, "_model", None) if self.warm_start else None
            known = start and start.fitted
            checked = check_rows(
                self, X, y, sample_weight, ranks, known, groups, y_upper
            )
            validation = check_validation_rows(
                self, checked, X_val, y_val, sample_weight_val
            )
            callbacks = callbacks_of(self)
            data = prepare(
                checked, validation, self._parameters(), start, ranks, callbacks
            )
            # No groups: ScoringMonitor passes all metadata to scorers.
            weight = {"sample_weight": data.given.weight}
            hooks = {
                "estimator": self,
                "X": X,
                "y": checked.y,
                "metadata": None if sample_weight is None else weight,
            }
            task = self._init_callback_context(max_subtasks=data.settings.max_iter)
            task.call_on_fit_task_begin(**hooks)
            seed = self.random_state if start is None else self._seed
            session = FitSession(data, seed)
            for callback in callbacks:
                if hasattr(callback, "on_session_begin"):
                    callback.on_session_begin(session, task)
            self._train(session, checked.feature_attributes, task, hooks)
        return self

    @fit_context(prefer_skip_nested_validation=True)
    def partial_fit(
        self,
        X: Any,
        y: Any,
        sample_weight: ArrayLike | None = None,
        *,
        y_upper: ArrayLike | None = None,
    ) -> Self:
        """Train for one pass over the given rows, for data that arrive in pieces.

        The first call fixes the scaling and the initial mixture: its rows should be a
        fair sample. All rows train all networks: nothing is held out, the learning rate
        is constant, and there are no out-of-fold attributes.

        Parameters
        ----------
        X : array-like or sparse matrix of shape (n_samples, n_features)
            Features.
        y : array-like of shape (n_samples,) or (n_samples, n_outputs)
            Targets, as in `fit`.
        sample_weight : array-like of shape (n_samples,), default=None
            Repetitions of each row.
        y_upper : array-like of shape (n_samples,), default=None
            Upper ends of intervals, as in `fit`.

        Returns
        -------
        self : MDNRegressor
            `n_iter_` counts passes, including the epochs of an earlier `fit`; a pass
            that diverged has the loss NaN.

        Raises
        ------
        ValueError
            If `fit` would refuse the rows, or if they do not fit the networks so far.
        RanksLostError
            If other ranks that fit the same model failed or died.

        Warns
        -----
        ConvergenceWarning
            If training diverges repeatedly; the weights before this call are kept.
        UserWarning
            As in `fit`. Later calls check only the weights and the scale.

        Examples
        --------
        >>> from skmdn import MDNRegressor, datasets
        >>> X, y = datasets.make_inverse_sine(200, random_state=0)
        >>> mdn = MDNRegressor(n_estimators=4, random_state=0)
        >>> for rows in 5 * [slice(100), slice(100, 200)]:  # five passes, two pieces
        ...     mdn = mdn.partial_fit(X[rows], y[rows])
        >>> round(mdn.score(X, y), 1)  # in nats
        1.3
        """
        start = getattr(self, "_model", None)
        params = self._parameters() | {
            "early_stopping": False,
            "learning_rate": "constant",
        }
        with fitting() as ranks:
            known = start and start.fitted
            checked = check_rows(
                self, X, y, sample_weight, ranks, known, y_upper=y_upper
            )
            data = prepare(checked, None, params, start, ranks, is_piece=True)
            session = FitSession(
                data,
                self.random_state if start is None else self._seed,
                losses=() if start is None else self.loss_curve_,
                optimizer_state=getattr(self, "_optimizer_state", None),
            )
            session.step()
            session.stop()
            if session.has_diverged:
                session.history.losses.append(np.nan)
            result = session.finish()
        result.issue_warnings()
        state = {"_optimizer_state": result.optimizer_state}
        self._publish(checked.feature_attributes | result.attributes() | state)
        return self

    # -- privates ----------------------------------------------------------------

    def _parameters(self) -> dict[str, Any]:
        """Return all parameters, also those that a subclass does not expose."""
        return {name: getattr(self, name) for name in CONSTRAINTS}

    # -- tags --------------------------------------------------------------------

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.target_tags.multi_output = True
        tags.input_tags.sparse = True
        tags.input_tags.allow_nan = True
        # score is the log-likelihood; the check behind this tag expects R2 > 0.5.
        tags.regressor_tags.poor_score = True
        return tags
