"""Dask's arrays and data frames: one model fitted where they lie, and asked lazily.

`fit` lets the workers that hold the partitions be the ranks of one joint fit
(`skmdn.distributed`), so that rows never leave their worker. `predict`,
`score_samples` and `sample` map a fitted model over the blocks; nothing is computed
before it is asked for. Needs the extra ``skmdn[dask]``.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable
from contextlib import suppress
from copy import deepcopy
from datetime import timedelta
from typing import Any

import numpy as np
import torch.distributed as dist
from scipy import sparse
from sklearn.utils import check_consistent_length
from sklearn.utils.validation import check_is_fitted

from skmdn._arrays import make_seed
from skmdn._regressor import MDNRegressor
from skmdn.distributed import RanksLostError, use_group

__all__ = ["fit", "predict", "sample", "score_samples"]

# Of silence, after which a rank gives up the others; one that dies is noticed at once.
TIMEOUT = timedelta(minutes=30)
# Seconds between two looks at whether all workers are still there, and for which the
# other ranks are heard after a first error: theirs may be its cause.
PATROL, LAST_WORDS = 1.0, 10.0

# Of fits under way with this process as rank 0.
_stores: dict[str, dist.TCPStore] = {}


def fit(
    estimator: MDNRegressor,
    X: Any,
    y: Any,
    client: Any = None,
    *,
    sample_weight: Any = None,
) -> MDNRegressor:
    """Fit one model on the workers that hold the rows.

    Each worker with partitions is a rank; all train one model together, and rows stay
    where they are. The steps are those of `MDNRegressor.fit` on all rows:
    `batch_size` counts the rows of all workers.

    Parameters
    ----------
    estimator : MDNRegressor
        Parameters, and with `warm_start` the networks to continue. It stays as it is.
    X : dask array of shape (n_samples, n_features) or dask data frame
        Features.
    y : dask array of shape (n_samples,) or (n_samples, n_outputs), series or data frame
        Targets, in partitions of the same rows as X.
    client : distributed.Client, default=None
        By default the current one.
    sample_weight : dask array of shape (n_samples,) or series, default=None
        Repetitions of each row, in the same partitions.

    Returns
    -------
    fitted : MDNRegressor
        A plain estimator. `oof_score_` is of all rows; `oof_log_density_`, which has a
        value for each row, is left out.

    Raises
    ------
    ValueError
        If the partitions of X, y and sample_weight are not of the same rows, or as
        `MDNRegressor.fit`.
    RanksLostError
        If a worker dies during training. Partitions are computed again by Dask, but
        networks are not: call `fit` again, with a `skmdn.callbacks.Checkpoint` whose
        path all workers can write, to go on from the last epoch stored.

    Notes
    -----
    Every worker needs a thread free for the time of the fit. Fits of one cluster that
    share workers run one after the other. Ranks reduce with gloo; where workers have
    several networks, GLOO_SOCKET_IFNAME chooses one.

    Which worker holds which partition is Dask's choice. Batches depend on it, and so
    does, within the noise of training, the result.

    Examples
    --------
    >>> import dask.array as da
    >>> from distributed import Client
    >>> import skmdn.dask
    >>> from skmdn import MDNRegressor
    >>> from skmdn.datasets import load_geyser
    >>> X, y = load_geyser(return_X_y=True)
    >>> X, y = da.from_array(X, chunks=(150, 1)), da.from_array(y, chunks=150)
    >>> with Client(n_workers=1, processes=False, dashboard_address=":0") as client:
    ...     mdn = MDNRegressor(max_iter=5, random_state=0)
    ...     mdn = skmdn.dask.fit(mdn, X, y)
    ...     mean = skmdn.dask.predict(mdn, X).compute()
    >>> mean.shape
    (221,)
    """
    from distributed import MultiLock, default_client

    if not isinstance(estimator, MDNRegressor):
        raise TypeError(
            f"skmdn.dask.fit fits an MDNRegressor, got {type(estimator).__name__}."
        )
    client = client or default_client()
    others = {"y": y}
    if sample_weight is not None:
        others["sample_weight"] = sample_weight
    shards = _shards(client, _partitions(X, **others))
    with MultiLock(sorted(shards), client):
        return _fit_on(client, estimator, shards)


def predict(estimator: MDNRegressor, X: Any) -> Any:
    """Conditional mean of every row, lazily.

    Parameters
    ----------
    estimator : MDNRegressor
        Fitted, by Dask or not.
    X : dask array of shape (n_samples, n_features) or dask data frame
        Features.

    Returns
    -------
    y_mean : dask array of shape (n_samples,) or (n_samples, n_outputs)
        In the unit of y.
    """
    return _map(MDNRegressor.predict, estimator, X, shape=_output_shape(estimator))


def score_samples(estimator: MDNRegressor, X: Any, y: Any = None) -> Any:
    """Log-density of y given x, or the log-density that the model expects, lazily.

    Parameters
    ----------
    estimator : MDNRegressor
        Fitted, by Dask or not.
    X : dask array of shape (n_samples, n_features) or dask data frame
        Features.
    y : dask array, series or data frame, default=None
        A value of the targets for each row of X, in the same partitions.

    Returns
    -------
    log_density : dask array of shape (n_samples,)
        In nats, greater is better; as :meth:`MDNRegressor.score_samples`.
    """
    others = {} if y is None else {"y": y}
    return _map(MDNRegressor.score_samples, estimator, X, **others)


def sample(
    estimator: MDNRegressor, X: Any, n_samples: int = 1, random_state: Any = None
) -> Any:
    """Draw targets from the conditional density of every row, lazily.

    Parameters
    ----------
    estimator : MDNRegressor
        Fitted, by Dask or not.
    X : dask array of shape (n_samples, n_features) or dask data frame
        Features.
    n_samples : int, default=1
        Draws for each row.
    random_state : int, RandomState instance or None, default=None
        Seed. Draws also depend on the partitions. Computing the same array again, or
        after a worker was lost, gives the same draws.

    Returns
    -------
    y : dask array of shape (n_rows, n_samples) or (n_rows, n_samples, n_outputs)
        Independent draws, in the unit of y.
    """
    seed = make_seed(random_state)
    return _map(
        _sample,
        estimator,
        X,
        shape=(n_samples, *_output_shape(estimator)),
        arguments=lambda number: (n_samples, (seed, number)),
    )


# -- partitions ------------------------------------------------------------------


def _partitions(X: Any, **others: Any) -> list[tuple[Any, ...]]:
    """Delayed blocks of rows, of X and of what goes with it."""
    import dask.array as da

    parts = []
    for name, data in {"X": X, **others}.items():
        if not hasattr(data, "to_delayed"):
            raise TypeError(
                f"{name} must be a dask array or data frame, got "
                f"{type(data).__name__}. For rows in memory use the methods of "
                "MDNRegressor."
            )
        if isinstance(data, da.Array):
            # Data frames do not tell how long their partitions are.
            rows = X.chunks[0] if isinstance(X, da.Array) else data.chunks[0]
            is_known = not np.isnan([*rows, *data.chunks[0]]).any()
            if is_known and sum(rows) != len(data):
                raise ValueError(
                    f"X and {name} must have the same rows, got {sum(rows)} and "
                    f"{len(data)}."
                )
            columns = {axis: -1 for axis in range(1, data.ndim)}
            data = data.rechunk(columns | ({0: rows} if is_known else {}))
        parts.append(np.ravel(np.array(data.to_delayed(), dtype=object)).tolist())
        if len(parts[-1]) != len(parts[0]):
            raise ValueError(
                f"X and {name} must be partitioned alike, got {len(parts[0])} and "
                f"{len(parts[-1])} partitions."
            )
    return list(zip(*parts, strict=True))


def _map(
    method: Callable,
    estimator: MDNRegressor,
    X: Any,
    *,
    shape: tuple[int, ...] = (),
    arguments: Callable[[int], tuple[Any, ...]] = lambda number: (),
    **others: Any,
) -> Any:
    """Array of what a method gives for each numbered block, (n_samples, *shape)."""
    import dask
    import dask.array as da

    check_is_fitted(estimator)
    model = dask.delayed(estimator, pure=False)
    function = dask.delayed(method, pure=True)
    lengths = X.chunks[0] if isinstance(X, da.Array) else None
    blocks = []
    for number, part in enumerate(_partitions(X, **others)):
        length = np.nan if lengths is None else lengths[number]
        result = function(model, *part, *arguments(number))
        blocks.append(da.from_delayed(result, (length, *shape), dtype=np.float64))
    return da.concatenate(blocks)


def _output_shape(estimator: MDNRegressor) -> tuple[int, ...]:
    check_is_fitted(estimator)
    return () if estimator._y_ndim == 1 else (estimator.n_outputs_,)


def _sample(
    estimator: MDNRegressor, X: Any, n_samples: int, seed: tuple[int, int]
) -> Any:
    """Draws of a block, whose number is part of the seed."""
    of_block = np.random.SeedSequence(seed).generate_state(1)[0]
    return estimator.sample(X, n_samples, random_state=int(of_block))


# -- ranks -----------------------------------------------------------------------


def _shards(client: Any, parts: list[tuple[Any, ...]]) -> dict[str, list[Any]]:
    """Futures of the blocks that each worker is to train on, by its address."""
    import dask
    from distributed import wait

    futures = client.compute([dask.delayed(_checked)(*part) for part in parts])
    wait(futures)
    lengths = client.gather(client.map(_length, futures, pure=False))
    where = client.who_has(futures)
    shards: dict[str, list[Any]] = {}
    for future, length in zip(futures, lengths, strict=True):
        if length > 0:
            shards.setdefault(min(where[future.key]), []).append(future)
    if not shards:
        raise ValueError("X has no rows.")
    return shards


def _checked(*block: Any) -> tuple[Any, ...]:
    check_consistent_length(*block)
    return block


def _length(block: tuple[Any, ...]) -> int:
    return block[0].shape[0]


def _fit_on(
    client: Any, estimator: MDNRegressor, shards: dict[str, list[Any]]
) -> MDNRegressor:
    """Let each worker be a rank; what rank 0 has fitted is what all have."""
    from distributed.comm import get_address_host

    workers = list(shards)
    host, port, token = get_address_host(workers[0]), 0, uuid.uuid4().hex
    if len(workers) > 1:
        port = client.run(_open_store, token, host, workers=workers[:1])[workers[0]]
    futures = [
        client.submit(
            _fit_as_rank,
            estimator,
            shards[worker],
            (rank, len(workers), host, port, token),
            workers=[worker],
            # Alone it may start again elsewhere, from rows computed again.
            allow_other_workers=len(workers) == 1,
            pure=False,
        )
        for rank, worker in enumerate(workers)
    ]
    try:
        _watch(client, futures, workers)
        return client.gather(futures[0])
    finally:
        client.cancel(futures)
        if workers[0] in client.nthreads():
            client.run(_close_store, token, workers=workers[:1], on_error="ignore")


def _watch(client: Any, futures: list[Any], workers: list[str]) -> None:
    """Wait for all ranks; raise what went wrong first of all."""
    from distributed import wait

    n_last_words = int(LAST_WORDS / PATROL)
    while any(future.status == "pending" for future in futures) and n_last_words:
        if len(workers) > 1 and (gone := set(workers) - set(client.nthreads())):
            raise RanksLostError(
                f"The worker {min(gone)} died during training. Call fit again; with a "
                "skmdn.callbacks.Checkpoint it goes on from the last epoch stored."
            )
        n_last_words -= any(future.status == "error" for future in futures)
        with suppress(TimeoutError):
            wait(futures, timeout=PATROL)
    errors = [future.exception() for future in futures if future.status == "error"]
    # That others were lost is what a rank says when one of them fails.
    for error in sorted(errors, key=lambda error: isinstance(error, RanksLostError)):
        raise error


def _open_store(token: str, host: str) -> int:
    """Open the store through which ranks find one another, on rank 0's worker."""
    store = _stores[token] = dist.TCPStore(
        host, 0, is_master=True, timeout=TIMEOUT, wait_for_workers=False
    )
    return store.port


def _close_store(token: str) -> None:
    _stores.pop(token, None)


def _fit_as_rank(
    estimator: MDNRegressor,
    blocks: list[tuple[Any, ...]],
    place: tuple[int, int, str, int, str],
) -> MDNRegressor | None:
    """Fit the rows of a worker as one of the ranks."""
    # Workers may be threads of one process, and share the estimator.
    estimator = deepcopy(estimator)
    rows = [_stack(parts) for parts in zip(*blocks, strict=True)]
    with use_group(_group(*place)):
        estimator.fit(*rows)
    if place[0] > 0:
        return None
    estimator.__dict__.pop("oof_log_density_", None)
    return estimator


def _group(rank: int, size: int, host: str, port: int, token: str) -> Any:
    """A group of its own for a fit, known to nobody else in the process."""
    if size == 1:
        return None
    store = (
        _stores[token]
        if rank == 0
        else dist.TCPStore(host, port, timeout=TIMEOUT, wait_for_workers=False)
    )
    return dist.ProcessGroupGloo(store, rank, size, TIMEOUT)


def _stack(parts: tuple[Any, ...]) -> Any:
    if hasattr(parts[0], "iloc"):
        from pandas import concat

        return concat(parts)
    if sparse.issparse(parts[0]):
        return sparse.vstack(parts, format="csr")
    return np.concatenate(parts)
