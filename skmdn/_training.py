"""The one training loop: batches, step, clipping, schedule, early stopping."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import torch
from numpy.typing import NDArray
from sklearn.exceptions import ConvergenceWarning
from torch import Tensor

from skmdn._calibration import Calibration, Terms, calibrate, extrapolate
from skmdn._gradient import nll_and_gradient
from skmdn._rows import Subset
from skmdn.nn import MixtureDensityNetwork, mixture_nll, mixture_nll_bound

__all__ = ["HeldOut", "History", "MemberRows", "Trainer", "TrainingSettings", "train"]

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

    def batches(
        self, order: Tensor, n_batches: int
    ) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """X, y and weight in equal batches, for an order of each member's list."""
        index, weight = self.index.gather(1, order), self.weight.gather(1, order)
        for rows, weights in zip(
            index.tensor_split(n_batches, dim=1),
            weight.tensor_split(n_batches, dim=1),
            strict=True,
        ):
            # Several times faster than indexing with a matrix.
            flat = rows.flatten()
            X, y = self.X.index_select(0, flat), self.y.index_select(0, flat)
            yield X.unflatten(0, rows.shape), y.unflatten(0, rows.shape), weights


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
    matrices come first: only they are decayed.
    """

    def __init__(self, network: MixtureDensityNetwork) -> None:
        named = list(network.named_parameters())
        matrices = [p for name, p in named if name.endswith("weight")]
        others = [p for name, p in named if not name.endswith("weight")]
        self.views = matrices + others
        self.values = torch.cat([p.detach().flatten(1) for p in self.views], dim=1)
        self.gradient = torch.zeros_like(self.values)
        self.values.grad = self.gradient
        self.n_matrix = sum(p[0].numel() for p in matrices)
        start = 0
        for parameter in self.views:
            columns = slice(start, start := start + parameter[0].numel())
            parameter.data = self.values[:, columns].view_as(parameter)
            parameter.grad = self.gradient[:, columns].view_as(parameter)

    def differentiate(self, loss: Tensor) -> None:
        """Write the gradient of a loss by autograd."""
        gradients = torch.autograd.grad(loss, self.views)
        for parameter, gradient in zip(self.views, gradients, strict=True):
            assert parameter.grad is not None
            parameter.grad.copy_(gradient)

    def clip_(self, max_norm: float | None) -> None:
        """Scale each member's gradient to at most max_norm; drop non-finite ones."""
        norm = self.gradient.norm(dim=1, keepdim=True)
        scale = norm.isfinite().to(norm)
        if max_norm is not None:
            scale *= (max_norm / norm).clamp(max=1)
        # Infinity times zero is NaN: one pass without a branch, so without a sync.
        self.gradient.mul_(scale).nan_to_num_(0.0, 0.0, 0.0)

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
        n_batches = math.ceil(rows.index.shape[1] / self.settings.batch_size)
        batches = rows.batches(self._order(rows.index), n_batches)
        for position, batch in enumerate(batches):
            done = (iteration + position / n_batches) / self.settings.max_iter
            total += self._step(objective, *batch, done=min(done, 1.0))
        return total / rows.index.shape[1]

    def _order(self, index: Tensor) -> Tensor:
        """Order of each member's list in this epoch, (n_members, n)."""
        n_members, n_rows = index.shape
        if not self.settings.shuffle:
            return torch.arange(n_rows, device=index.device).expand_as(index)
        # Sorting random keys would give all at once, in thirty times the time.
        orders = [
            torch.randperm(n_rows, generator=self.generator, device=index.device)
            for _ in range(n_members)
        ]
        return torch.stack(orders)

    def _step(
        self, objective: Callable, X: Tensor, y: Tensor, weight: Tensor, done: float
    ) -> Tensor:
        """Take one step; return each member's loss summed over the batch."""
        settings, parameters = self.settings, self.parameters
        X = self._perturbed(X, settings.input_noise)
        y = self._perturbed(y, settings.target_noise)
        # Members share no parameter: the gradient of the sum is each one's own.
        if objective is mixture_nll and self.network.dropout == 0:
            losses = nll_and_gradient(self.network, X, y, weight)
        else:
            losses = weight * objective(*self.network(X), y)
            parameters.differentiate(losses.mean(dim=1).sum())
        rate = settings.learning_rate_init * LEARNING_RATES[settings.learning_rate](
            done
        )
        parameters.clip_(settings.max_grad_norm)
        parameters.decay_(rate * settings.alpha)
        self.optimizer.param_groups[0]["lr"] = rate
        self.optimizer.step()
        return losses.detach().sum(dim=1)

    def _perturbed(self, tensor: Tensor, scale: float) -> Tensor:
        """Noise regularisation (Rothfuss et al. 2019): new noise at every step."""
        if scale == 0:
            return tensor
        noise = torch.empty_like(tensor).normal_(generator=self.generator)
        return tensor + scale * noise


@dataclass(frozen=True)
class HeldOut:
    """Held-out rows, whose list number f belongs to the members m with m % n_folds = f.

    Shapes: X (n, n_features), y (n, d), index and weight (n_folds, n_held_out).
    """

    X: Tensor
    y: Tensor
    index: Tensor
    weight: Tensor

    @classmethod
    def of(cls, X: Tensor, y: Tensor, weight: Tensor, subset: Subset) -> HeldOut:
        return cls(X, y, subset.rows.to(X.device), weight[subset.rows] * subset.counts)

    def score(
        self, network: MixtureDensityNetwork, start: Calibration
    ) -> tuple[Calibration, float]:
        """Calibrate the pooled density of the members that held each row out.

        Returns
        -------
        calibration : Calibration
        score : float
            Weighted mean log-likelihood under it, in nats.
        """
        return calibrate(self._terms(network), self.weight, self.y.shape[1], start)

    def calibrations(
        self, network: MixtureDensityNetwork
    ) -> tuple[Calibration, Calibration]:
        """Calibrations of the members that share a fold, and of all members."""
        n_members, n_folds = network.n_members, len(self.index)
        terms, n_outputs = self._terms(network), self.y.shape[1]
        pooled, _ = calibrate(terms, self.weight, n_outputs, Calibration())
        if n_folds == n_members:
            return pooled, pooled
        weight = self.weight[torch.arange(n_members) % n_folds]
        alone, _ = calibrate(terms, weight, n_outputs, pooled)
        return pooled, extrapolate(alone, pooled, n_members / n_folds, n_members)

    @torch.no_grad()
    def _terms(self, network: MixtureDensityNetwork) -> Terms:
        network.eval()
        fold = torch.arange(network.n_members, device=self.X.device) % len(self.index)
        parts = [
            Terms.of(network(self.X[part]), self.y[part])
            for part in self.index[fold].split(EVALUATION_ROWS, dim=1)
        ]
        return Terms(
            *(torch.cat(part, dim=1).cpu() for part in zip(*parts, strict=True))
        )


class Best:
    """The best epoch so far, and for how many the score has not progressed.

    Scores are compared in nats, absolutely: a relative rule takes a worse loss for
    progress where it is negative.
    """

    def __init__(self, score: float, values: Tensor) -> None:
        self.score = score
        self.values = values.clone()
        self.stale = 0

    def update(
        self, score: float, values: Tensor, tol: float, *, keep_last: bool
    ) -> None:
        """Take in one epoch."""
        self.stale = 0 if score > self.score + tol else self.stale + 1
        if score > self.score or keep_last:
            self.values.copy_(values)
        self.score = max(self.score, score)


def train(
    trainer: Trainer, rows: MemberRows, held_out: HeldOut | None, offset: float
) -> History:
    """Train until the score stops progressing; leave the best weights.

    With held-out rows the score is their mean log-likelihood under the pooled and
    calibrated density of the members that held them out, and the best weights are
    kept, those before the first epoch included; without, it is minus the training
    loss, and the last weights are kept. `offset` turns losses into nats in the unit
    of y.
    """
    settings, network = trainer.settings, trainer.network
    values = trainer.parameters.values
    calibration, score = Calibration(), -math.inf
    if held_out is not None:
        calibration, score = held_out.score(network, calibration)
    best = Best(score, values)
    history = History()
    try:
        for iteration in range(settings.max_iter):
            loss = float(trainer.run_epoch(rows, iteration).mean())
            score = -loss
            if held_out is not None:
                calibration, score = held_out.score(network, calibration)
                history.scores.append(score - offset)
            history.losses.append(loss + offset)
            if settings.verbose:
                print(history.progress())
            if iteration >= settings.warmup_iter:
                best.update(score, values, settings.tol, keep_last=held_out is None)
            if best.stale >= settings.n_iter_no_change:
                break
        else:
            _warn_unless_annealed(settings)
    except KeyboardInterrupt:
        warnings.warn(
            "Training was interrupted; the best weights so far are kept.",
            UserWarning,
            stacklevel=4,
        )
    values.copy_(best.values)
    history.best_score = best.score - offset
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
