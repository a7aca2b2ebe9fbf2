"""The one training loop: batches, step, clipping, schedule, early stopping."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.exceptions import ConvergenceWarning
from torch import Tensor

from skmdn._rows import Subset
from skmdn.nn import MixtureDensityNetwork, mixture_nll, mixture_nll_bound

__all__ = ["History", "MemberRows", "Trainer", "TrainingSettings", "train"]

# Rows of one pass through the network while validating.
EVALUATION_ROWS = 4096

# Factor of the initial learning rate when a share of the training is done.
LEARNING_RATES: dict[str, Callable[[float], float]] = {
    "constant": lambda done: 1.0,
    "cosine": lambda done: 0.5 * (1 + math.cos(math.pi * done)),
}

Moments = dict[str, NDArray]


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

    Shapes: X (n, n_features), y (n, d), index and weight (n_members, n_used).
    Weights have mean one for each member, so that a batch's mean is unbiased.
    """

    X: Tensor
    y: Tensor
    index: Tensor
    weight: Tensor

    @classmethod
    def of(cls, X: Tensor, y: Tensor, weight: Tensor, subset: Subset) -> MemberRows:
        used = weight[subset.rows] * subset.counts
        used = used * (used.shape[1] / used.sum(1, keepdim=True))
        return cls(X, y, subset.rows.to(X.device), used.to(X))

    def take(self, columns: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """X, y and weight of some positions (n_members, b) in each member's list."""
        rows = self.index.gather(1, columns)
        return self.X[rows], self.y[rows], self.weight.gather(1, columns)


@dataclass
class History:
    """Mean training loss and validation score of each epoch and member, in nats."""

    losses: list[NDArray[np.float64]] = field(default_factory=list)
    scores: list[NDArray[np.float64]] = field(default_factory=list)
    best_scores: NDArray[np.float64] = field(default_factory=lambda: np.empty(0))

    def progress(self) -> str:
        """One line about the last epoch, as means over the active members."""
        line = f"Iteration {len(self.losses)}, loss = {np.nanmean(self.losses[-1]):.6f}"
        if self.scores:
            line += f", validation score = {np.nanmean(self.scores[-1]):.6f}"
        return line


class FlatParameters:
    """A network's parameters as views of one (n_members, size) buffer.

    Clipping, decay, the best weights of each member and the optimiser then work on
    one tensor. Matrices come first: only they are decayed.
    """

    def __init__(self, network: MixtureDensityNetwork) -> None:
        self.views = sorted(network.parameters(), key=lambda p: p.shape[1] == 1)
        self.values = torch.cat([p.detach().flatten(1) for p in self.views], dim=1)
        self.gradient = torch.zeros_like(self.values)
        self.values.grad = self.gradient
        self.n_matrix = sum(p[0].numel() for p in self.views if p.shape[1] > 1)
        start = 0
        for parameter in self.views:
            columns = slice(start, start := start + parameter[0].numel())
            parameter.data = self.values[:, columns].view_as(parameter)

    def differentiate(self, loss: Tensor) -> None:
        """Write the gradient of a loss into the gradient of the buffer."""
        gradients = torch.autograd.grad(loss, self.views)
        torch.cat([g.flatten(1) for g in gradients], dim=1, out=self.gradient)

    def clip_(self, max_norm: float | None) -> None:
        """Scale each member's gradient to at most max_norm; drop non-finite ones."""
        norm = self.gradient.norm(dim=1, keepdim=True)
        scale = torch.ones_like(norm)
        if max_norm is not None:
            scale = (max_norm / norm).clamp(max=1)
        self.gradient.copy_(torch.where(norm.isfinite(), self.gradient * scale, 0.0))

    def decay_(self, factor: float) -> None:
        self.values[:, : self.n_matrix].mul_(1 - factor)


class Trainer:
    """A network, its optimiser and its source of randomness."""

    def __init__(
        self,
        network: MixtureDensityNetwork,
        settings: TrainingSettings,
        generator: torch.Generator,
        moments: Moments | None = None,
    ) -> None:
        self.network = network
        self.settings = settings
        self.generator = network.generator = generator
        self.parameters = FlatParameters(network)
        self.optimizer = torch.optim.Adam(
            [self.parameters.values], lr=settings.learning_rate_init, fused=True
        )
        if moments is not None:
            self.optimizer.state[self.parameters.values] = {
                name: torch.tensor(moment, device=self.device)
                for name, moment in moments.items()
            }

    def moments(self) -> Moments:
        """State of the optimiser as arrays, from which a later one continues."""
        state = self.optimizer.state[self.parameters.values]
        return {name: moment.cpu().numpy() for name, moment in state.items()}

    @property
    def device(self) -> torch.device:
        return self.parameters.values.device

    def run_epoch(self, rows: MemberRows, iteration: int) -> Tensor:
        """Pass once over the rows; return each member's mean loss, (n_members,)."""
        self.network.train()
        warming_up = iteration < self.settings.warmup_iter
        objective = mixture_nll_bound if warming_up else mixture_nll
        total = torch.zeros(self.network.n_members, device=self.device)
        batches = self._batches(rows.index)
        for position, columns in enumerate(batches):
            done = (iteration + position / len(batches)) / self.settings.max_iter
            total += self._step(objective, *rows.take(columns), done=min(done, 1.0))
        return total / rows.index.shape[1]

    def _batches(self, index: Tensor) -> tuple[Tensor, ...]:
        """Cut each member's rows, in an order of its own, into equal batches."""
        n_members, n_rows = index.shape
        if self.settings.shuffle:
            keys = torch.rand(
                index.shape, generator=self.generator, device=index.device
            )
            order = keys.argsort(dim=1)
        else:
            order = torch.arange(n_rows, device=index.device).expand(n_members, -1)
        return order.tensor_split(math.ceil(n_rows / self.settings.batch_size), dim=1)

    def _step(
        self, objective: Callable, X: Tensor, y: Tensor, weight: Tensor, done: float
    ) -> Tensor:
        """Take one step; return each member's loss summed over the batch."""
        settings = self.settings
        X = self._perturbed(X, settings.input_noise)
        y = self._perturbed(y, settings.target_noise)
        losses = weight * objective(*self.network(X), y)
        # Members share no parameter: the gradient of the sum is each one's own.
        self.parameters.differentiate(losses.mean(dim=1).sum())
        rate = settings.learning_rate_init * LEARNING_RATES[settings.learning_rate](
            done
        )
        self.parameters.clip_(settings.max_grad_norm)
        self.parameters.decay_(rate * settings.alpha)
        self.optimizer.param_groups[0]["lr"] = rate
        self.optimizer.step()
        return losses.detach().sum(dim=1)

    def _perturbed(self, tensor: Tensor, scale: float) -> Tensor:
        """Noise regularisation (Rothfuss et al. 2019): new noise at every step."""
        if scale == 0:
            return tensor
        noise = torch.empty_like(tensor).normal_(generator=self.generator)
        return tensor + scale * noise


@torch.no_grad()
def evaluate(network: MixtureDensityNetwork, rows: MemberRows) -> NDArray[np.float64]:
    """Weighted mean log-likelihood of each member on its rows, (n_members,)."""
    network.eval()
    n_members, n_rows = rows.index.shape
    total = torch.zeros(n_members, dtype=torch.float64, device=rows.X.device)
    columns = torch.arange(n_rows, device=rows.X.device).expand(n_members, -1)
    for part in columns.split(EVALUATION_ROWS, dim=1):
        X, y, weight = rows.take(part)
        log_weights, means, factors = network(X)
        nll = mixture_nll(log_weights, means, factors, y)
        # A padded row has weight zero, but may have an infinite density.
        total -= torch.where(weight > 0, weight * nll, 0.0).sum(dim=1)
    return (total / n_rows).cpu().numpy()


class EarlyStopping:
    """Best score, best weights and patience of each member.

    Scores are compared in nats, absolutely: a relative rule takes a worse loss for
    progress where it is negative.
    """

    def __init__(self, scores: NDArray[np.float64], values: Tensor) -> None:
        self.best_scores = np.nan_to_num(scores, nan=-np.inf)
        self.best_values = values.clone()
        self.stale = np.zeros(len(scores), dtype=int)

    def is_active(self, patience: int) -> NDArray[np.bool_]:
        return self.stale < patience

    def update(
        self,
        scores: NDArray[np.float64],
        values: Tensor,
        settings: TrainingSettings,
        *,
        keep_last: bool,
    ) -> None:
        """Take in one epoch; members that have stopped are left as they are."""
        active = self.is_active(settings.n_iter_no_change)
        progressed = scores > self.best_scores + settings.tol
        improved = active & (scores > self.best_scores)
        kept = torch.from_numpy(active if keep_last else improved).to(values.device)
        self.best_values = torch.where(kept[:, None], values, self.best_values)
        self.best_scores = np.where(improved, scores, self.best_scores)
        self.stale = np.where(active & progressed, 0, self.stale + active)


def train(
    trainer: Trainer, rows: MemberRows, validation: MemberRows | None, offset: float
) -> History:
    """Train until every member has stopped; leave each at its best weights.

    With validation rows a member's score is its mean log-likelihood there, and the
    best weights are kept, those before the first epoch included; without, it is
    minus the training loss, and the last weights are kept. `offset` turns losses
    into nats in the unit of y.
    """
    settings, network = trainer.settings, trainer.network
    values = trainer.parameters.values
    scores = np.full(network.n_members, -np.inf)
    if validation is not None:
        scores = evaluate(network, validation)
    stopping = EarlyStopping(scores, values)
    history = History()
    try:
        for iteration in range(settings.max_iter):
            active = stopping.is_active(settings.n_iter_no_change)
            if not active.any():
                break
            losses = trainer.run_epoch(rows, iteration).double().cpu().numpy()
            scores = -losses if validation is None else evaluate(network, validation)
            if iteration >= settings.warmup_iter:
                stopping.update(scores, values, settings, keep_last=validation is None)
            history.losses.append(np.where(active, losses + offset, np.nan))
            if validation is not None:
                history.scores.append(np.where(active, scores - offset, np.nan))
            if settings.verbose:
                print(history.progress())
        else:
            _warn_unless_annealed(settings)
    except KeyboardInterrupt:
        warnings.warn(
            "Training was interrupted; the best weights so far are kept.",
            UserWarning,
            stacklevel=4,
        )
    values.copy_(stopping.best_values)
    history.best_scores = stopping.best_scores - offset
    return history


def _warn_unless_annealed(settings: TrainingSettings) -> None:
    """A schedule that ends at zero has converged; a constant rate may not have."""
    if LEARNING_RATES[settings.learning_rate](1.0) > 0:
        warnings.warn(
            f"Training stopped at max_iter={settings.max_iter} before the score "
            "stopped improving. Raise max_iter, or use learning_rate='cosine'.",
            ConvergenceWarning,
            stacklevel=5,
        )
