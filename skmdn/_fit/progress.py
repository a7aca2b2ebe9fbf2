"""What a running fit prints."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping
from time import perf_counter

from skmdn._fit.prepare import FitData

# Epochs whose mean duration is taken for that of the next ones.
RECENT_EPOCHS = 5


class Progress:
    """Print how a fit proceeds, on rank 0 and if `verbose` is set.

    Time is measured for these lines only: no result depends on it.
    """

    def __init__(self, data: FitData) -> None:
        self.data = data
        self.is_on = bool(data.settings.verbose) and data.ranks.rank == 0
        self._has_begun = False
        self._start = perf_counter()
        # Elapsed seconds at the start of the first of recent epochs, and at their ends.
        self._marks: deque[float] = deque(maxlen=RECENT_EPOCHS + 1)

    @property
    def elapsed(self) -> float:
        """Seconds since the start of the fit in this process."""
        return perf_counter() - self._start

    def say(self, line: str) -> None:
        """Print a line, at once also where the output is a file or a pipe."""
        if self.is_on:
            print(line, flush=True)

    def begin(self, kinds: Iterable[str], *, is_choice: bool) -> None:
        """Describe the fit, once, before its views are computed."""
        if self._has_begun or self.data.is_piece:
            return
        self._has_begun = True
        data, label = self.data, "kinds that compete" if is_choice else "kinds"
        self.say(
            f"Fit of {data.n_given} rows and {data.given.X.shape[1]} features by "
            f"{data.n_members} networks; {label}: {', '.join(kinds)}"
        )

    def begin_epoch(self) -> None:
        """Start to measure epochs, if they are the first of their networks."""
        if not self._marks:
            self._marks.append(self.elapsed)

    def end_epoch(self, n_epochs: int, loss: float, score: float | None) -> None:
        """Describe an epoch.

        Parameters
        ----------
        n_epochs : int
            Epochs run, this one included.
        loss : float
            Mean of the epoch, in nats in the unit of y.
        score : float or None
            Of the held-out rows, in nats; None if there are none.
        """
        self._marks.append(self.elapsed)
        n_left, parts = self.data.settings.max_iter - n_epochs, [f"loss = {loss:.6f}"]
        if score is not None:
            parts.append(f"held-out score = {score:.6f}")
        parts.append(f"{_duration(self._marks[-1])} elapsed")
        if self.data.is_piece:
            name = f"Pass {n_epochs}"
        else:
            name = f"Epoch {n_epochs} of {self.data.settings.max_iter}"
            if n_left > 0:  # early stopping can end before
                left = _duration(n_left * self._seconds_per_epoch())
                parts.append(f"at most about {left} left")
        self.say(f"{name}: {', '.join(parts)}")

    def report_choice(self, report: str) -> None:
        """Print which kinds go on, if any were dropped; later epochs are of those."""
        if report:
            self._marks.clear()
            self.say(report)

    def end(self, weights: Mapping[str, float], score: float | None, name: str) -> None:
        """Describe the result.

        Parameters
        ----------
        weights : mapping
            Of each kind in the prediction.
        score : float or None
            In nats; None without held-out rows.
        name : str
            What the score is.
        """
        if self.data.is_piece:
            return
        kept = ", ".join(f"{kind} (weight {w:.2f})" for kind, w in weights.items())
        scored = "" if score is None else f"; {name} = {score:.6f}"
        self.say(f"Kept: {kept}{scored}; {_duration(self.elapsed)} in total")

    def _seconds_per_epoch(self) -> float:
        """Return the mean duration of recent epochs."""
        return (self._marks[-1] - self._marks[0]) / (len(self._marks) - 1)


def _duration(seconds: float) -> str:
    """Format seconds with the two largest units."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min"
