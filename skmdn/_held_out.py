"""The rows of a fit under the networks that held them out."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from copy import deepcopy
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from skmdn import _mixture
from skmdn._conformal import HeldOutScores
from skmdn._data.folds import RowLists
from skmdn._data.matrices import LazyMatrix, take_rows
from skmdn._data.rows import hash_rows
from skmdn._data.targets import Targets
from skmdn._mixture import Mixture, univariate
from skmdn._model import ConditionalModel
from skmdn._training.pooling import Pooling
from skmdn._training.stack import member_folds
from skmdn._utils.arrays import inference, to_numpy, to_tensor
from skmdn._utils.persistence import digest
from skmdn.nn.likelihood import Calibration
from skmdn.nn.network import MixtureDensityNetwork

# Numbers of the mixtures that are computed together.
BLOCK_NUMBERS = 2**24


@dataclass(frozen=True)
class HeldOut:
    """Which networks of a model held out each row of its fit, and what they see of it.

    Parameters
    ----------
    fold : ndarray of shape (n,)
        Number of the fold that each row is in; -1 if it trained no network.
    n_folds : int
    columns : mapping of ndarray (n, n_columns)
        Of each row, the columns of views that the networks of its fold see, by parts
        of views.
    calibrations : ndarray of shape (n_members, 2)
        What changes the calibration of each member in the pool of all to that in the
        pool of those that hold out the same fold.
    """

    fold: NDArray[np.int8]
    n_folds: int
    columns: Mapping[tuple[str, ...], NDArray[np.float32]]
    calibrations: NDArray[np.float64]

    def of_rows(self, index: NDArray[np.intp]) -> HeldOut:
        """Return the same for rows of an index, -1 for those that trained no network.

        They are given the columns of some other row, which are not used.
        """
        columns = {parts: values[index] for parts, values in self.columns.items()}
        fold = np.where(index < 0, -1, self.fold[index]).astype(np.int8)
        return replace(self, fold=fold, columns=columns)

    def pooling(self, model: ConditionalModel) -> Pooling:
        """Return which members hold out each fold, and their weights."""
        folds = [member_folds(sizes, self.n_folds) for sizes in model.sizes]
        weights = model.pool.log_weights.exp()
        return Pooling.of(torch.cat(folds), self.n_folds, weights)

    def recalibrated(self, model: ConditionalModel) -> ConditionalModel:
        """Return a model whose members are calibrated for the pools of folds."""
        pool = deepcopy(model.pool)
        pool.calibrate_([Calibration(*pair) for pair in self.calibrations.tolist()])
        return replace(model, pool=pool)

    @inference()
    def log_prob(
        self, model: ConditionalModel, X: Any, y: Targets, index: NDArray[np.intp]
    ) -> NDArray[np.float64]:
        """Compute the log-likelihood of rows that trained networks, (n,), in nats.

        The model is a `recalibrated` one, and row i is ``X[index[i]]``.
        """
        targets = model.target.standardise(y)
        pooling = self.pooling(model)
        log_prob = torch.empty(len(y), dtype=torch.float64, device="cpu")
        for block in self._blocks(model, X, index, model.pool.floats_per_row):
            parts = [
                network.terms(x, take_rows(targets, index)).log_density()
                for network, x, index in block.inputs
            ]
            pooled = pooling.pool(torch.cat(parts))
            log_prob[block.rows[block.counts]] = pooled[block.counts]
        return to_numpy(log_prob) + model.target.offset(y)

    @inference()
    def mixture(self, model: ConditionalModel, X: Any) -> Mixture:
        """Compute the mixtures over latent targets of all rows of the fit.

        The model is the one that predicts. Rows that trained no network have its
        mixtures. Some have fewer components than others: the rest has no weight.
        """
        without_fold = np.flatnonzero(self.fold < 0)
        of_all = model.mixture(X[without_fold]) if len(without_fold) else None
        recalibrated, every_row = self.recalibrated(model), np.arange(len(self.fold))
        whole: Mixture | None = None
        for rows, part in self._mixtures(recalibrated, X, every_row):
            if whole is None:
                n_components = (part if of_all is None else of_all).means.shape[1]
                whole = _without_weight(part, len(every_row), n_components)
            _fill(whole, rows, part)
        assert whole is not None  # a fit has rows
        if of_all is not None:
            _fill(whole, torch.from_numpy(without_fold), of_all)
        return whole

    @inference()
    def levels(
        self,
        model: ConditionalModel,
        X: Any,
        points: NDArray[np.float64],
        index: NDArray[np.intp],
    ) -> NDArray[np.float64]:
        """Compute the probability of less than each target of one output, (n,).

        Parameters
        ----------
        model, X, index
            As for `log_prob`.
        points : ndarray of shape (n, 1)
            Latent targets.
        """
        levels = torch.empty(len(points), dtype=torch.float64, device="cpu")
        y = torch.from_numpy(points)
        for rows, part in self._mixtures(model, X, index):
            levels[rows] = univariate.cdf(part, y[rows])
        return to_numpy(levels)

    def _mixtures(
        self, model: ConditionalModel, X: Any, index: NDArray[np.intp]
    ) -> Iterator[tuple[Tensor, Mixture]]:
        """Yield rows (m,), and their mixtures over latent targets, within `inference`.

        A decorator would not reach the body of a generator.
        """
        pooling = self.pooling(model)
        shift, scale = map(to_tensor, model.target.scaling[:2])
        for block in self._blocks(model, X, index, model.pool.floats_per_mixture):
            parts = zip(*(network(x) for network, x, _ in block.inputs), strict=True)
            pooled = _pooled(Mixture(*map(torch.cat, parts)), pooling)
            pooled = Mixture(*(part[block.counts] for part in pooled))
            yield block.rows[block.counts], _mixture.rescale(pooled, shift, scale)

    def _blocks(
        self,
        model: ConditionalModel,
        X: Any,
        index: NDArray[np.intp],
        floats_per_row: int,
    ) -> Iterator[_Block]:
        """Yield blocks of the rows of each fold, for the members that held them out."""
        matrix = LazyMatrix(X, index, model.features, torch.float64)
        columns = {k: torch.from_numpy(values) for k, values in self.columns.items()}
        folds = [member_folds(sizes, self.n_folds) for sizes in model.sizes]
        size = max(1, BLOCK_NUMBERS // (8 * floats_per_row))
        rows, counts = self._lists
        for block, is_row in zip(
            rows.split(size, 1), counts.split(size, 1), strict=True
        ):
            inputs = []
            for network, fold, parts in zip(
                model.pool, folds, model.views_of, strict=True
            ):
                of_member = block[fold]
                x = take_rows(matrix, of_member)
                if parts:
                    x = torch.cat([x, columns[parts][of_member].to(x)], dim=-1)
                inputs.append((network, x, of_member))
            yield _Block(block, is_row, inputs)

    @cached_property
    def _lists(self) -> RowLists:
        """The rows of each fold."""
        fold = torch.from_numpy(self.fold)
        lists = [(fold == number).nonzero()[:, 0] for number in range(self.n_folds)]
        rows = torch.nn.utils.rnn.pad_sequence(
            lists, batch_first=True, padding_value=-1
        )
        return RowLists(rows.clamp(min=0), rows >= 0)

    def to_state(self) -> dict[str, Any]:
        """Convert to arrays and builtins."""
        return {
            "fold": self.fold,
            "n_folds": self.n_folds,
            "parts": list(self.columns),
            "columns": list(self.columns.values()),
            "calibrations": self.calibrations,
        }

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> HeldOut:
        """Rebuild it from a state."""
        parts = map(tuple, state["parts"])
        return cls(
            np.array(state["fold"]),
            state["n_folds"],
            dict(zip(parts, map(np.array, state["columns"]), strict=True)),
            np.array(state["calibrations"]),
        )


class OutOfFold(NamedTuple):
    """What is kept of a fit for densities and intervals of held-out rows.

    Parameters
    ----------
    held_out : HeldOut
        Of the rows as given.
    digest : str
        Of their features.
    scores : HeldOutScores or None
        Of the targets, if there is one output and none is an interval.
    """

    held_out: HeldOut
    digest: str
    scores: HeldOutScores | None

    def to_state(self) -> dict[str, Any]:
        """Convert to arrays and builtins."""
        scores = self.scores and self.scores.to_state()
        return {
            "held_out": self.held_out.to_state(),
            "digest": self.digest,
            "scores": scores,
        }

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> OutOfFold:
        """Rebuild it from a state."""
        scores = state["scores"]
        return cls(
            HeldOut.from_state(state["held_out"]),
            state["digest"],
            scores and HeldOutScores.from_state(scores),
        )


def digest_of_rows(X: Any) -> str:
    """Compute a digest of encoded rows in their order."""
    return digest(hash_rows(X, np.arange(X.shape[0])))


class _Block(NamedTuple):
    """Rows (n_folds, m), which of them count, and the inputs of each network.

    An input is the network, the features (n_members, m, width) of the rows that each
    member held out, and the index of these rows (n_members, m).
    """

    rows: Tensor
    counts: Tensor
    inputs: list[tuple[MixtureDensityNetwork, Tensor, Tensor]]


def _without_weight(part: Mixture, n_rows: int, n_components: int) -> Mixture:
    """Return mixtures of components without weight, shaped like those of a part."""
    whole = Mixture(*(p.new_zeros(n_rows, n_components, *p.shape[2:]) for p in part))
    whole.log_weights.fill_(-math.inf)
    whole.precision_factors.diagonal(dim1=-2, dim2=-1).fill_(1.0)
    return whole


def _fill(whole: Mixture, rows: Tensor, part: Mixture) -> None:
    """Write mixtures of some rows into those of all."""
    n_components = part.means.shape[1]
    for target, source in zip(whole, part, strict=True):
        target[rows, :n_components] = source


def _pooled(members: Mixture, pooling: Pooling) -> Mixture:
    """Pool mixtures (n_members, m, K) of members to those of folds (n_folds, m, L)."""
    log_weights, means, factors = members
    log_weights = log_weights + pooling.log_weights[:, None, None].to(log_weights)
    if pooling.members.numel() > len(log_weights):
        log_weights, means, factors = (
            torch.cat([part, part[:1]]) for part in (log_weights, means, factors)
        )
        log_weights[-1] = -math.inf
    parts = (part[pooling.members] for part in (log_weights, means, factors))
    # (n_folds, members of a fold, m, K, ...) -> (n_folds, m, components, ...)
    return Mixture(*(part.transpose(1, 2).flatten(2, 3) for part in parts))
