"""Kinds of networks that compete in a fit, until held-out likelihood decides."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from skmdn._data.folds import RowLists
from skmdn._fit.building import StackBuilder
from skmdn._fit.pooling import (
    KindWeights,
    PooledNetworks,
    pool_best_weights,
    pool_last_weights,
    weights_of_kinds,
)
from skmdn._fit.prepare import FitData
from skmdn._fit.progress import Progress
from skmdn._training.pooling import apportion, stack_weights
from skmdn._training.stack import Contender, Stack

# Held-out log-likelihood that training has to gain over the start, in nats over all
# rows: with few rows, the best of many epochs is better than the start by chance.
TRAINING_COST = 16.0
# Relative to the weight of all kinds: less than any that EM leaves.
SMALLEST_WEIGHT = 1e-9
# Kinds with a view that are kept when kinds are dropped for the first time.
MOST_VIEWED = 2
# Weights after an epoch serve its score only.
EM_STEPS_PER_EPOCH = 10


class Portfolio:
    """Stacks of networks in training, and the choice among their kinds.

    Parameters
    ----------
    data : FitData
    folds : tuple of RowLists, or None
        Rows to train on and to hold out, for each fold.
    generator : torch.Generator
        Source of initial networks, batches and dropout masks.
    progress : Progress
        Told which kinds take part.

    Attributes
    ----------
    stacks : list of Stack
    is_narrow : bool
        Whether the choice is made.
    scores : dict of float
        Score of each kind at the choice, or when it was dropped before, less the cost
        of training.
    """

    def __init__(
        self,
        data: FitData,
        folds: tuple[RowLists, RowLists] | None,
        generator: torch.Generator,
        progress: Progress,
    ) -> None:
        self.data = data
        self.builder = StackBuilder(data, folds, generator)
        self.held_out = self.builder.held_out
        self.cost = TRAINING_COST / self.builder.n_effective
        self.is_narrow = len(self.builder.kinds) == 1 or data.start is not None
        self.scores: dict[str, float] = {}
        kinds = [*self.builder.kinds]
        if data.start is not None:
            kinds = [kind for sizes in data.start.sizes for kind in sizes]
        progress.begin(kinds, is_choice=not self.is_narrow)
        self.stacks = self.builder.first_stacks()
        densities = (item.log_density for item in self.contenders)
        self.score = self._stacked_score([x for x in densities if x is not None])

    @property
    def contenders(self) -> list[Contender]:
        """Kinds in training, stack by stack."""
        return [item for stack in self.stacks for item in stack.contenders]

    @property
    def active(self) -> list[Stack]:
        """Stacks that have not diverged."""
        return [stack for stack in self.stacks if not stack.has_diverged]

    @property
    def is_over(self) -> bool:
        """Whether further epochs are of no use."""
        if self.builder.keeps_start and self.data.start is None:
            return True
        return self.is_narrow and self.stale >= self.data.settings.n_iter_no_change

    @property
    def stale(self) -> int:
        """Number of epochs without progress of any kind."""
        return min(
            (item.best.stale for stack in self.active for item in stack.contenders),
            default=0,
        )

    def in_unit_of_y(self, score: float) -> float:
        """Convert the mean log-likelihood of standardised rows, in nats."""
        return score + self.builder.offset

    # -- epochs ------------------------------------------------------------------

    def update(self, n_epochs: int, score: float) -> float:
        """Record the best weights after an epoch; return the score of the pool.

        Parameters
        ----------
        n_epochs : int
            Epochs run, this one included.
        score : float
            That of an epoch without held-out rows.
        """
        settings, ranks = self.data.settings, self.data.ranks
        is_warm = n_epochs > settings.warmup_iter
        if self.held_out is None:
            for stack in self.active:
                stack.keep(score, settings.tol, is_recorded=is_warm)
            return score
        is_choice = self.is_due(n_epochs)
        n_since = n_epochs % settings.n_epochs_per_score
        if n_since and not is_choice and n_epochs < settings.max_iter:
            return self.score
        log_densities: list[Tensor] = []
        for stack in self.active:
            log_densities += stack.update(
                ranks,
                settings,
                self.cost,
                n_since or settings.n_epochs_per_score,
                is_recorded=is_warm,
            )
        self.score = self._stacked_score(log_densities)
        return self.score

    def _stacked_score(self, log_densities: Sequence[Tensor]) -> float:
        """Compute the score of weighted kinds, after few steps of EM."""
        if self.held_out is None:
            return -math.inf
        weight, ranks = self.held_out.weight, self.data.ranks
        return stack_weights(log_densities, weight, ranks, EM_STEPS_PER_EPOCH)[1]

    # -- choice ------------------------------------------------------------------

    def is_due(self, n_epochs: int) -> bool:
        """Whether kinds can be dropped after an epoch."""
        settings = self.data.settings
        epochs = settings.n_epochs_of_halving, settings.n_epochs_of_choice
        return not self.is_narrow and n_epochs in epochs

    def choose(self, n_epochs: int) -> str:
        """Drop kinds after an epoch where this is due; return a report if there is one.

        This is successive halving (Jamieson and Talwalkar 2016) in two rounds.
        """
        settings = self.data.settings
        if not self.is_due(n_epochs):
            return ""
        if n_epochs < settings.n_epochs_of_choice:
            return self.halve()
        return self.narrow(with_new=n_epochs < settings.max_iter)

    def halve(self) -> str:
        """Drop the kinds with the smallest weights, if more than can go on.

        One kind more is kept than can go on after the choice. Kinds with a view are
        counted separately: they are good early, and would crowd out all others.

        Returns
        -------
        report : str
            What was dropped, and why; empty if nothing was.
        """
        n_kept = self.data.n_members // self.builder.group_size + 1
        contenders, is_viewed = self.contenders, self._is_viewed
        found = self._weights()
        # Few steps cannot show yet that a view gains more than noise.
        weights = np.where(is_viewed, found.best, found.without_views)
        order = self._ranked_weights(weights).argsort()[::-1]
        plain, viewed = order[~is_viewed[order]], order[is_viewed[order]]
        n_viewed = MOST_VIEWED if len(plain) else n_kept
        kept = [*plain[:n_kept], *viewed[:n_viewed]]
        dropped = [item for i, item in enumerate(contenders) if i not in kept]
        if not dropped:
            return ""
        self.scores |= {item.kind: item.best.score for item in dropped}
        self._go_on({contenders[i].kind: contenders[i].n_members for i in kept})
        report = ", ".join(
            f"{item.kind} {self.in_unit_of_y(item.best.score):.4f}" for item in dropped
        )
        return f"Networks that do not go on: {report}"

    def narrow(self, *, with_new: bool = True) -> str:
        """Keep the kinds with the largest weights, and share the members among them.

        Members go on from where they stand. If the share of a kind is larger than the
        number of its members, new ones join them. No kind has more than half of them:
        after so few steps the choice can be wrong.

        Returns
        -------
        report : str
            What was kept, and why.
        """
        builder, contenders = self.builder, self.contenders
        weights = self._weights_of_seats()
        n_groups, n_left = divmod(self.data.n_members, builder.group_size)
        most = n_groups if (weights > 0).sum() == 1 else math.ceil(n_groups / 2)
        groups = apportion(weights, n_groups, most)
        if not with_new:
            groups, n_left = np.minimum(groups, 1), 0
        seats = groups * builder.group_size
        seats[np.argmax(weights)] += n_left
        self.scores |= {item.kind: item.best.score for item in contenders}
        of_kind = {
            item.kind: int(n) for item, n in zip(contenders, seats, strict=True) if n
        }
        report = ", ".join(
            f"{item.kind} {self.in_unit_of_y(item.best.score):.4f} "
            f"(weight {weight:.2f}, {of_kind.get(item.kind, 0)} networks)"
            for item, weight in zip(contenders, weights, strict=True)
        )
        self.is_narrow, builder.n_held_out = True, 1
        self._go_on(of_kind)
        return f"Networks that go on: {report}"

    def _go_on(self, of_kind: Mapping[str, int]) -> None:
        """Continue with the given numbers of members of some kinds."""
        self.stacks = [
            self.builder.continued(stack, sizes)
            for stack in self.stacks
            if (sizes := {k: of_kind[k] for k in stack.sizes if k in of_kind})
        ]

    def _weights_of_seats(self) -> NDArray[np.float64]:
        """Compute the weights by which kinds get networks.

        Of the kinds with a view only the best one gets any, if views gain more than
        noise. What they leave is shared as if there were none: a view makes a network
        good within few steps, so that early weights would leave nothing to kinds that
        learn more slowly.
        """
        found, is_viewed = self._weights(), self._is_viewed
        if is_viewed.all():
            return self._ranked_weights(found.chosen)
        of_views = float(found.chosen[is_viewed].sum())
        weights = self._ranked_weights(found.without_views)
        weights *= max(1 - of_views, SMALLEST_WEIGHT)
        weights[is_viewed] = 0.0
        if of_views > 0:
            weights[np.where(is_viewed, found.chosen, -1.0).argmax()] = of_views
        return weights

    def _ranked_weights(self, weights: NDArray[np.float64]) -> NDArray[np.float64]:
        """Let kinds without weight stand behind, in the order of their scores."""
        scores = np.array([item.best.score for item in self.contenders])
        behind: NDArray[np.float64] = SMALLEST_WEIGHT * np.exp(scores - scores.max())
        return weights + behind

    def _weights(self) -> KindWeights:
        """Compute the weight of each kind if all members were of this kind."""
        log_densities, rows = self._best_log_densities(), self.held_out
        assert rows is not None
        return weights_of_kinds(
            log_densities,
            self._is_viewed,
            rows,
            self.builder.group,
            self.data.ranks,
        )

    @property
    def _is_viewed(self) -> NDArray[np.bool_]:
        """Whether each kind has a view."""
        return np.array([bool(s.views) for s in self.stacks for _ in s.contenders])

    def _best_log_densities(self) -> list[Tensor]:
        """Compute the log-densities of each kind at its best weights."""
        rows, ranks = self.held_out, self.data.ranks
        assert rows is not None
        log_densities: list[Tensor] = []
        for stack in self.stacks:
            present = stack.loop.values.clone()
            stack.loop.values.copy_(stack.best_values())
            terms = stack.terms()
            stack.loop.values.copy_(present)
            for item in stack.contenders:
                assert item.log_density is not None
                score = item.score(terms, rows, ranks)[1]
                item.disagreement = item.find_disagreement(terms, rows, ranks, score)
                gain = item.gain_of_pooling(item.disagreement, self.data.n_members)
                log_densities.append(item.log_density + gain)
        return log_densities

    # -- result ------------------------------------------------------------------

    def pooled(self) -> PooledNetworks:
        """Pool the best weights of all networks, and calibrate them together."""
        if self.held_out is not None:
            return pool_best_weights(
                self.stacks, self.held_out, self.builder.group, self.data.ranks
            )
        start = self.data.start
        weights = None if start is None else start.pool.log_weights.exp()
        return pool_last_weights(self.stacks, weights)

    # -- state -------------------------------------------------------------------

    def state(self) -> dict[str, Any]:
        """Copy all that changes from epoch to epoch, of all ranks."""
        generator = self.builder.training_generator.get_state().numpy()
        state: dict[str, Any] = {
            "generators": self.data.ranks.all_gather(generator),
            "is_narrow": self.is_narrow,
            "kinds": [item.kind for item in self.contenders],
            "n_members": [item.n_members for item in self.contenders],
            "scored_kinds": list(self.scores),
            "scores_of_kinds": list(self.scores.values()),
            "score": self.score,
        }
        for number, stack in enumerate(self.stacks):
            state |= stack.state(f"{number}.")
        return state

    def load(self, state: Mapping[str, NDArray[Any]]) -> None:
        """Continue from a `state`."""
        kinds, numbers = state["kinds"].tolist(), state["n_members"].tolist()
        sizes = dict(zip(kinds, numbers, strict=True))
        is_narrow = bool(state["is_narrow"])
        present = {item.kind: item.n_members for item in self.contenders}
        if sizes != present or is_narrow != self.is_narrow:
            if is_narrow:
                self.is_narrow, self.builder.n_held_out = True, 1
            self.stacks = self.builder.new_stacks(sizes)
        kinds, scores = state["scored_kinds"], state["scores_of_kinds"]
        self.scores = dict(zip(kinds.tolist(), scores.tolist(), strict=True))
        self.score = float(state["score"])
        for number, stack in enumerate(self.stacks):
            stack.load(state, f"{number}.")
        generators, ranks = state["generators"], self.data.ranks
        if len(generators) == ranks.size:
            generator = torch.from_numpy(generators[ranks.rank])
            self.builder.training_generator.set_state(generator)
