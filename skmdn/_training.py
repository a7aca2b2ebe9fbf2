"""The one training loop: batches, step, clipping, schedule, stopping."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.exceptions import ConvergenceWarning
from torch import Tensor
from torch.optim.adam import adam

from skmdn._calibration import Calibration
from skmdn._gradient import Backpropagation
from skmdn._rows import LazyRows, ScaledRows, Subset, take_rows
from skmdn._validation import Best, HeldOut
from skmdn.distributed import ALONE, Ranks
from skmdn.nn import MixtureDensityNetwork

__all__ = [
    "LEARNING_RATES",
    "FlatParameters",
    "History",
    "MemberRows",
    "Trainer",
    "Training",
    "TrainingSettings",
    "train",
    "warn_of_divergence",
]

# Numbers that training gathers ahead of its steps, for all networks together.
GATHERED_NUMBERS = 2**22
# Factor of the initial learning rate when a share of the training is done.
LEARNING_RATES: dict[str, Callable[[float], float]] = {
    "constant": lambda done: 1.0,
    "cosine": lambda done: 0.5 * (1 + math.cos(math.pi * done)),
}

# An epoch that leaves a network's loss or parameters non-finite is undone, and repeated
# at this share of the learning rate; so many times in a fit.
ROLLBACK_RATE = 0.25
MOST_ROLLBACKS = 4

Moments = dict[str, NDArray]
MOMENTS = ("mean", "square", "n_steps")


@dataclass(frozen=True)
class TrainingSettings:
    """Parameters of `MDNRegressor` that steer the loop, resolved."""

    learning_rate_init: float
    learning_rate: str
    alpha: float
    batch_size: int
    max_iter: int
    warmup_iter: int
    tol: float
    n_iter_no_change: int
    max_grad_norm: float | None
    input_noise: float
    target_noise: float
    shuffle: bool
    verbose: bool


@dataclass(frozen=True)
class MemberRows:
    """Standardised rows, and which of them each member uses.

    Shapes: X (n, n_features), y (n, d), index and weight (n_members, n_used). Over
    all ranks the weights of each member add up to one, and its rows to about n_total.
    """

    X: Tensor | LazyRows
    y: Tensor
    index: Tensor
    weight: Tensor
    n_total: int

    @classmethod
    def of(cls, rows: ScaledRows, subset: Subset, ranks: Ranks = ALONE) -> MemberRows:
        # List by list: all at once would take float64 room for every network.
        weights = []
        for listed, counts in zip(*subset, strict=True):
            weight = rows.weight[listed] * counts
            weights.append((weight / ranks.sum_(weight.sum())).to(rows.y))
        index = subset.rows.to(rows.y.device)
        n_total = int(ranks.sum(index.shape[1]))
        return cls(rows.X, rows.y, index, torch.stack(weights), n_total)

    def batches(
        self, order: Tensor, n_batches: int
    ) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """X, y and weight in equal batches, for an order of each member's list.

        The weights of a batch add up to about one, over all ranks.
        """
        n_members, n_used = order.shape
        edges = [n_used * i // n_batches for i in range(n_batches + 1)]
        batches = list(pairwise(edges))
        n_rows = GATHERED_NUMBERS // (n_members * (self.X.shape[1] + self.y.shape[1]))
        n_ahead = max(1, n_rows * n_batches // max(1, n_used))
        for first in range(0, n_batches, n_ahead):
            ahead = batches[first : first + n_ahead]
            positions = order[:, ahead[0][0] : ahead[-1][1]]
            rows = self.index.gather(1, positions)
            X, y = take_rows(self.X, rows), take_rows(self.y, rows)
            weight = self.weight.gather(1, positions) * n_batches
            sizes = [end - begin for begin, end in ahead]
            yield from zip(
                *(part.split(sizes, dim=1) for part in (X, y, weight)), strict=True
            )


@dataclass
class History:
    """Mean training loss and validation score of each epoch, in nats."""

    losses: list[float] = field(default_factory=list)
    scores: list[float] = field(default_factory=list)
    best_score: float = -math.inf

    def progress(self) -> str:
        """One line about the last epoch."""
        line = f"Iteration {len(self.losses)}, loss = {self.losses[-1]:.6f}"
        if self.scores:
            line += f", validation score = {self.scores[-1]:.6f}"
        return line


class FlatParameters:
    """A network's parameters and gradients as views of two (n_members, size) buffers.

    Clipping, decay, the best weights and the optimiser then work on one tensor. The
    matrices come first: only they are decayed. What is not trained has no gradient,
    and so stays as it is.
    """

    def __init__(self, network: MixtureDensityNetwork) -> None:
        matrices: list[list[Tensor]] = []
        others: list[list[Tensor]] = []
        for name, slot in network.slots().items():
            is_decayed = name.endswith("weight") and slot[0].ndim > 1
            is_matrix = is_decayed and slot[0].requires_grad
            (matrices if is_matrix else others).append(slot)
        slots, n_members = matrices + others, network.n_members
        blocks = [
            torch.cat([part.detach().flatten() for part in slot]).view(n_members, -1)
            for slot in slots
        ]
        sizes = [block.shape[1] for block in blocks]
        self.values = torch.cat(blocks, dim=1)
        self.gradient = torch.zeros_like(self.values)
        self.matrices = self.values[:, : sum(sizes[: len(matrices)])]
        columns = self.values.split(sizes, dim=1), self.gradient.split(sizes, dim=1)
        for slot, *both in zip(slots, *columns, strict=True):
            views = (block.split(n_members // len(slot)) for block in both)
            for part, values, gradient in zip(slot, *views, strict=True):
                part.data = values.view_as(part)
                if part.requires_grad:
                    part.grad = gradient.view_as(part)

    def clip_(self, max_norm: float | None) -> None:
        """Scale each member's gradient to at most max_norm; drop non-finite ones."""
        norm = torch.linalg.vector_norm(self.gradient, dim=1, keepdim=True)
        # NaN where the norm is; infinity divides to zero, and times zero is NaN. So
        # one pass without a branch, and so without a sync.
        scale = 1 + 0 * norm if max_norm is None else (max_norm / norm).clamp_(max=1)
        self.gradient.mul_(scale).nan_to_num_(0.0, 0.0, 0.0)

    def decay_(self, factor: float) -> None:
        self.matrices.mul_(1 - factor)


class Trainer:
    """A network, its optimiser and its source of randomness."""

    def __init__(
        self,
        network: MixtureDensityNetwork,
        settings: TrainingSettings,
        generator: torch.Generator,
        moments: Moments | None = None,
        ranks: Ranks = ALONE,
    ) -> None:
        self.network = network
        self.settings = settings
        self.ranks = ranks
        self.generator = network.generator = generator
        self.parameters = FlatParameters(network)
        ranks.first_(self.parameters.values)
        self.backpropagations: dict[int, Backpropagation] = {}
        self.n_rollbacks = 0
        values = self.parameters.values
        self.mean, self.square = torch.zeros_like(values), torch.zeros_like(values)
        self.n_steps = torch.zeros((), device=self.device)
        if moments is not None:
            self.load_moments(moments)

    def moments(self) -> Moments:
        """State of the optimiser as arrays, from which a later one continues."""
        state = self.mean, self.square, self.n_steps
        return {
            name: moment.cpu().numpy()
            for name, moment in zip(MOMENTS, state, strict=True)
        }

    def load_moments(self, moments: Moments) -> None:
        state = self.mean, self.square, self.n_steps
        for name, moment in zip(MOMENTS, state, strict=True):
            moment.copy_(torch.from_numpy(moments[name]))

    @property
    def device(self) -> torch.device:
        return self.parameters.values.device

    def advance(self, rows: MemberRows, iteration: int) -> float | None:
        """Pass once over the rows, again and more slowly where networks diverge.

        Returns
        -------
        loss : float or None
            Mean loss of the networks; None, with the state before the pass, where
            they still diverge after `MOST_ROLLBACKS`.
        """
        state = self.parameters.values, self.mean, self.square, self.n_steps
        saved = [part.clone() for part in state]
        while True:
            loss = float(self.run_epoch(rows, iteration).mean())
            if math.isfinite(loss) and self.parameters.values.isfinite().all():
                return loss
            for part, before in zip(state, saved, strict=True):
                part.copy_(before)
            if self.n_rollbacks == MOST_ROLLBACKS:
                return None
            self.n_rollbacks += 1

    def run_epoch(self, rows: MemberRows, iteration: int) -> Tensor:
        """Pass once over the rows; return each member's mean loss, (n_members,).

        Every rank takes part in every batch, and so in every step, with its share of
        the rows; be it none.
        """
        self.network.train()
        is_bound = iteration < self.settings.warmup_iter
        total = torch.zeros(self.network.n_members, device=self.device)
        n_batches = math.ceil(rows.n_total / self.settings.batch_size)
        batches = rows.batches(self._order(rows.index), n_batches)
        for position, batch in enumerate(batches):
            done = (iteration + position / n_batches) / self.settings.max_iter
            total += self._step(*batch, is_bound=is_bound, done=min(done, 1.0))
        # Processors may differ in the last bit, and after many steps by more.
        self.ranks.first_(self.parameters.values)
        return self.ranks.sum_(total) / n_batches

    def _order(self, index: Tensor) -> Tensor:
        """Order of each member's list in this epoch, (n_members, n)."""
        n_members, n_rows = index.shape
        if not self.settings.shuffle:
            return torch.arange(n_rows, device=index.device).expand_as(index)
        # Sorting random keys would give all at once, in thirty times the time.
        orders = torch.empty(n_members, n_rows, dtype=torch.int64, device=index.device)
        for order in orders:
            torch.randperm(n_rows, generator=self.generator, out=order)
        return orders

    def _step(
        self, X: Tensor, y: Tensor, weight: Tensor, *, is_bound: bool, done: float
    ) -> Tensor:
        """Take one step; return each member's weighted loss over the batch."""
        settings, parameters = self.settings, self.parameters
        X = self._perturbed(X, settings.input_noise)
        y = self._perturbed(y, settings.target_noise)
        losses = self._backpropagation(X.shape[1]).run(X, y, weight, is_bound=is_bound)
        schedule = LEARNING_RATES[settings.learning_rate]
        rate = settings.learning_rate_init * schedule(done)
        rate *= ROLLBACK_RATE**self.n_rollbacks
        self.ranks.sum_(parameters.gradient)
        parameters.clip_(settings.max_grad_norm)
        parameters.decay_(rate * settings.alpha)
        # The optimiser's class does the same in twice the time, for small networks.
        adam(
            [parameters.values],
            [parameters.gradient],
            [self.mean],
            [self.square],
            [],
            [self.n_steps],
            lr=rate,
            beta1=0.9,
            beta2=0.999,
            eps=1e-8,
            weight_decay=0.0,
            amsgrad=False,
            maximize=False,
            fused=True,
        )
        return losses.sum(dim=1)

    def _backpropagation(self, n_rows: int) -> Backpropagation:
        """For batches of a size; those of one list differ by one row at most."""
        if n_rows not in self.backpropagations:
            self.backpropagations[n_rows] = Backpropagation(self.network, n_rows)
        return self.backpropagations[n_rows]

    def _perturbed(self, tensor: Tensor, scale: float) -> Tensor:
        """Noise regularisation (Rothfuss et al. 2019): new noise at every step."""
        if scale == 0:
            return tensor
        noise = torch.empty_like(tensor).normal_(generator=self.generator)
        return tensor + scale * noise


class Training:
    """A run of epochs: what it has reached so far, and whether it goes on.

    With held-out rows the score is their mean log-likelihood under the pooled and
    calibrated density of the members that held them out, and the best weights are
    kept, those before the first epoch included; without, it is minus the training
    loss, and the last weights are kept. `offset` turns losses into nats in the unit
    of y. `identify` gives digests of what the run is determined by besides its state.
    """

    def __init__(
        self,
        trainer: Trainer,
        rows: MemberRows,
        held_out: HeldOut | None,
        offset: float,
        identify: Callable[[], dict[str, str]] = dict,
    ) -> None:
        self.trainer = trainer
        self.rows = rows
        self.held_out = held_out
        self.offset = offset
        self.history = History()
        self.calibration, score = Calibration(), -math.inf
        if held_out is not None:
            self.calibration, score = held_out.score(trainer.network, self.calibration)
        self.best = Best(score, trainer.parameters.values)
        self._identify = identify
        self.is_stopped = False
        self.is_interrupted = False

    @property
    def ranks(self) -> Ranks:
        return self.trainer.ranks

    @cached_property
    def identity(self) -> dict[str, str]:
        """On request only, since it reads all rows."""
        return self._identify()

    @property
    def n_epochs(self) -> int:
        return len(self.history.losses)

    @property
    def is_over(self) -> bool:
        settings = self.trainer.settings
        return (
            self.is_stopped
            or self.n_epochs >= settings.max_iter
            or self.best.stale >= settings.n_iter_no_change
        )

    def run_epoch(self) -> None:
        """Train for one epoch, score it, and note the best weights."""
        trainer, history, settings = self.trainer, self.history, self.trainer.settings
        loss = trainer.advance(self.rows, self.n_epochs)
        if loss is None:
            self.is_stopped = True
            warn_of_divergence(stacklevel=7)
            return
        score = -loss
        if self.held_out is not None:
            self.calibration, score = self.held_out.score(
                trainer.network, self.calibration
            )
            history.scores.append(score - self.offset)
        history.losses.append(loss + self.offset)
        if settings.verbose:
            print(history.progress())
        if self.n_epochs > settings.warmup_iter:
            self.best.update(
                score,
                trainer.parameters.values,
                settings.tol,
                keep_last=self.held_out is None,
            )

    def agree(self) -> None:
        """Stop where any rank was told to."""
        self.is_stopped = bool(self.ranks.max(self.is_stopped))

    def finish(self) -> History:
        """Leave the best weights in the network."""
        self.trainer.parameters.values.copy_(self.best.values)
        self.history.best_score = self.best.score - self.offset
        return self.history

    def state(self) -> dict[str, NDArray]:
        """All that changes from epoch to epoch, of all ranks, as copies."""
        trainer, best, history = self.trainer, self.best, self.history
        state = trainer.moments() | {
            "values": trainer.parameters.values.cpu().numpy(),
            "generators": self.ranks.share(trainer.generator.get_state().numpy()),
            "n_rollbacks": trainer.n_rollbacks,
            "calibration": self.calibration,
            "best_values": best.values.cpu().numpy(),
            "best_score": best.score,
            "stale": best.stale,
            "losses": history.losses,
            "scores": history.scores,
        }
        return {name: np.array(item) for name, item in state.items()}

    def load(self, state: dict[str, NDArray]) -> None:
        """Go on from a `state`, to the bits that the run it is of would reach.

        With another number of ranks, the batches to come are other ones.
        """
        trainer, best, history = self.trainer, self.best, self.history
        trainer.load_moments(state)
        trainer.parameters.values.copy_(torch.from_numpy(state["values"]))
        generators = state["generators"]
        if len(generators) == self.ranks.size:
            ours = torch.from_numpy(generators[self.ranks.rank])
            trainer.generator.set_state(ours)
        trainer.n_rollbacks = int(state["n_rollbacks"])
        self.calibration = Calibration(*state["calibration"].tolist())
        best.values.copy_(torch.from_numpy(state["best_values"]))
        best.score, best.stale = float(state["best_score"]), int(state["stale"])
        history.losses = state["losses"].tolist()
        history.scores = state["scores"].tolist()


def train(
    training: Training,
    each_epoch: Callable[[], AbstractContextManager[None]] = nullcontext,
) -> History:
    """Run epochs until the training is over or interrupted; leave the best weights."""
    try:
        while not training.is_over:
            with each_epoch():
                training.run_epoch()
            training.agree()
    except KeyboardInterrupt:
        if training.ranks.size > 1:  # the others are in the midst of a step
            raise
        training.is_interrupted = True
        warnings.warn(
            "Training was interrupted; the best weights so far are kept.",
            UserWarning,
            stacklevel=6,
        )
    else:
        _warn_unless_annealed(training)
    return training.finish()


def warn_of_divergence(stacklevel: int) -> None:
    warnings.warn(
        f"Training diverged, and did so again at {ROLLBACK_RATE**MOST_ROLLBACKS:.2g} "
        "of the learning rate; the best weights before are kept. Lower "
        "learning_rate_init, raise reg_covar, or look for outliers in X and y.",
        ConvergenceWarning,
        stacklevel=stacklevel + 1,
    )


def _warn_unless_annealed(training: Training) -> None:
    """A schedule that ends at zero has converged; a constant rate may not have."""
    settings = training.trainer.settings
    ran_out = training.best.stale < settings.n_iter_no_change and not (
        training.is_stopped
    )
    if ran_out and LEARNING_RATES[settings.learning_rate](1.0) > 0:
        warnings.warn(
            f"Training stopped at max_iter={settings.max_iter} before the score "
            "stopped improving. Raise max_iter, or use learning_rate='cosine'.",
            ConvergenceWarning,
            stacklevel=7,
        )
