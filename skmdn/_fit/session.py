"""A running fit, and its result."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.exceptions import ConvergenceWarning

from skmdn._conformal import HeldOutScores
from skmdn._data.checks import weighted_mean
from skmdn._data.folds import MAX_FOLDS, RowLists, TooFewRowsError, hold_out
from skmdn._data.notices import (
    notices_of_few_rows,
    notices_of_outliers,
    notices_of_scale,
    notices_of_ties,
    notices_of_unobserved,
)
from skmdn._data.views import VIEWS
from skmdn._fit.building import as_unique
from skmdn._fit.pooling import PooledNetworks
from skmdn._fit.portfolio import Portfolio
from skmdn._fit.prepare import FitData
from skmdn._fit.progress import Progress
from skmdn._held_out import HeldOut, OutOfFold, digest_of_rows
from skmdn._model import ConditionalModel
from skmdn._training.loop import MOST_ROLLBACKS, ROLLBACK_RATE
from skmdn._training.optimizer import LEARNING_RATES
from skmdn._utils.arrays import make_generator, make_seed
from skmdn._utils.threads import take_share
from skmdn._utils.warn import Notice, warn


@dataclass
class History:
    """Mean training loss and held-out score of each epoch, in nats in the unit of y."""

    losses: list[float] = field(default_factory=list)
    scores: list[float] = field(default_factory=list)


@dataclass(frozen=True)
class FitResult:
    """What a fit gives, all values together; see `FitSession.finish`."""

    model: ConditionalModel
    seed: int
    losses: list[float]
    scores: list[float]
    best_score: float
    out_of_fold: dict[str, Any]
    portfolio_scores: dict[str, float]
    optimizer_state: dict[str, NDArray[Any]]
    notices: list[Notice]

    def issue_warnings(self) -> None:
        """Warn of all that was noted during the fit, with the caller's line."""
        for notice in self.notices:
            warn(*notice)

    def attributes(self) -> dict[str, Any]:
        """Return the fitted attributes of an estimator."""
        attributes: dict[str, Any] = {
            "_model": self.model,
            "_seed": self.seed,
            "n_iter_": len(self.losses),
            "loss_curve_": np.array(self.losses),
        }
        if self.portfolio_scores:
            attributes["validation_scores_"] = np.array(self.scores)
            attributes["best_validation_score_"] = self.best_score
            attributes["portfolio_scores_"] = self.portfolio_scores
        return attributes | self.out_of_fold | self.model.attributes()


class FitSession:
    """A running fit, advanced one epoch at a time.

    Kinds of networks compete at first: see `Portfolio`. With held-out rows the score of
    an epoch is their mean log-likelihood under the calibrated and weighted kinds, and
    the best weights of each kind are kept, including those before the first epoch;
    without, the score is minus the training loss, and the last weights are kept.

    Parameters
    ----------
    data : FitData
    random_state : int, RandomState, Generator or None
        Seed of folds, initial networks and batches.
    losses : sequence of float, default=()
        Loss of each epoch of earlier sessions; counting continues from there.
    optimizer_state : dict of arrays, default=None
        State of the optimizer at the end of the session before.
    """

    def __init__(
        self,
        data: FitData,
        random_state: Any,
        *,
        losses: Sequence[float] = (),
        optimizer_state: Mapping[str, NDArray[Any]] | None = None,
    ) -> None:
        self.data = data
        self.progress = Progress(data)
        self._earlier_losses = list(losses)
        self._reset(int(data.ranks.broadcast(make_seed(random_state))))
        if optimizer_state is not None:
            for number, stack in enumerate(self.portfolio.stacks):
                stack.loop.optimizer.state.load_(optimizer_state, f"{number}.")

    def _reset(self, seed: int) -> None:
        data = self.data
        self.seed = seed
        self.notices = self._notices_of_rows()
        # A continued fit draws the same folds again: the same rows remain held out.
        generator = make_generator(seed, stream=len(self._earlier_losses))
        self.folds = self._draw_folds(generator)
        self.portfolio = Portfolio(data, self.folds, generator, self.progress)
        self.history = History()
        self.is_stopped = self.has_diverged = False

    # -- start -------------------------------------------------------------------

    def _notices_of_rows(self) -> list[Notice]:
        """Note rows from which a fit cannot learn well."""
        data, rows, ranks = self.data, self.data.rows, self.data.ranks
        is_piece = bool(self._earlier_losses)
        notices = notices_of_few_rows(rows.weight, ranks, is_piece=is_piece)
        if not is_piece:
            floor = data.params["reg_covar"]
            notices += notices_of_ties(rows.y, data.target, floor, ranks)
            notices += notices_of_unobserved(data.given.y, ranks)
        scalings = data.features.scaling, data.target.scaling
        supports = data.target.recording.supports
        names = data.feature_names, data.outputs.names
        if data.start is None:
            notices += notices_of_outliers(rows, scalings, names, ranks, supports)
        else:
            notices += notices_of_scale(rows, scalings, names, ranks, supports)
        if data.validation is not None:
            rows = as_unique(data.validation)
            notices += notices_of_scale(
                rows, scalings, names, ranks, supports, is_validation=True
            )
        return notices

    def _draw_folds(
        self, generator: torch.Generator
    ) -> tuple[RowLists, RowLists] | None:
        """Draw the rows that each fold trains on and holds out; None without folds."""
        data, params = self.data, self.data.params
        if not params["early_stopping"] or data.validation is not None:
            return None
        n_members, fraction = self.data.n_members, params["validation_fraction"]
        # Each kind that is continued holds out every row.
        sizes = [] if data.start is None else data.start.sizes
        most = min((n for part in sizes for n in part.values()), default=MAX_FOLDS)
        given = data.rows, n_members, fraction, generator, data.ranks
        try:
            return hold_out(*given, most)
        except TooFewRowsError as exc:
            self.notices.append(
                Notice(
                    f"{exc} With n_estimators={n_members} and validation_fraction="
                    f"{fraction}, all rows are used for training and none is held out."
                )
            )
            return None

    # -- epochs ------------------------------------------------------------------

    @property
    def n_epochs(self) -> int:
        """Epochs run, including those of earlier sessions."""
        return len(self._earlier_losses) + len(self.history.losses)

    @property
    def is_over(self) -> bool:
        is_last = self.n_epochs >= self.data.settings.max_iter
        return self.is_stopped or is_last or self.portfolio.is_over

    def step(self) -> None:
        """Train for one epoch, score it, and record the best weights.

        If the networks diverge, the session is stopped at the weights before.
        """
        portfolio = self.portfolio
        self.progress.begin_epoch()
        losses, sizes = [], []
        for stack in portfolio.active:
            take_share(stack.loop.work)
            loss = stack.loop.run_epoch_with_rollback(stack.rows, self.n_epochs)
            if loss is None:
                stack.has_diverged = True
            else:
                losses.append(loss)
                sizes.append(len(stack.loop.values))
        if not losses:
            self.stop()
            self.has_diverged = True
            self.notices.append(_divergence())
            return
        loss = float(np.average(losses, weights=sizes))
        history = self.history
        history.losses.append(loss - self.data.offset)
        score = portfolio.update(self.n_epochs, -loss)
        if portfolio.held_out is not None:
            history.scores.append(portfolio.in_unit_of_y(score))
        scored = history.scores[-1] if history.scores else None
        self.progress.end_epoch(self.n_epochs, history.losses[-1], scored)
        self.progress.report_choice(portfolio.choose(self.n_epochs))

    def stop(self) -> None:
        """Run no further epoch."""
        self.is_stopped = True

    def agree(self) -> None:
        """Stop all ranks where one of them was stopped."""
        self.is_stopped = bool(self.data.ranks.max(self.is_stopped))

    # -- result ------------------------------------------------------------------

    def preview(self) -> ConditionalModel:
        """Return the model as if training stopped now."""
        pooled = self.portfolio.pooled()
        model = self._model(pooled)
        pooled.pool.calibrate_(pooled.of_all)
        return model

    def finish(self) -> FitResult:
        """Calibrate the best weights, and score every row by those that held it out."""
        portfolio = self.portfolio
        if not portfolio.is_narrow:  # stopped before the choice
            portfolio.narrow(with_new=False)
        optimizer_state: dict[str, NDArray[Any]] = {}
        for number, stack in enumerate(portfolio.stacks):
            optimizer_state |= stack.loop.optimizer.state.to_arrays(f"{number}.")
        pooled = portfolio.pooled()
        model = self._model(pooled)
        model.pool.calibrate_(pooled.of_all)
        out_of_fold = self._out_of_fold(model, pooled)
        scores = portfolio.scores | pooled.scores
        best_score = portfolio.in_unit_of_y(pooled.score)
        if not self.is_stopped:
            self._note_unfinished()
        self._report(model, out_of_fold.get("oof_score_"), best_score)
        return FitResult(
            model,
            self.seed,
            [*self._earlier_losses, *self.history.losses],
            self.history.scores,
            best_score,
            out_of_fold,
            {k: portfolio.in_unit_of_y(v) for k, v in scores.items()},
            optimizer_state,
            self.notices,
        )

    def _report(
        self, model: ConditionalModel, oof_score: float | None, best_score: float
    ) -> None:
        """Print what was kept, with the most honest score that there is."""
        score, name = oof_score, "out-of-fold score"
        if score is None and self.portfolio.held_out is not None:
            score, name = best_score, "held-out score"
        self.progress.end(model.weights(), score, name)

    def _model(self, pooled: PooledNetworks) -> ConditionalModel:
        """Move trained networks to the CPU in float64."""
        data, pool = self.data, pooled.pool.to("cpu", torch.float64).eval()
        views = self.portfolio.builder.view_columns.views
        used = {VIEWS[part].name for parts in pooled.views for part in parts}
        return ConditionalModel(
            pool,
            pooled.sizes,
            data.n_members,
            data.features,
            data.target,
            data.outputs,
            {name: view for name, view in views.items() if name in used},
            pooled.views,
        )

    def _out_of_fold(
        self, model: ConditionalModel, pooled: PooledNetworks
    ) -> dict[str, Any]:
        """Evaluate each row by the networks that held it out, if there are folds.

        Returns
        -------
        attributes : dict
            Of an estimator.
        """
        if self.folds is None or len(self.folds[1].rows) == 1:
            return {}
        data, ranks = self.data, self.data.ranks
        rows, given = data.rows, data.given
        held_out = self._held_out(pooled)
        recalibrated = held_out.recalibrated(model)
        of_unique = held_out.log_prob(recalibrated, rows.X, rows.y, rows.positions)
        log_density = of_unique[rows.group]
        is_unused = rows.group < 0  # rows of weight zero trained no network
        if is_unused.any():
            log_density[is_unused] = model.log_prob(
                given.X[is_unused], given.y[is_unused]
            )
        share = given.weight.sum() / float(ranks.sum(given.weight.sum()))
        score = ranks.sum(share * weighted_mean(log_density, given.weight))
        scores = None
        if data.outputs.size == 1 and not data.has_intervals:
            levels = self._levels(model, held_out, recalibrated)
            scores = HeldOutScores.of(levels, rows.weight, rows.codes)
        of_given = held_out.of_rows(rows.group)
        return {
            "oof_log_density_": log_density,
            "oof_score_": float(score),
            "_out_of_fold": OutOfFold(of_given, digest_of_rows(given.X), scores),
        }

    def _levels(
        self, model: ConditionalModel, held_out: HeldOut, recalibrated: ConditionalModel
    ) -> NDArray[np.float64]:
        """Compute F(y) of each unique row under a fit without one row as given, (m,).

        Of equal rows, the others stay. F is taken to be linear in the weight that the
        row has in the fit (an infinitesimal jackknife), between that of the networks
        which held it out and that of all.
        """
        rows = self.data.rows
        levels = held_out.levels(recalibrated, rows.X, rows.y.points, rows.positions)
        if rows.codes is not None:  # no row of a new group has been seen
            return levels
        is_used = rows.group >= 0
        group, weight = rows.group[is_used], self.data.given.weight[is_used]
        # The share that a copy has in the weight of its row, on average over weight.
        share = np.bincount(group, np.square(weight / rows.weight[group]))
        copied = np.flatnonzero(np.bincount(group) > 1)
        if len(copied):
            of_all = model.levels(rows.X[rows.positions[copied]], rows.y.points[copied])
            levels[copied] = of_all + share[copied] * (levels[copied] - of_all)
        return levels

    def _held_out(self, pooled: PooledNetworks) -> HeldOut:
        """Describe which networks held out each unique row, and what they see of it."""
        assert self.folds is not None
        index, counts = self.folds[1]
        fold = np.zeros(len(self.data.rows.y), dtype=np.int8)
        for number, (of_fold, is_row) in enumerate(zip(index, counts, strict=True)):
            fold[of_fold[is_row].numpy()] = number
        builder, every_row = self.portfolio.builder, np.arange(len(fold))
        columns = {
            parts: builder.view_columns.of_rows(parts, builder.n_held_out)[
                fold, every_row
            ]
            for parts in {*pooled.views} - {()}
        }
        changes = zip(pooled.of_fold, pooled.of_all, strict=True)
        return HeldOut(
            fold,
            len(index),
            {parts: values.float().numpy() for parts, values in columns.items()},
            np.array([of_fold.after(of_all) for of_fold, of_all in changes]),
        )

    def _note_unfinished(self) -> None:
        """Note a constant learning rate that was still making progress at the end.

        A schedule that ends at zero has converged.
        """
        settings = self.data.settings
        ran_out = self.portfolio.stale < settings.n_iter_no_change
        if ran_out and LEARNING_RATES[settings.learning_rate](1.0) > 0:
            self.notices.append(
                Notice(
                    f"Training stopped at max_iter={settings.max_iter} before the "
                    "score stopped improving. Raise max_iter, or use "
                    "learning_rate='cosine'.",
                    ConvergenceWarning,
                )
            )

    # -- state -------------------------------------------------------------------

    @cached_property
    def fingerprints(self) -> dict[str, str]:
        """Digests of all that determines the fit; they read all rows, on request."""
        return self.data.fingerprints()

    def state(self) -> dict[str, NDArray[Any]]:
        """Copy all that changes from epoch to epoch, of all ranks."""
        state = self.portfolio.state() | {
            "seed": self.seed,
            "losses": self.history.losses,
            "scores": self.history.scores,
        }
        return {name: np.array(item) for name, item in state.items()}

    def load(self, state: Mapping[str, NDArray[Any]]) -> None:
        """Continue from a `state`; the result has the bits of an uninterrupted fit.

        With another number of ranks, the remaining batches differ.
        """
        if int(state["seed"]) != self.seed:
            self._reset(int(state["seed"]))
        self.portfolio.load(state)
        self.history.losses = state["losses"].tolist()
        self.history.scores = state["scores"].tolist()


def _divergence() -> Notice:
    return Notice(
        f"Training diverged, and did so again at {ROLLBACK_RATE**MOST_ROLLBACKS:.2g} "
        "of the learning rate; the best weights before are kept. Lower "
        "learning_rate_init, raise reg_covar, or look for outliers in X and y.",
        ConvergenceWarning,
    )


# -- callbacks -----------------------------------------------------------------------


@contextmanager
def epoch_task(
    session: FitSession,
    feature_attributes: dict[str, Any],
    task: Any,
    hooks: dict[str, Any],
) -> Iterator[None]:
    """Call scikit-learn's callbacks before and after an epoch; each can stop the fit.

    Parameters
    ----------
    session : FitSession
    feature_attributes : dict
        Attributes that describe the features, for callbacks that ask for a fitted
        estimator.
    task : CallbackContext
        Of the fit.
    hooks : dict
        Arguments of all hooks.
    """

    def attributes() -> dict[str, Any]:
        model = session.preview()
        return feature_attributes | model.attributes() | {"_model": model}

    hooks = hooks | {"reconstruction_attributes": attributes}
    epoch = task.subcontext(task_name="epoch").call_on_fit_task_begin(**hooks)
    yield
    if epoch.call_on_fit_task_end(**hooks):
        session.stop()
