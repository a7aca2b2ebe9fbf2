"""Networks in training: stacks of equal structure, and the kinds in them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from skmdn._data.folds import folds_of
from skmdn._training.auto import TrainingSettings
from skmdn._training.batches import ListedRows
from skmdn._training.calibration import SMALLEST_GAIN, calibrate
from skmdn._training.early_stopping import EarlyStopping, held_out_terms
from skmdn._training.loop import TrainingLoop
from skmdn._training.optimizer import FlatParameters
from skmdn._training.pooling import Pooling
from skmdn.distributed import Ranks
from skmdn.nn.likelihood import Calibration
from skmdn.nn.network import MixtureDensityNetwork
from skmdn.nn.terms import Terms

# Accuracy of the calibration after an epoch, in nats.
EPOCH_GAIN = 1e-5


@dataclass(eq=False)
class Contender:
    """Members of one kind, with their best weights.

    Parameters
    ----------
    kind : str
    members : slice
        Positions in the stack.
    cases : Tensor of shape (n_cases,)
        Positions among the cases of the stack: pairs of a member and a list of rows
        that it holds out.
    pooling : Pooling
        Of the cases over the lists of held-out rows.
    best : EarlyStopping
        Best weights of the members, by their score less the cost of training.
    calibration : Calibration
        Of the last weights that were scored; the next one starts from it.
    log_density : Tensor of shape (n_folds, n), default=None
        Of the held-out rows under the best weights, pooled and calibrated, less the
        cost of training; None before the first score.
    cost : float, default=0.0
        What was subtracted from the best score, in nats: zero for the start.
    disagreement : float, default=0.0
        Log-likelihood that one member lacks to a pool of infinitely many, in nats.
    """

    kind: str
    members: slice
    cases: Tensor
    pooling: Pooling
    best: EarlyStopping
    calibration: Calibration = field(default_factory=Calibration)
    log_density: Tensor | None = None
    cost: float = 0.0
    disagreement: float = 0.0

    @property
    def n_members(self) -> int:
        """Number of members."""
        return int(self.members.stop - self.members.start)

    def score(
        self,
        terms: Terms,
        rows: ListedRows,
        ranks: Ranks,
        smallest_gain: float = SMALLEST_GAIN,
    ) -> tuple[Calibration, float, Tensor]:
        """Calibrate the pooled density of held-out rows.

        Parameters
        ----------
        terms : Terms
            Of the held-out rows, for all cases of the stack.
        rows : ListedRows
        ranks : Ranks
        smallest_gain : float
            See `calibrate`.

        Returns
        -------
        calibration : Calibration
        score : float
            Weighted mean log-likelihood, in nats; higher is better. The floor of the
            variances is scaled with them here, while `MixtureHead.calibrate_` leaves
            it in place: where it acts, the score is slightly too high.
        log_density : Tensor of shape (n_folds, n)
        """
        terms = terms.select(self.cases)
        calibration, score = calibrate(
            terms,
            rows.weight,
            self.pooling,
            self.calibration,
            ranks,
            smallest_gain,
        )
        values = terms.calibrated(calibration).log_density()
        return calibration, score, self.pooling.pool(values)

    def find_disagreement(
        self, terms: Terms, rows: ListedRows, ranks: Ranks, pooled: float
    ) -> float:
        """Compute the log-likelihood that one member lacks to infinitely many, in nats.

        That of a pool of G members is about linear in 1/G; members alone, and those of
        each row, give the slope. Where a row has one member, this is the last value.

        Parameters
        ----------
        terms : Terms
            Of the held-out rows, for all cases of the stack.
        rows : ListedRows
        ranks : Ranks
        pooled : float
            Score of the members that hold out each row.
        """
        n_pooled = self.pooling.effective_size
        if len(rows.index) == 1 or n_pooled <= 1:
            return self.disagreement
        alone, weight = self.pooling.alone(), rows.weight[self.pooling.fold]
        of_kind = terms.select(self.cases)
        score = calibrate(of_kind, weight, alone, self.calibration, ranks)[1]
        return max(0.0, (pooled - score) / (1 - 1 / n_pooled))

    def gain_of_pooling(self, disagreement: float, n_all: int) -> float:
        """Estimate what more members add to those that hold out a row, in nats.

        Without it, kinds would be preferred whose members agree.
        """
        return disagreement * max(0.0, 1 / self.pooling.effective_size - 1 / n_all)

    def charge(self, cost: float) -> None:
        """Subtract the cost of training from a score that does not contain it."""
        assert self.log_density is not None
        self.best.score -= cost
        self.log_density = self.log_density - cost
        self.cost = cost


class Stack:
    """Networks of equal structure that are trained in one batched computation.

    Parameters
    ----------
    loop : TrainingLoop
    sizes : dict of int
        Number of members of each kind, in their order.
    rows : ListedRows
        Rows to train on, for each member.
    held_out : ListedRows or None
        Rows to compare kinds on, for each fold.
    folds : Tensor of shape (n_lists, n_members)
        Lists of rows that each member holds out.
    n_folds : int
        Number of such lists; 1 without held-out rows.
    views : tuple of str, default=()
        Parts of views whose columns the networks use.
    """

    def __init__(
        self,
        loop: TrainingLoop,
        sizes: Mapping[str, int],
        rows: ListedRows,
        held_out: ListedRows | None,
        folds: Tensor,
        n_folds: int,
        views: tuple[str, ...] = (),
    ) -> None:
        self.loop = loop
        self.sizes = dict(sizes)
        self.rows = rows
        self.held_out = held_out
        self.folds = folds
        self.views = views
        self.has_diverged = False
        case = torch.arange(folds.numel(), device="cpu").view_as(folds)
        self.contenders = []
        start = 0
        for kind, size in sizes.items():
            members = slice(start, start + size)
            pooling = Pooling.of(folds[:, members].flatten(), n_folds)
            best = EarlyStopping(loop.values[members])
            cases = case[:, members].flatten()
            self.contenders.append(Contender(kind, members, cases, pooling, best))
            start += size

    def terms(self, network: MixtureDensityNetwork | None = None) -> Terms:
        """Compute the terms of the rows that the members hold out, for all cases.

        Those of another network of the same structure, if given.
        """
        assert self.held_out is not None
        return held_out_terms(network or self.loop.network, self.folds, self.held_out)

    def update(
        self,
        ranks: Ranks,
        settings: TrainingSettings,
        cost: float,
        n_epochs: int = 1,
        *,
        is_recorded: bool = True,
    ) -> list[Tensor]:
        """Score the kinds, and record their weights where they are the best.

        Parameters
        ----------
        ranks : Ranks
        settings : TrainingSettings
        cost : float
            Subtracted from the scores, in nats.
        n_epochs : int, default=1
            Epochs since the last score.
        is_recorded : bool, default=True
            Whether the weights can be kept.

        Returns
        -------
        log_densities : list of Tensor (n_folds, n)
            Of each kind at present.
        """
        assert self.held_out is not None
        terms, values = self.terms(), self.loop.values
        log_densities = []
        for item in self.contenders:
            item.calibration, score, log_density = item.score(
                terms, self.held_out, ranks, EPOCH_GAIN
            )
            log_densities.append(log_density)
            is_best = is_recorded and item.best.update(
                score - cost, values[item.members], settings.tol, n_epochs
            )
            if is_best or item.log_density is None:
                item.log_density, item.cost = log_density - cost, cost
        return log_densities

    def keep(self, score: float, tol: float, *, is_recorded: bool = True) -> None:
        """Keep the last weights; without held-out rows, the score is minus the loss."""
        for item in self.contenders:
            if is_recorded:
                item.best.update(score, self.loop.values[item.members], tol)
            item.best.values.copy_(self.loop.values[item.members])

    def best_values(self) -> Tensor:
        """Return the best weights of all members."""
        return torch.cat([contender.best.values for contender in self.contenders])

    def best_network(self) -> MixtureDensityNetwork:
        """Copy the networks at their best weights."""
        network = MixtureDensityNetwork(**self.loop.network.arguments)
        network.load_state_dict(self.loop.network.state_dict())
        FlatParameters(network).values.copy_(self.best_values())
        network.zero_grad(set_to_none=True)
        network.generator = None
        return network.to(self.loop.values.device)

    def state(self, prefix: str) -> dict[str, Any]:
        """Copy all that changes from epoch to epoch; a prefix begins the names."""
        loop = self.loop
        order = loop.network.head.order
        items = self.contenders
        state = {
            "values": loop.values.cpu().numpy(),
            "best_values": self.best_values().cpu().numpy(),
            "n_rollbacks": loop.n_rollbacks,
            "has_diverged": self.has_diverged,
            "calibrations": [item.calibration for item in items],
            "costs": [item.cost for item in items],
            "disagreements": [item.disagreement for item in items],
            "best_scores": [item.best.score for item in items],
            "stale": [item.best.stale for item in items],
        }
        if order is not None:
            state["order"] = order.cpu().numpy()
        densities = [item.log_density for item in items if item.log_density is not None]
        if densities:
            state["log_densities"] = torch.stack(densities).numpy()
        state = {f"{prefix}{name}": part for name, part in state.items()}
        return state | loop.optimizer.state.to_arrays(prefix)

    def load(self, state: Mapping[str, Any], prefix: str) -> None:
        """Continue from a `state`."""
        loop, order = self.loop, self.loop.network.head.order
        loop.optimizer.state.load_(state, prefix)
        own = {
            name.removeprefix(prefix): part
            for name, part in state.items()
            if name.startswith(prefix)
        }
        loop.values.copy_(torch.from_numpy(own["values"]))
        loop.n_rollbacks = int(own["n_rollbacks"])
        self.has_diverged = bool(own["has_diverged"])
        if order is not None:
            order.copy_(torch.from_numpy(own["order"]))
        best = torch.from_numpy(own["best_values"])
        for number, item in enumerate(self.contenders):
            item.best.values.copy_(best[item.members])
            item.best.score = float(own["best_scores"][number])
            item.best.stale = int(own["stale"][number])
            item.calibration = Calibration(*own["calibrations"][number].tolist())
            item.cost = float(own["costs"][number])
            item.disagreement = float(own["disagreements"][number])
            if "log_densities" in own:
                item.log_density = torch.from_numpy(own["log_densities"][number])


def member_folds(sizes: Mapping[str, int], n_folds: int) -> Tensor:
    """Return the fold that each member holds out, (n_members,)."""
    return torch.cat([folds_of(size, n_folds) for size in sizes.values()])
