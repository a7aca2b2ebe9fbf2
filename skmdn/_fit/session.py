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

    def last_line(self, n_epochs: int) -> str:
        """Describe the last of n epochs in one line."""
        line = f"Iteration {n_epochs}, loss = {self.losses[-1]:.6f}"
        if self.scores:
            line += f", validation score = {self.scores[-1]:.6f}"
        return line


@dataclass(frozen=True)
class FitResult:
    """What a fit gives, all values together; see `FitSession.finish`."""

    model: ConditionalModel
    seed: int
    losses: list[float]
    scores: list[float]
    best_score: float
    oof_log_density: NDArray[np.float64] | None
    oof_score: float | None
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
        if self.oof_log_density is not None:
            attributes["oof_log_density_"] = self.oof_log_density
            attributes["oof_score_"] = self.oof_score
        return attributes | self.model.attributes()


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
        self.portfolio = Portfolio(data, self.folds, generator)
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
        scalings = data.features, data.target.scaling
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
    def is_speaking(self) -> bool:
        """Whether this process prints its progress."""
        return self.data.settings.verbose and self.data.ranks.rank == 0

    @property
    def is_over(self) -> bool:
        is_last = self.n_epochs >= self.data.settings.max_iter
        return self.is_stopped or is_last or self.portfolio.is_over

    def step(self) -> None:
        """Train for one epoch, score it, and record the best weights.

        If the networks diverge, the session is stopped at the weights before.
        """
        portfolio = self.portfolio
        if self.is_speaking and not self.history.losses and not portfolio.is_narrow:
            print(f"Kinds that compete: {', '.join(portfolio.builder.kinds)}")
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
        self.history.losses.append(loss - self.data.offset)
        score = portfolio.update(self.n_epochs, -loss)
        if portfolio.held_out is not None:
            self.history.scores.append(portfolio.in_unit_of_y(score))
        if self.is_speaking:
            print(self.history.last_line(self.n_epochs))
        report = portfolio.choose(self.n_epochs)
        if self.is_speaking and report:
            print(report)

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
        model.pool.calibrate_(pooled.of_fold)
        held_out_log_prob = None
        if self.folds is not None and len(self.folds[1].rows) > 1:
            n_held_out = portfolio.builder.n_held_out
            columns = {
                parts: portfolio.builder.view_columns.of_rows(parts, n_held_out)
                for parts in {*pooled.views} - {()}
            }
            held_out_log_prob = model.held_out_log_prob(
                self.data.rows, self.folds[1], columns
            )
        changes = zip(pooled.of_all, pooled.of_fold, strict=True)
        model.pool.calibrate_([after.after(first) for after, first in changes])
        log_density, score = self._out_of_fold(model, held_out_log_prob)
        scores = portfolio.scores | pooled.scores
        if not self.is_stopped:
            self._note_unfinished()
        return FitResult(
            model,
            self.seed,
            [*self._earlier_losses, *self.history.losses],
            self.history.scores,
            portfolio.in_unit_of_y(pooled.score),
            log_density,
            score,
            {k: portfolio.in_unit_of_y(v) for k, v in scores.items()},
            optimizer_state,
            self.notices,
        )

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
        self, model: ConditionalModel, held_out_log_prob: NDArray[np.float64] | None
    ) -> tuple[NDArray[np.float64] | None, float | None]:
        """Return the out-of-fold log-density of each given row, and their mean."""
        if held_out_log_prob is None:
            return None, None
        given, group, ranks = self.data.given, self.data.rows.group, self.data.ranks
        log_density = held_out_log_prob[group]
        is_unused = group < 0  # rows of weight zero trained no network
        if is_unused.any():
            log_density[is_unused] = model.log_prob(
                given.X[is_unused], given.y[is_unused]
            )
        share = given.weight.sum() / float(ranks.sum(given.weight.sum()))
        score = ranks.sum(share * weighted_mean(log_density, given.weight))
        return log_density, float(score)

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
