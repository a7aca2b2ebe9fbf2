"""The training loop: passes over the rows, repeated more slowly after a divergence."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from skmdn._training.auto import TrainingSettings
from skmdn._training.batches import ListedRows
from skmdn._training.capture import Captured, can_capture
from skmdn._training.optimizer import Optimizer
from skmdn.distributed import ALONE, Ranks
from skmdn.nn.backprop import Backpropagation
from skmdn.nn.network import MixtureDensityNetwork
from skmdn.nn.targets import Targets

# An epoch that leaves a network's loss or parameters non-finite is undone, and repeated
# at this share of the learning rate; at most so many times in a fit.
ROLLBACK_RATE = 0.25
MOST_ROLLBACKS = 4


class TrainingLoop:
    """Networks, their optimizer and the generator of batches and dropout masks."""

    def __init__(
        self,
        network: MixtureDensityNetwork,
        settings: TrainingSettings,
        generator: torch.Generator,
        ranks: Ranks = ALONE,
    ) -> None:
        self.network = network
        self.settings = settings
        self.ranks = ranks
        self.generator = network.generator = generator
        self.optimizer = Optimizer(network, settings, ranks)
        self.n_rollbacks = 0
        self._runs: dict[tuple[int, str], Callable[..., Tensor]] = {}
        self._step = self._captured(self.optimizer.step)

    @property
    def values(self) -> Tensor:
        """Parameters of all networks, (n_members, size)."""
        return self.optimizer.parameters.values

    @property
    def work(self) -> int:
        """Multiply-adds of the forward pass of a batch."""
        return self.settings.batch_size * self.values.numel()

    def run_epoch_with_rollback(self, rows: ListedRows, epoch: int) -> float | None:
        """Run one epoch; if networks diverge, repeat it at a lower learning rate.

        Returns
        -------
        loss : float or None
            Mean loss of the networks; None, with the state before the epoch, if they
            still diverge after `MOST_ROLLBACKS`.
        """
        snapshot = self.optimizer.snapshot()
        while True:
            loss = float(self.run_epoch(rows, epoch).mean())
            if math.isfinite(loss) and self.values.isfinite().all():
                return loss
            self.optimizer.restore_(snapshot)
            if self.n_rollbacks == MOST_ROLLBACKS:
                return None
            self.n_rollbacks += 1

    def run_epoch(self, rows: ListedRows, epoch: int) -> Tensor:
        """Pass once over the rows; return each member's mean loss, (n_members,).

        Every rank takes part in every batch, and so in every step, with its share of
        the rows, which can be empty.
        """
        settings = self.settings
        self.network.train()
        loss = "bound" if epoch < settings.warmup_iter else "nll"
        total = self.values.new_zeros(self.network.n_members)
        n_batches = math.ceil(rows.n_total / settings.batch_size)
        damping = ROLLBACK_RATE**self.n_rollbacks
        batches = rows.batches(self._order(rows.index), n_batches)
        for position, (X, y, weight) in enumerate(batches):
            done = (epoch + position / n_batches) / settings.max_iter
            rate = self.optimizer.rate(min(done, 1.0)) * damping
            losses = self._run(y, loss)(X, y, weight)
            self._step(rate)
            total += losses.sum(dim=1)
        # Processors can differ in the last bit, and after many steps by more.
        self.ranks.broadcast_(self.values)
        return self.ranks.all_reduce_(total) / n_batches

    def _order(self, index: Tensor) -> Tensor:
        """Draw the order of each member's list in this epoch, (n_members, n)."""
        n_members, n_rows = index.shape
        # Sorting random keys would draw all orders at once, in thirty times the time.
        orders = torch.empty(n_members, n_rows, dtype=torch.int64, device=index.device)
        for order in orders:
            torch.randperm(
                n_rows, generator=self.generator, device=index.device, out=order
            )
        return orders

    def _run(self, y: Tensor, loss: str) -> Callable[..., Tensor]:
        """Return the backpropagation of batches; sizes differ by one row at most."""
        key = y.shape[1], loss
        if key not in self._runs:
            head = self.network.head
            run = partial(Backpropagation(self.network, y.shape[1]).run, loss=loss)
            is_by_hand = head.is_by_hand(Targets.split(y, head.n_outputs))
            self._runs[key] = self._captured(run) if is_by_hand else run
        return self._runs[key]

    def _captured(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """Capture a function of tensors, where that is possible."""
        if self.ranks.size > 1 or not can_capture(self.network):
            return function
        return Captured(function, self.values.device)
