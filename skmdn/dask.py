"""Fits and lazy predictions on Dask arrays and data frames.

`fit` uses the workers that hold the partitions as ranks of one joint fit
(`skmdn.distributed`), so that rows never leave their worker. `predict`,
`score_samples` and `sample` apply a fitted model to each block, lazily. Requires the
extra ``skmdn[dask]``.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable
from contextlib import suppress
from copy import deepcopy
from datetime import timedelta
from functools import partial
from typing import Any

import numpy as np
import torch.distributed as dist
from scipy import sparse
from sklearn.utils import check_consistent_length
from sklearn.utils.validation import check_is_fitted

from skmdn._regressor import MDNRegressor
from skmdn._utils.arrays import make_seed
from skmdn.distributed import RanksLostError, use_group

__all__ = ["fit", "predict", "sample", "score_samples"]

# Time after which a rank that does not respond is considered lost. A rank that dies is
# noticed at once.
TIMEOUT = timedelta(minutes=30)
# Seconds between two checks that all workers are alive, and seconds to wait for the
# errors of other ranks after a first error, because one of them may be its cause.
CHECK_SECONDS, ERROR_SECONDS = 1.0, 10.0

# Stores of running fits in which this process is rank 0, by token.
_stores: dict[str, dist.TCPStore] = {}


def fit(
    estimator: MDNRegressor,
    X: Any,
    y: Any,
    client: Any = None,
    *,
    sample_weight: Any = None,
    groups: Any = None,
    y_upper: Any = None,
) -> MDNRegressor:
    """Fit one model on the workers that hold the rows.

    Each worker with partitions is a rank. All ranks train one model together, and the
    rows stay on their workers. The training steps are those of `MDNRegressor.fit` on
    all rows: `batch_size` counts the rows of all workers.

    Parameters
    ----------
    estimator : MDNRegressor
        Estimator with the parameters and, with `warm_start`, the networks to continue.
        It is not modified.
    X : dask array of shape (n_samples, n_features) or dask data frame
        Features.
    y : dask array of shape (n_samples,) or (n_samples, n_outputs), series or data frame
        Targets, with the same partitions of rows as X.
    client : distributed.Client, default=None
        Client of the cluster. By default the current one.
    sample_weight : dask array of shape (n_samples,) or series, default=None
        Number of repetitions of each row, with the same partitions as X.
    groups : dask array of shape (n_samples,) or series, default=None
        Label of the group of each row, with the same partitions as X. Rows of a group
        are held out together, on whatever workers they are.
    y_upper : dask array of shape (n_samples,) or series, default=None
        Upper ends of intervals that contain the targets, with the same partitions as X.

    Returns
    -------
    fitted : MDNRegressor
        Ordinary estimator. `oof_score_` is the mean over all rows; `oof_log_density_`,
        which has one value per row, is not set.

    Raises
    ------
    ValueError
        If the arguments are not partitioned alike, or for the same reasons as in
        `MDNRegressor.fit`.
    RanksLostError
        If a worker dies during training. Dask computes its partitions again, but not
        the networks: call `fit` again, with a `skmdn.callbacks.Checkpoint` whose path
        all workers can write, to resume from the last stored epoch.

    Notes
    -----
    Every worker needs a free thread for the duration of the fit. Fits that share
    workers of one cluster run one after the other. Ranks communicate by gloo; if
    workers have several network interfaces, GLOO_SOCKET_IFNAME selects one.

    Dask decides which worker holds which partition. The batches depend on this
    assignment, and so does the result, within the noise of training.

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
    >>> mean[:3].round()  # minutes
    array([3., 4., 4.])
    """
    from distributed import MultiLock, default_client

    if not isinstance(estimator, MDNRegressor):
        raise TypeError(
            f"estimator must be an MDNRegressor, got {type(estimator).__name__}."
        )
    client = client or default_client()
    optional = {"sample_weight": sample_weight, "groups": groups, "y_upper": y_upper}
    given = {name: data for name, data in optional.items() if data is not None}
    others = {"y": y} | given
    shards = _shards(client, _partitions(X, **others))
    with MultiLock(sorted(shards), client):
        return _fit_on(client, estimator, ["X", *others], shards)


def predict(estimator: MDNRegressor, X: Any) -> Any:
    """Predict the conditional mean of every row, lazily.

    Parameters
    ----------
    estimator : MDNRegressor
        Fitted, by Dask or not.
    X : dask array of shape (n_samples, n_features) or dask data frame
        Features.

    Returns
    -------
    y_mean : dask array of shape (n_samples,) or (n_samples, n_outputs)
        Conditional means, in the unit of y.
    """
    return _map(MDNRegressor.predict, estimator, X, shape=_output_shape(estimator))


def score_samples(
    estimator: MDNRegressor, X: Any, y: Any = None, *, y_upper: Any = None
) -> Any:
    """Compute log p(y | x), or its expectation if y is None, lazily.

    Parameters
    ----------
    estimator : MDNRegressor
        Fitted, by Dask or not.
    X : dask array of shape (n_samples, n_features) or dask data frame
        Features.
    y : dask array, series or data frame, default=None
        Targets of each row of X, with the same partitions.
    y_upper : dask array or series, default=None
        Upper ends of intervals that contain the targets, with the same partitions.

    Returns
    -------
    log_density : dask array of shape (n_samples,)
        Log-likelihood in nats; greater is better. See
        :meth:`skmdn.MDNRegressor.score_samples`.
    """
    given = {"y": y, "y_upper": y_upper}
    others = {name: data for name, data in given.items() if data is not None}
    return _map(partial(_score_samples, tuple(others)), estimator, X, **others)


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
        Number of samples of each row.
    random_state : int, RandomState, Generator or None, default=None
        Seed. The samples also depend on the partitions. Computing the same array again,
        also after a worker was lost, gives the same samples.

    Returns
    -------
    y : dask array of shape (n_rows, n_samples) or (n_rows, n_samples, n_outputs)
        Independent samples, in the unit of y.
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
    """Return delayed blocks of rows, as tuples of X and the other data."""
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
            # The lengths of the partitions of a data frame are unknown.
            rows = X.chunks[0] if isinstance(X, da.Array) else data.chunks[0]
            is_known = not np.isnan([*rows, *data.chunks[0]]).any()
            if is_known and sum(rows) != len(data):
                raise ValueError(
                    f"X and {name} must have the same number of rows, got "
                    f"{sum(rows)} and {len(data)}."
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
    method: Callable[..., Any],
    estimator: MDNRegressor,
    X: Any,
    *,
    shape: tuple[int, ...] = (),
    arguments: Callable[[int], tuple[Any, ...]] = lambda number: (),
    **others: Any,
) -> Any:
    """Apply a method to each block; return a dask array (n_samples, *shape).

    `arguments` maps the number of a block to further arguments of the method.
    """
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
    shape: tuple[int, ...] = estimator._model.outputs.event_shape
    return shape


def _score_samples(
    names: tuple[str, ...], estimator: MDNRegressor, X: Any, *others: Any
) -> Any:
    """Score a block, with the arguments of these names."""
    return estimator.score_samples(X, **dict(zip(names, others, strict=True)))


def _sample(
    estimator: MDNRegressor, X: Any, n_samples: int, seed: tuple[int, int]
) -> Any:
    """Draw samples of a block; its number is part of the seed."""
    of_block = np.random.SeedSequence(seed).generate_state(1)[0]
    return estimator.sample(X, n_samples, random_state=int(of_block))


# -- ranks -----------------------------------------------------------------------


def _shards(client: Any, parts: list[tuple[Any, ...]]) -> dict[str, list[Any]]:
    """Return futures of the blocks of each worker, by the address of the worker."""
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
    n_rows: int = block[0].shape[0]
    return n_rows


def _fit_on(
    client: Any,
    estimator: MDNRegressor,
    names: list[str],
    shards: dict[str, list[Any]],
) -> MDNRegressor:
    """Fit with each worker as a rank; return the estimator of rank 0.

    The names are those of the arguments of `MDNRegressor.fit` in each block.
    """
    from distributed.comm import get_address_host

    workers = list(shards)
    host, port, token = get_address_host(workers[0]), 0, uuid.uuid4().hex
    if len(workers) > 1:
        port = client.run(_open_store, token, host, workers=workers[:1])[workers[0]]
    futures = [
        client.submit(
            _fit_as_rank,
            estimator,
            names,
            shards[worker],
            (rank, len(workers), host, port, token),
            workers=[worker],
            # A single rank may be restarted on another worker.
            allow_other_workers=len(workers) == 1,
            pure=False,
        )
        for rank, worker in enumerate(workers)
    ]
    try:
        _watch(client, futures, workers)
        fitted: MDNRegressor = client.gather(futures[0])
        return fitted
    finally:
        client.cancel(futures)
        if workers[0] in client.nthreads():
            client.run(_close_store, token, workers=workers[:1], on_error="ignore")


def _watch(client: Any, futures: list[Any], workers: list[str]) -> None:
    """Wait for all ranks; raise the error that caused the others, if any."""
    from distributed import wait

    n_checks = int(ERROR_SECONDS / CHECK_SECONDS)
    while any(future.status == "pending" for future in futures) and n_checks:
        if len(workers) > 1 and (gone := set(workers) - set(client.nthreads())):
            raise RanksLostError(
                f"Worker {min(gone)} died during training. Call fit again; with a "
                "skmdn.callbacks.Checkpoint it resumes from the last stored epoch."
            )
        n_checks -= any(future.status == "error" for future in futures)
        with suppress(TimeoutError):
            wait(futures, timeout=CHECK_SECONDS)
    errors = [future.exception() for future in futures if future.status == "error"]
    # A RanksLostError is the consequence of an error on another rank.
    for error in sorted(errors, key=lambda error: isinstance(error, RanksLostError)):
        raise error


def _open_store(token: str, host: str) -> int:
    """Open the store by which the ranks connect, on the worker of rank 0."""
    store = _stores[token] = dist.TCPStore(
        host, 0, is_master=True, timeout=TIMEOUT, wait_for_workers=False
    )
    return store.port


def _close_store(token: str) -> None:
    _stores.pop(token, None)


def _fit_as_rank(
    estimator: MDNRegressor,
    names: list[str],
    blocks: list[tuple[Any, ...]],
    place: tuple[int, int, str, int, str],
) -> MDNRegressor | None:
    """Fit the rows of a worker as one rank; return the estimator on rank 0."""
    # Workers may be threads of one process that share the estimator.
    estimator = deepcopy(estimator)
    arrays = [_stack(parts) for parts in zip(*blocks, strict=True)]
    with use_group(_group(*place)):
        estimator.fit(**dict(zip(names, arrays, strict=True)))
    if place[0] > 0:
        return None
    estimator.__dict__.pop("oof_log_density_", None)
    return estimator


def _group(rank: int, size: int, host: str, port: int, token: str) -> Any:
    """Create a process group for one fit; it is not registered globally."""
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

        joined = concat(parts)
        if joined.ndim == 1:
            return joined
        # Blocks with other categories lose their dtype.
        of_first = parts[0].dtypes
        categorical = of_first.index[of_first == "category"]
        return joined.astype(dict.fromkeys(categorical, "category"))
    if sparse.issparse(parts[0]):
        return sparse.vstack(parts, format="csr")
    return np.concatenate(parts)
