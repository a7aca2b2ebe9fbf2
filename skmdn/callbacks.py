"""Callbacks for fits that take long."""

from __future__ import annotations

import io
import json
import os
from numbers import Integral
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from skmdn._fit.session import FitSession
from skmdn._regressor import MDNRegressor
from skmdn._utils.compat import Interval, validate_params
from skmdn._utils.persistence import STATE_VERSION, seal, unseal
from skmdn._utils.warn import warn

__all__ = ["Checkpoint"]


class Checkpoint:
    """Callback that stores the state of a running fit, to resume it later.

    If a fit finds its own checkpoint at `path`, it resumes from there, and gives the
    same bits as a fit without interruption. To resume, run the same script again; no
    other call is needed. The file is replaced atomically, and deleted at the end of
    the fit. After Ctrl-C the file remains.

    In a joint fit each rank needs the callback, and rank 0 reads and writes the file.
    A fit can be resumed with another number of ranks and the same rows; the batches
    then differ.

    Parameters
    ----------
    path : str or path-like
        File to write. Inside a search or a pipeline, each fit appends the numbers of
        its tasks to the file name.
    every : int, default=1
        Number of epochs between two checkpoints, which is the largest number of epochs
        that can be lost.

    Raises
    ------
    OSError
        From `fit`, before training starts, if the file cannot be written.
    ValueError
        From `fit`, if the file is the checkpoint of another fit, or is damaged.

    Warns
    -----
    UserWarning
        If a later checkpoint cannot be written. Training continues, and the previous
        checkpoint remains.

    Notes
    -----
    Callbacks need scikit-learn 1.9 or newer. A checkpoint belongs to a fit if
    everything that determines the result is equal: parameters except `verbose`, rows,
    weights, groups, validation rows and the type of the device. A seed drawn for
    `random_state=None` is part of the checkpoint. The order of the rows does not
    matter. The file contains arrays and text only; opening it runs no code.

    `partial_fit` calls no callbacks; store the estimator between its calls.

    Examples
    --------
    >>> import os, tempfile
    >>> from skmdn import MDNRegressor
    >>> from skmdn.callbacks import Checkpoint
    >>> from skmdn.datasets import load_geyser
    >>> X, y = load_geyser(return_X_y=True)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     checkpoint = Checkpoint(os.path.join(folder, "geyser.npz"), every=5)
    ...     mdn = MDNRegressor(max_iter=10, random_state=0).set_callbacks(checkpoint)
    ...     mdn = mdn.fit(X, y)
    ...     os.listdir(folder)  # the fit has ended
    []
    """

    @validate_params(
        {
            "path": [str, os.PathLike],
            "every": [Interval(Integral, 1, None, closed="left")],
        },
        prefer_skip_nested_validation=True,
    )
    def __init__(self, path: str | os.PathLike[str], *, every: int = 1) -> None:
        self.path = path
        self.every = every
        self._sessions: dict[Path, FitSession] = {}

    # -- hooks -------------------------------------------------------------------

    def setup(self, estimator: MDNRegressor, context: Any) -> None:
        if not isinstance(estimator, MDNRegressor):
            raise TypeError(
                "Checkpoint stores fits of MDNRegressor, got "
                f"{type(estimator).__name__}. Set it on the MDNRegressor itself."
            )

    def on_fit_task_begin(self, estimator: MDNRegressor, context: Any) -> None:
        pass

    def on_session_begin(self, session: FitSession, context: Any) -> None:
        """Continue from a checkpoint if there is one, and write the first one.

        `MDNRegressor` calls this hook after `on_fit_task_begin` of the fit.
        """
        path = self._file(context)
        self._sessions[path] = session
        ranks, fingerprints = session.data.ranks, session.fingerprints
        is_here = ranks.rank == 0 and path.is_file()
        if ranks.max(is_here):
            found = ranks.broadcast(_bytes_of(path) if is_here else np.empty(0))
            state, stored = _read(path, found)
            _check_fingerprints(path, stored, fingerprints)
            session.load(state)
            session.progress.say(f"Resuming after epoch {session.n_epochs} from {path}")
        try:
            _write(path, session)
        except OSError as exc:
            raise OSError(
                f"No checkpoint can be written to {path}: {exc}. Choose a path in an "
                "existing, writable folder with enough disk space."
            ) from exc

    def on_fit_task_end(self, estimator: MDNRegressor, context: Any) -> None:
        if context.task_name != "epoch":
            self._file(context).unlink(missing_ok=True)
            return
        path = self._file(context.parent)
        session = self._sessions[path]
        if session.n_epochs % self.every == 0:
            try:
                _write(path, session)
            except OSError as exc:
                warn(
                    f"No checkpoint could be written to {path}: {exc}. Training "
                    "continues, and the last checkpoint is kept."
                )

    def teardown(self, estimator: MDNRegressor, context: Any) -> None:
        self._sessions.pop(self._file(context), None)

    def __getstate__(self) -> dict[str, Any]:
        """Leave out the sessions, which cannot leave their process."""
        return vars(self) | {"_sessions": {}}

    # -- files -------------------------------------------------------------------

    def _file(self, context: Any) -> Path:
        """Return the file of a fit; task numbers of outer fits are part of its name."""
        path, numbers = Path(self.path), ""
        while context.parent is not None:
            numbers = f"-{context.task_id}{numbers}"
            context = context.parent
        return path.with_stem(path.stem + numbers)


def _write(path: Path, session: FitSession) -> None:
    """Replace a file as a whole, or not at all. All ranks must take part."""
    state: dict[str, Any] = session.state()
    if session.data.ranks.rank > 0:
        return
    sealed = seal(state | {"fingerprints": session.fingerprints})
    text = {name: item for name, item in sealed.items() if name not in state}
    draft = path.with_name(path.name + ".tmp")
    try:
        with draft.open("wb") as file:
            np.savez(file, text=np.array(json.dumps(text)), **state)
            file.flush()
            os.fsync(file.fileno())
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)


def _bytes_of(path: Path) -> NDArray[np.uint8]:
    return np.fromfile(path, dtype=np.uint8)


def _read(path: Path, found: NDArray[Any]) -> tuple[dict[str, Any], dict[str, str]]:
    """Decode the bytes of the file at a path: state of a session, and fingerprints."""
    try:
        with np.load(io.BytesIO(found.tobytes()), allow_pickle=False) as stored:
            state = dict(stored)
        text = json.loads(str(state.pop("text")))
        state, version = unseal("checkpoint", state | text)
        if version != STATE_VERSION:
            raise ValueError(f"its form has version {version}.")
    except Exception as exc:  # damage can raise anything
        raise ValueError(
            f"{path} is not a checkpoint that this release can read: {exc} Delete it "
            "to start afresh, or choose another path."
        ) from exc
    return state, state.pop("fingerprints")


def _check_fingerprints(
    path: Path, stored: dict[str, str], ours: dict[str, str]
) -> None:
    differing = sorted(name for name in ours if ours[name] != stored.get(name))
    if differing:
        raise ValueError(
            f"{path} is the checkpoint of another fit: it differs in "
            f"{', '.join(differing)}. Delete it to start afresh, or choose another "
            "path."
        )
