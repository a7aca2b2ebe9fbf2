"""A running fit, and its result."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.exceptions import ConvergenceWarning

from skmdn._data.checks import weighted_mean
from skmdn._data.folds import RowLists, TooFewRowsError, every_row, hold_out
from skmdn._data.notices import (
    notices_of_few_rows,
    notices_of_outliers,
    notices_of_scale,
    notices_of_ties,
)
from skmdn._data.rows import Rows, UniqueRows
from skmdn._data.scaling import ScaledRows
from skmdn._fit.prepare import FitData
from skmdn._model import ConditionalModel
from skmdn._training.batches import ListedRows
from skmdn._training.early_stopping import EarlyStopping, HeldOutScore
from skmdn._training.initialization import unconditional_mixtures
from skmdn._training.loop import MOST_ROLLBACKS, ROLLBACK_RATE, TrainingLoop
from skmdn._training.optimizer import LEARNING_RATES, FlatParameters
from skmdn._utils.arrays import draw_seed, make_generator, make_seed
from skmdn._utils.threads import take_share
from skmdn._utils.warn import Notice, warn
from skmdn.nn.likelihood import Calibration
from skmdn.nn.network import MixtureDensityNetwork


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
        if self.scores:
            attributes["validation_scores_"] = np.array(self.scores)
            attributes["best_validation_score_"] = self.best_score
        if self.oof_log_density is not None:
            attributes["oof_log_density_"] = self.oof_log_density
            attributes["oof_score_"] = self.oof_score
        return attributes | self.model.attributes()


class FitSession:
    """A running fit, advanced one epoch at a time.

    With held-out rows the score of an epoch is their mean log-likelihood under the
    pooled and calibrated density of the members that held them out, and the best
    weights are kept, including those before the first epoch; without, it is minus the
    training loss, and the last weights are kept.

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
            self.loop.optimizer.state.load_(optimizer_state)

    def _reset(self, seed: int) -> None:
        data = self.data
        self.seed = seed
        self.notices = self._notices_of_rows()
        # A continued fit draws the same folds again: the same rows remain held out.
        generator = make_generator(seed, stream=len(self._earlier_losses))
        self.folds = self._draw_folds(generator)
        network = self._initial_network(generator)
        if data.device.type != "cpu" or data.ranks.size > 1:
            generator = make_generator(
                draw_seed(generator), stream=data.ranks.rank, device=data.device
            )
        network = network.to(data.device, torch.float32)
        self.loop = TrainingLoop(network, data.settings, generator, data.ranks)
        self.rows, self.held_out = self._listed_rows()
        self.history = History()
        self.calibration, score = Calibration(), -math.inf
        if self.held_out is not None:
            self.calibration, score = self.held_out.score(network, self.calibration)
        self.best = EarlyStopping(self.loop.values, score)
        self.is_stopped = self.has_diverged = False

    # -- start -------------------------------------------------------------------

    def _notices_of_rows(self) -> list[Notice]:
        """Note rows from which a fit cannot learn well."""
        data, rows, ranks = self.data, self.data.rows, self.data.ranks
        is_piece = bool(self._earlier_losses)
        notices = notices_of_few_rows(rows.weight, ranks, is_piece=is_piece)
        if not is_piece:
            floor = data.params["reg_covar"]
            notices += notices_of_ties(rows.y, data.target.scale, floor, ranks)
        scalings = data.features, data.target
        names = data.feature_names, data.outputs.names
        if data.start is None:
            notices += notices_of_outliers(rows, scalings, names, ranks)
        else:
            notices += notices_of_scale(rows, scalings, names, ranks)
        if data.validation is not None:
            rows = _as_unique(data.validation)
            notices += notices_of_scale(
                rows, scalings, names, ranks, is_validation=True
            )
        return notices

    def _draw_folds(
        self, generator: torch.Generator
    ) -> tuple[RowLists, RowLists] | None:
        """Draw the rows to train on and to hold out; None if all rows train."""
        data, params = self.data, self.data.params
        if not params["early_stopping"] or data.validation is not None:
            return None
        n_members, fraction = params["n_estimators"], params["validation_fraction"]
        try:
            return hold_out(data.rows, n_members, fraction, generator, data.ranks)
        except TooFewRowsError as exc:
            self.notices.append(
                Notice(
                    f"{exc} With n_estimators={n_members} and validation_fraction="
                    f"{fraction}, all rows are used for training and none is held out."
                )
            )
            return None

    def _initial_network(self, generator: torch.Generator) -> MixtureDensityNetwork:
        """Copy the networks to continue, or start at the mixture of y alone."""
        data = self.data
        if data.start is not None:
            return deepcopy(data.start.network)
        network = MixtureDensityNetwork(**data.structure, generator=generator)
        # Rounded to float32, as in training, because ties influence the clusters.
        y = data.target.transform(data.rows.y).float().double().numpy()
        network.head.start_at(
            *unconditional_mixtures(
                y,
                data.rows.weight,
                data.structure["n_components"],
                data.structure["n_members"],
                seed=draw_seed(generator, 2**32),
                ranks=data.ranks,
            )
        )
        return network

    def _listed_rows(self) -> tuple[ListedRows, HeldOutScore | None]:
        """Standardise the rows to train on, and those to score if there are any."""
        data, ranks = self.data, self.data.ranks

        def scaled(rows: UniqueRows) -> ScaledRows:
            return ScaledRows.of(
                rows, data.features, data.target, torch.float32, data.device
            )

        rows = scaled(data.rows)
        if self.folds is not None:
            trains, held_out = self.folds
            scored = ListedRows.for_scoring(rows, held_out, ranks)
            return (
                ListedRows.for_training(rows, trains, ranks),
                HeldOutScore(scored, ranks),
            )
        everything = every_row(len(data.rows.y), data.structure["n_members"])
        listed = ListedRows.for_training(rows, everything, ranks)
        if data.validation is None:
            return listed, None
        rows = scaled(_as_unique(data.validation))
        scored = ListedRows.for_scoring(rows, every_row(len(rows.y), 1), ranks)
        return listed, HeldOutScore(scored, ranks)

    # -- epochs ------------------------------------------------------------------

    @property
    def n_epochs(self) -> int:
        """Epochs run, including those of earlier sessions."""
        return len(self._earlier_losses) + len(self.history.losses)

    @property
    def is_over(self) -> bool:
        settings = self.data.settings
        return (
            self.is_stopped
            or self.n_epochs >= settings.max_iter
            or self.best.stale >= settings.n_iter_no_change
        )

    def step(self) -> None:
        """Train for one epoch, score it, and record the best weights.

        If the networks diverge, the session is stopped at the weights before.
        """
        take_share()
        loop, settings = self.loop, self.data.settings
        offset = self.data.target.log_scale
        loss = loop.run_epoch_with_rollback(self.rows, self.n_epochs)
        if loss is None:
            self.stop()
            self.has_diverged = True
            self.notices.append(_divergence())
            return
        score = -loss
        if self.held_out is None:
            self.history.losses.append(loss + offset)
        else:
            self.calibration, score = self.held_out.score(
                loop.network, self.calibration
            )
            self.history.losses.append(loss + offset)
            self.history.scores.append(score - offset)
        if settings.verbose and self.data.ranks.rank == 0:
            print(self.history.last_line(self.n_epochs))
        if self.n_epochs > settings.warmup_iter:
            keep_last = self.held_out is None
            self.best.update(score, loop.values, settings.tol, keep_last=keep_last)
        elif self.held_out is None:
            self.best.values.copy_(loop.values)

    def stop(self) -> None:
        """Run no further epoch."""
        self.is_stopped = True

    def agree(self) -> None:
        """Stop all ranks where one of them was stopped."""
        self.is_stopped = bool(self.data.ranks.max(self.is_stopped))

    # -- result ------------------------------------------------------------------

    def preview(self) -> ConditionalModel:
        """Return the model as if training stopped now."""
        network = MixtureDensityNetwork(**self.data.structure)
        network.load_state_dict(self.loop.network.state_dict())
        FlatParameters(network).values.copy_(self.best.values)
        network.to(self.data.device)
        _, of_all = self._calibrations(network)
        model = self._model(network)
        model.network.head.calibrate_(of_all)
        return model

    def finish(self) -> FitResult:
        """Calibrate the best weights, and score every row by those that held it out."""
        self.loop.values.copy_(self.best.values)
        of_fold, of_all = self._calibrations(self.loop.network)
        optimizer_state = self.loop.optimizer.state.to_arrays()
        model = self._model(self.loop.network)
        head = model.network.head
        head.calibrate_(of_fold)
        held_out_log_prob = None
        if self.folds is not None and len(self.folds[1].rows) > 1:
            held_out_log_prob = model.held_out_log_prob(self.data.rows, self.folds[1])
        head.calibrate_(of_all.after(of_fold))
        log_density, score = self._out_of_fold(model, held_out_log_prob)
        if not self.is_stopped:
            self._note_unfinished()
        return FitResult(
            model,
            self.seed,
            [*self._earlier_losses, *self.history.losses],
            self.history.scores,
            self.best.score - self.data.target.log_scale,
            log_density,
            score,
            optimizer_state,
            self.notices,
        )

    def _calibrations(
        self, network: MixtureDensityNetwork
    ) -> tuple[Calibration, Calibration]:
        """Calibrate the members that share a fold, and all members."""
        if self.held_out is None:
            return Calibration(), Calibration()
        return self.held_out.calibrations(network)

    def _model(self, network: MixtureDensityNetwork) -> ConditionalModel:
        """Move trained networks to the CPU in float64, without gradients."""
        network.generator = None
        network.zero_grad(set_to_none=True)
        network = network.to("cpu", torch.float64).eval()
        data = self.data
        return ConditionalModel(
            network, data.structure, data.features, data.target, data.outputs
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
        ran_out = self.best.stale < settings.n_iter_no_change
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
        loop, best, history = self.loop, self.best, self.history
        generator = loop.generator.get_state().numpy()
        state = loop.optimizer.state.to_arrays() | {
            "seed": self.seed,
            "values": loop.values.cpu().numpy(),
            "generators": self.data.ranks.all_gather(generator),
            "n_rollbacks": loop.n_rollbacks,
            "calibration": self.calibration,
            "best_values": best.values.cpu().numpy(),
            "best_score": best.score,
            "stale": best.stale,
            "losses": history.losses,
            "scores": history.scores,
        }
        return {name: np.array(item) for name, item in state.items()}

    def load(self, state: Mapping[str, NDArray[Any]]) -> None:
        """Continue from a `state`; the result has the bits of an uninterrupted fit.

        With another number of ranks, the remaining batches differ.
        """
        if int(state["seed"]) != self.seed:
            self._reset(int(state["seed"]))
        loop, best, history = self.loop, self.best, self.history
        loop.optimizer.state.load_(state)
        loop.values.copy_(torch.from_numpy(state["values"]))
        generators, ranks = state["generators"], self.data.ranks
        if len(generators) == ranks.size:
            loop.generator.set_state(torch.from_numpy(generators[ranks.rank]))
        loop.n_rollbacks = int(state["n_rollbacks"])
        self.calibration = Calibration(*state["calibration"].tolist())
        best.values.copy_(torch.from_numpy(state["best_values"]))
        best.score, best.stale = float(state["best_score"]), int(state["stale"])
        history.losses = state["losses"].tolist()
        history.scores = state["scores"].tolist()


def _as_unique(rows: Rows) -> UniqueRows:
    """Return rows as they are, without merging equal ones."""
    positions = np.arange(len(rows.y))
    return UniqueRows(rows.X, rows.y, rows.weight, positions, positions)


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
