"""Callbacks for fits that take long."""

from __future__ import annotations

import io
import json
import os
import warnings
from numbers import Integral
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.utils._param_validation import Interval, validate_params

from skmdn._persistence import seal, unseal
from skmdn._regressor import MDNRegressor

__all__ = ["Checkpoint"]


class Checkpoint:
    """Callback that stores a fit under way, so that it survives its process.

    A fit that finds its own checkpoint at `path` goes on from there, and ends with
    the bits of one that was never interrupted. So run the same script again: no
    other call is needed. The file is replaced atomically, and deleted when the fit
    has ended; after Ctrl-C it stays.

    Of ranks that fit together, each needs the callback, and rank 0 reads and writes
    the file. Other ranks, more of them or fewer, may go on with the same rows: then
    with other batches.

    Parameters
    ----------
    path : str or path-like
        File to write. Inside a search or a pipeline, each fit appends the numbers of
        its tasks to the name.
    every : int, default=1
        Epochs between two checkpoints: what is lost at most.

    Raises
    ------
    OSError
        From `fit`, before training starts, if the file cannot be written there.
    ValueError
        From `fit`, if the file is the checkpoint of another fit, or damaged.

    Warns
    -----
    UserWarning
        If a later checkpoint cannot be written; training goes on, and the last one
        stays.

    Notes
    -----
    Callbacks need scikit-learn 1.9 or newer. What makes a fit the same is all that
    determines it: parameters but for `verbose`, rows, weights, validation rows and
    the kind of device. A seed drawn for `random_state=None` is part of the
    checkpoint. The order of the rows does not count. The file holds arrays and text
    only; opening one runs no code.

    `partial_fit` calls no callbacks; between its calls, store the estimator.

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

    # -- hooks -------------------------------------------------------------------

    def setup(self, estimator: MDNRegressor, context: Any) -> None:
        if not isinstance(estimator, MDNRegressor):
            raise TypeError(
                "Checkpoint stores fits of MDNRegressor, got "
                f"{type(estimator).__name__}. Set it on the MDNRegressor itself."
            )

    def on_fit_task_begin(self, estimator: MDNRegressor, context: Any) -> None:
        if context.task_name != "epoch":
            path = self._file(context)
            if path.is_file():  # its folds are drawn from its seed
                estimator._seed = _read(path, _bytes_of(path))["seed"]
        elif context.task_id == 0:
            self._start(estimator, self._file(context.parent))

    def on_fit_task_end(self, estimator: MDNRegressor, context: Any) -> None:
        if context.task_name != "epoch":
            self._file(context).unlink(missing_ok=True)
        elif estimator._training.n_epochs % self.every == 0:
            path = self._file(context.parent)
            try:
                _write(path, estimator)
            except OSError as exc:
                warnings.warn(
                    f"No checkpoint could be written to {path}: {exc}. Training goes "
                    "on; the last checkpoint stays.",
                    UserWarning,
                    stacklevel=2,
                )

    def teardown(self, estimator: MDNRegressor, context: Any) -> None:
        pass

    # -- files -------------------------------------------------------------------

    def _file(self, context: Any) -> Path:
        """File of a fit: inside of others, named by the numbers of its tasks."""
        path, numbers = Path(self.path), ""
        while context.parent is not None:
            numbers = f"-{context.task_id}{numbers}"
            context = context.parent
        return path.with_stem(path.stem + numbers)

    def _start(self, estimator: MDNRegressor, path: Path) -> None:
        """Go on from a checkpoint, if there is one; see that others can be written."""
        training = estimator._training
        ranks, identity = training.ranks, training.identity
        is_here = ranks.rank == 0 and path.is_file()
        found = ranks.first(_bytes_of(path) if is_here else np.empty(0))
        if found.size:
            state = _read(path, found)
            _check_identity(path, state["identity"], identity)
            training.load(state)
            if training.trainer.settings.verbose:
                print(f"Resuming after iteration {training.n_epochs} from {path}")
        try:
            _write(path, estimator)
        except OSError as exc:
            raise OSError(
                f"No checkpoint can be written to {path}: {exc}. Choose a path in a "
                "folder that exists, can be written and has room."
            ) from exc


def _write(path: Path, estimator: MDNRegressor) -> None:
    """Replace a file as a whole, or not at all. All ranks must take part."""
    training = estimator._training
    state: dict[str, Any] = training.state()
    if training.ranks.rank > 0:
        return
    sealed = seal(state | {"identity": training.identity, "seed": int(estimator._seed)})
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


def _read(path: Path, found: NDArray[np.uint8]) -> dict[str, Any]:
    """What was found in the file at a path."""
    try:
        with np.load(io.BytesIO(found.tobytes()), allow_pickle=False) as stored:
            state = dict(stored)
        text = json.loads(str(state.pop("text")))
        return unseal("checkpoint", state | text)
    except Exception as exc:  # damage may show in any way
        raise ValueError(
            f"{path} is no checkpoint that this release can read: {exc} Delete it to "
            "start afresh, or choose another path."
        ) from exc


def _check_identity(path: Path, stored: dict[str, str], ours: dict[str, str]) -> None:
    differing = sorted(name for name in ours if ours[name] != stored.get(name))
    if differing:
        raise ValueError(
            f"{path} is the checkpoint of another fit: it differs in "
            f"{', '.join(differing)}. Delete it to start afresh, or choose another "
            "path."
        )
