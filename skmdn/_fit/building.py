"""Networks at the start of their kinds, in stacks that are trained on rows of a fit."""

from __future__ import annotations

import math
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import replace
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray

from skmdn._data.censored import known_ends
from skmdn._data.folds import MAX_FOLDS, RowLists, every_row, folds_of, without_next
from skmdn._data.matrices import Matrix, ScaledRows, ViewedMatrix
from skmdn._data.notices import FEW_ROWS, effective_rows, is_outlier
from skmdn._data.rows import Rows, UniqueRows
from skmdn._data.views import View
from skmdn._data.views.rows import NormalScores, ViewRows
from skmdn._fit.prepare import FitData
from skmdn._fit.views import ViewColumns
from skmdn._training.batches import ListedRows
from skmdn._training.initialization import (
    LinearModels,
    quantile_bins,
    start_at_linear_models,
    unconditional_mixtures,
)
from skmdn._training.kinds import MOST_BINS, Kind, only_kind
from skmdn._training.loop import TrainingLoop
from skmdn._training.optimizer import FlatParameters
from skmdn._training.stack import Stack, member_folds
from skmdn._utils.arrays import draw_seed, make_generator
from skmdn.nn.embeddings import Bins, BinsEmbedding
from skmdn.nn.network import MixtureDensityNetwork


class StackBuilder:
    """Build networks of the kinds of a fit, and list the rows that they use.

    Parameters
    ----------
    data : FitData
    folds : tuple of RowLists, or None
        Rows to train on and to hold out, for each fold.
    generator : torch.Generator
        Source of initial networks, on the CPU; the same on all ranks.

    Attributes
    ----------
    kinds : dict of Kind
        Kinds that compete, or the only one.
    held_out : ListedRows or None
        Rows on which they are compared.
    group : Tensor of shape (n_folds, n)
        Number of the group of each of these rows.
    offset : float
        Nats between their score and that in the unit of y.
    n_folds : int
        Number of lists of these rows; 1 without any.
    n_held_out : int
        Folds that a member holds out, beginning at its own.
    training_generator : torch.Generator
        Source of batches and dropout masks.
    view_columns : ViewColumns
        Set by `first_stacks`.
    """

    view_columns: ViewColumns

    def __init__(
        self,
        data: FitData,
        folds: tuple[RowLists, RowLists] | None,
        generator: torch.Generator,
    ) -> None:
        self.data = data
        self.folds = folds
        self.generator = self.training_generator = generator
        if data.device.type != "cpu" or data.ranks.size > 1:
            # The seed is that of a copy: networks start alike on any number of ranks.
            copied = torch.Generator(device="cpu")
            copied.set_state(generator.get_state())
            self.training_generator = make_generator(
                draw_seed(copied), stream=data.ranks.rank, device=data.device
            )
        self.rows = self._scaled(data.rows)
        scalings = data.features.scaling, data.target.scaling
        self.is_outlier = is_outlier(data.rows, scalings, data.ranks)
        self.n_folds = 1 if folds is None else len(folds[1].rows)
        self.held_out = self._held_out_rows()
        self.group = self._groups_of_held_out()
        self.offset = self._offset_of_held_out()
        self.n_effective = effective_rows(data.rows.weight, data.ranks)
        index = data.rows.positions[~self.is_outlier]
        given = data.rows.X, index, self.n_effective, data.ranks
        self.range = data.features.range_of(*given)
        self.kinds = dict(data.kinds)
        self.is_complete = self._complete_rows()
        self.has_open_cells = bool(data.ranks.max(data.rows.y.is_open.any()))
        self.bins: Bins | None = None
        if len(self.kinds) > 1:
            self.kinds = self._possible_kinds()
        if "bins" in self.kinds:
            self.bins = quantile_bins(self.rows, data.ranks)
            if len(self.kinds) > 1 and len(self.bins.feature) > MOST_BINS:
                del self.kinds["bins"]
        # Networks that go on after a choice were trained on all folds but one.
        is_choice = data.start is None and len(self.kinds) > 1 and self.n_folds > 2
        self.n_held_out = 2 if is_choice else 1

    def _fit_views(self) -> ViewColumns:
        """Fit the views of the kinds, or those of the networks to continue."""
        data, start = self.data, self.data.start
        parts = {part for kind in self.kinds.values() for part in kind.views}
        known: Mapping[str, View] = {}
        if start is not None:
            known = start.views
            parts = {part for parts in start.views_of for part in parts}
        if not parts:
            return ViewColumns({}, {}, self.n_folds)
        rows = data.rows
        # Standardised: mirrored targets are mirrored back.
        y = data.target.scaling.transform(rows.y.points).numpy()
        scores = next((view.scores for view in known.values()), None)
        scores = scores or NormalScores.fit(y, rows.weight)
        X = self.rows.X
        assert isinstance(X, torch.Tensor)  # views need dense rows
        given = ViewRows.of(X, scores(y), rows.weight, self._group_of_rows)
        left_out = torch.zeros(self.n_folds, len(y), dtype=torch.bool, device="cpu")
        if self.folds is not None:
            for mask, index, counts in zip(left_out, *self.folds[1], strict=True):
                mask[index[counts]] = True
        if self.n_held_out == 2:
            left_out = torch.cat([left_out, left_out | left_out.roll(-1, 0)])
        seed = draw_seed(self.generator)
        return ViewColumns.fit(
            sorted(parts), given, scores, left_out, self.n_folds, seed, known
        )

    def _possible_kinds(self) -> dict[str, Kind]:
        """Return the kinds among which these rows can decide."""
        data = self.data
        if self.held_out is None:
            return only_kind(self.data.kinds, data.params["embedding"])
        if self.keeps_start:
            return {"linear": self.kinds["linear"]}
        return self.kinds

    @property
    def keeps_start(self) -> bool:
        """Whether the linear model stays as it starts.

        No kind and no number of epochs is chosen reliably by few rows.
        """
        return self.n_effective < FEW_ROWS and "linear" in self.kinds

    @property
    def group_size(self) -> int:
        """Number of members of a kind that hold out every row once."""
        most = min(self.data.n_members, MAX_FOLDS)
        return self.n_folds if self.n_folds > 1 else most

    # -- stacks ------------------------------------------------------------------

    def first_stacks(self) -> list[Stack]:
        """Fit the views, and build the networks to continue, or those of all kinds."""
        data, self.view_columns = self.data, self._fit_views()
        if data.start is not None:
            start = data.start
            parts = zip(start.pool, start.sizes, start.views_of, strict=True)
            return [
                self._stack(deepcopy(network), sizes, views)
                for network, sizes, views in parts
            ]
        size = data.n_members if len(self.kinds) == 1 else self.group_size
        return self.new_stacks(dict.fromkeys(self.kinds, size))

    def new_stacks(self, sizes: Mapping[str, int]) -> list[Stack]:
        """Build stacks of kinds, which share one if embedding and views are the same.

        Parameters
        ----------
        sizes : mapping
            Number of members of each kind.
        """
        groups: dict[tuple[str | None, tuple[str, ...]], dict[str, int]] = {}
        for name, size in sizes.items():
            kind = self.kinds[name]
            groups.setdefault((kind.embedding, kind.views), {})[name] = size
        return [
            self._stack(self._network(group), group, views)
            for (_, views), group in groups.items()
        ]

    def continued(self, stack: Stack, sizes: Mapping[str, int]) -> Stack:
        """Build a stack of other sizes, in which the members of a stack go on.

        Its best weights are those of the members that go on, and the start of others.
        """
        network = self._network(sizes)
        values = FlatParameters(network).values
        order, old_order = network.head.order, stack.loop.network.head.order
        at_present = values.clone()
        start = 0
        kept = [item for item in stack.contenders if item.kind in sizes]
        for item in kept:
            n_members = min(item.n_members, sizes[item.kind])
            here = slice(start, start + n_members)
            there = slice(item.members.start, item.members.start + n_members)
            values[here] = item.best.values[:n_members].cpu()
            at_present[here] = stack.loop.values[there].cpu()
            if order is not None and old_order is not None:
                order[here] = old_order[there].cpu()
            start += sizes[item.kind]
        new = self._stack(network, sizes, stack.views)
        for before, item in zip(kept, new.contenders, strict=True):
            item.charge(before.cost)
            item.disagreement = before.disagreement
        new.loop.values.copy_(at_present)
        return new

    def _stack(
        self,
        network: MixtureDensityNetwork,
        sizes: Mapping[str, int],
        views: tuple[str, ...],
    ) -> Stack:
        """Prepare networks for training, and score their start."""
        data, fold = self.data, member_folds(sizes, self.n_folds)
        lists = RowLists(*(part[fold] for part in self._training_lists()))
        scaled = self.rows
        if views:
            columns = self.view_columns.of_rows(views, self.n_held_out)
            columns = columns.to(data.device)
            scaled = scaled._replace(X=self._joined(scaled.X, columns))
        rows = ListedRows.for_training(scaled, lists, data.ranks, fold)
        held_out = self.held_out
        if held_out is not None and views:
            if self.folds is None:
                columns = self.view_columns.of_new_rows(views, held_out.X, data.device)
                columns = columns.to(data.device)
            held_out = replace(held_out, X=self._joined(held_out.X, columns))
        network = network.to(data.device, torch.float32)
        if network.has_range:
            # The columns of views have no limits.
            n_more = network.arguments["n_features"] - len(self.range[0])
            low, high = (
                torch.cat([end, end.new_full((n_more,), sign * math.inf)])
                for end, sign in zip(self.range, (-1, 1), strict=True)
            )
            network.widen_range(low, high)
        loop = TrainingLoop(network, data.settings, self.training_generator, data.ranks)
        further = torch.arange(self.n_held_out, device="cpu")[:, None]
        folds = (fold + further) % self.n_folds
        stack = Stack(loop, sizes, rows, held_out, folds, self.n_folds, views)
        if held_out is not None:
            stack.update(data.ranks, data.settings, cost=0.0)
        return stack

    def _joined(self, X: Matrix, columns: torch.Tensor) -> ViewedMatrix:
        assert not isinstance(X, ViewedMatrix)
        return ViewedMatrix(X, columns)

    # -- networks ----------------------------------------------------------------

    def _network(self, sizes: Mapping[str, int]) -> MixtureDensityNetwork:
        """Build networks at the start of their kinds."""
        kinds = [self.kinds[name] for name in sizes]
        scales = torch.tensor(
            [kind.frequency_scale for kind in kinds], dtype=torch.float32, device="cpu"
        )
        n_each = torch.tensor(list(sizes.values()), dtype=torch.int64, device="cpu")
        is_bins = kinds[0].embedding == "bins"
        structure = dict(self.data.structure)
        structure["n_features"] += self.view_columns.width(kinds[0].views)
        network = MixtureDensityNetwork(
            **structure,
            n_members=sum(sizes.values()),
            embedding=kinds[0].embedding,
            frequency_scale=scales.repeat_interleave(n_each).tolist(),
            n_bins=len(self.bins.feature) if is_bins and self.bins is not None else 0,
            has_skip=any(kind.is_linear for kind in kinds),
            has_range=True,
            generator=self.generator,
        )
        if isinstance(network.embedding, BinsEmbedding) and self.bins is not None:
            network.embedding.set_bins(self.bins)
        start = 0
        for kind, size in zip(kinds, sizes.values(), strict=True):
            self._start(network, slice(start, start + size), kind)
            start += size
        return network

    def _start(
        self, network: MixtureDensityNetwork, members: slice, kind: Kind
    ) -> None:
        """Set members to the linear model, or to the mixture of y alone.

        The points of the targets stand for cells; the linear model of one output knows
        which are open.
        """
        data, n_members = self.data, members.stop - members.start
        if kind.is_linear:
            targets, side = self.rows.y[:, : data.outputs.size], None
            if data.outputs.size == 1 and self.has_open_cells:
                targets, side = known_ends(self.rows.y)
            rows = self.rows._replace(
                y=targets,
                weight=self.rows.weight * torch.from_numpy(self.is_complete),
            )
            models = LinearModels.fit(rows, self._training_lists(), data.ranks, side)
            models = models.of(folds_of(n_members, self.n_folds))
            start_at_linear_models(network, members, models, self.generator)
            return
        points, weight = data.rows.y.points, data.rows.weight * self.is_complete
        mixtures = unconditional_mixtures(
            # Rounded to float32, as in training, because ties influence the clusters.
            data.target.scaling.transform(points).float().double().numpy(),
            weight,
            data.structure["n_components"],
            n_members,
            seed=draw_seed(self.generator, 2**32),
            ranks=data.ranks,
        )
        network.head.start_at(members, *mixtures)

    def _complete_rows(self) -> NDArray[np.bool_]:
        """Which rows a start is fitted to: those with all outputs, if they suffice."""
        rows, ranks = self.data.rows, self.data.ranks
        every_row = np.ones(len(rows.y), dtype=bool)
        if rows.y.is_observed is None:
            return every_row
        is_complete = rows.y.is_observed.all(axis=1)
        if ranks.sum(is_complete.sum()) < FEW_ROWS:
            return every_row
        n_complete = effective_rows(rows.weight * is_complete, ranks)
        return np.asarray(is_complete if n_complete >= FEW_ROWS else every_row)

    # -- rows --------------------------------------------------------------------

    def _training_lists(self) -> RowLists:
        """List the rows to train on, for each fold."""
        if self.folds is None:
            return every_row(len(self.rows.y), 1)
        trains, held_out = self.folds
        return trains if self.n_held_out == 1 else without_next(held_out)

    def _held_out_rows(self) -> ListedRows | None:
        data = self.data
        if self.folds is not None:
            # Nothing can be learned of such a row from others; it would widen them all.
            is_far = torch.from_numpy(self.is_outlier)
            weight = self.rows.weight.masked_fill(is_far, 0.0)
            rows = self.rows._replace(weight=weight)
            return ListedRows.for_scoring(rows, self.folds[1], data.ranks)
        if data.validation is None:
            return None
        rows = self._scaled(as_unique(data.validation))
        lists = every_row(len(rows.y), 1)
        return ListedRows.for_scoring(rows, lists, data.ranks)

    def _groups_of_held_out(self) -> torch.Tensor:
        """Return the number of the group of each held-out row, or else of the row."""
        if self.held_out is None:
            return torch.zeros(0, 0, dtype=torch.int64, device="cpu")
        index = self.held_out.index.cpu()
        return index if self.folds is None else self._group_of_rows[index]

    def _offset_of_held_out(self) -> float:
        """Average the `TargetTransform.offset` of the held-out rows."""
        data, held_out = self.data, self.held_out
        if held_out is None:
            return data.offset
        given = data.rows if data.validation is None else data.validation
        targets = given.y[held_out.index.flatten().cpu().numpy()]
        weight = held_out.weight.flatten().numpy()
        return data.target.mean_offset(targets, weight, data.ranks)

    @cached_property
    def _group_of_rows(self) -> torch.Tensor:
        """Number of the group of each row of the fit, (n,)."""
        codes = self.data.rows.codes
        if codes is None:
            return torch.arange(len(self.rows.y), device="cpu")
        number = np.unique(codes, return_inverse=True)[1]
        return torch.from_numpy(number.astype(np.int64))

    def _scaled(self, rows: UniqueRows) -> ScaledRows:
        data = self.data
        return ScaledRows.of(
            rows,
            data.features,
            data.target.standardise(rows.y),
            torch.float32,
            data.device,
        )


def as_unique(rows: Rows) -> UniqueRows:
    """Return rows as they are, without merging equal ones."""
    positions = np.arange(len(rows.y))
    return UniqueRows(rows.X, rows.y, rows.weight, positions, positions)
