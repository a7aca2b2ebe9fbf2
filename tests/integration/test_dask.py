"""Dask: searches, one fit on several workers, and lazy predictions."""

import os
import signal
import time

import joblib
import numpy as np
import pytest
from helpers import (
    SEARCHES,
    assert_same_search,
    dask_client,
    needs_callbacks,
    quick,
)
from numpy.testing import assert_allclose, assert_array_equal
from scipy import sparse

import skmdn
from skmdn.callbacks import Checkpoint
from skmdn.datasets import make_rotating_gaussians
from skmdn.distributed import RanksLostError

da = pytest.importorskip("dask.array", reason="needs the extra 'dask'")
dd = pytest.importorskip("dask.dataframe", reason="needs pandas and dask[dataframe]")
distributed = pytest.importorskip("distributed", reason="needs the extra 'dask'")
pd = pytest.importorskip("pandas", reason="needs pandas")
dask = pytest.importorskip("skmdn.dask")

from distributed.protocol import dask_deserialize, dask_serialize
from distributed.protocol.numpy import (
    deserialize_numpy_ndarray,
    serialize_numpy_ndarray,
)

pytestmark = [
    pytest.mark.xdist_group("dask"),
    # What Dask and its loop leave open when a cluster of processes ends.
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
]

X, Y = make_rotating_gaussians(200, random_state=0)
HOLES = np.where(np.arange(200) % 90 == 89, np.inf, 0.0)[:, None]


@pytest.fixture(scope="module")
def client():
    with dask_client() as client:
        yield client


@pytest.fixture
def disposable():
    """A client of workers for one test, which may kill one of them."""
    with dask_client() as client:
        yield client


def blocks(array, size=40):
    chunks = (size, *array.shape[1:])
    return da.from_array(array, chunks=chunks)


# -- searches --------------------------------------------------------------------


class Counted(np.ndarray):
    """Count how often this process sends the array."""

    n_sent = 0


@dask_serialize.register(Counted)
def send(array):
    Counted.n_sent += 1
    return serialize_numpy_ndarray(np.asarray(array))


dask_deserialize.register(Counted)(deserialize_numpy_ndarray)


@pytest.mark.parametrize("search", SEARCHES)
def test_workers_find_what_one_process_finds(client, search):
    serial = SEARCHES[search]().fit(X, Y)
    with joblib.parallel_config("dask"):
        assert_same_search(SEARCHES[search]().fit(X, Y), serial, X)


def test_rows_are_sent_once(client):
    rows = X.view(Counted)
    Counted.n_sent = 0
    with joblib.parallel_config("dask", scatter=[rows]):
        SEARCHES["grid"](refit=False).fit(rows, Y)
    assert Counted.n_sent == 1


# -- one fit on several workers --------------------------------------------------


def assert_same_fit(ours, theirs):
    assert_array_equal(ours.loss_curve_, theirs.loss_curve_)
    assert_array_equal(ours.score_samples(X, Y), theirs.score_samples(X, Y))


def test_workers_learn_what_one_process_learns(client):
    X, Y = make_rotating_gaussians(1000, random_state=0)
    mdn = quick(max_iter=40, batch_size=32).set_params(n_components=5)
    ours = dask.fit(mdn, blocks(X, 300), blocks(Y, 300), client)
    assert type(ours) is skmdn.MDNRegressor
    assert not hasattr(mdn, "network_")
    alone = mdn.fit(X, Y)
    assert_allclose(ours.X_mean_, alone.X_mean_, rtol=1e-12)
    assert_allclose(ours.y_scale_, alone.y_scale_, rtol=1e-12)
    # Fits of other seeds differ by 0.03.
    assert_allclose(ours.score(X, Y), alone.score(X, Y), atol=0.15)
    assert_allclose(ours.oof_score_, alone.oof_score_, atol=0.15)
    assert not hasattr(ours, "oof_log_density_")


def test_frames_are_fitted_as_arrays(client):
    weight = np.arange(200.0) % 3 + 1
    frame = pd.DataFrame(X, columns=["a"])
    frame["weight"], frame[["u", "v"]] = weight, Y
    frame = dd.from_pandas(frame, npartitions=4)
    mdn = dask.fit(
        quick(),
        frame[["a"]],
        frame[["u", "v"]],
        client,
        sample_weight=frame["weight"],
    )
    assert list(mdn.feature_names_in_) == ["a"]
    assert mdn.output_names_ == ("u", "v")
    lengths = frame.map_partitions(len).compute()
    edges = tuple(lengths)
    arrays = [da.from_array(a, chunks=(edges, *a.shape[1:])) for a in (X, Y, weight)]
    twin = dask.fit(quick(), *arrays[:2], client, sample_weight=arrays[2])
    for name, expected in (("X_mean_", X), ("y_mean_", Y)):
        expected = np.average(expected, axis=0, weights=weight)
        assert_allclose(getattr(mdn, name), expected, rtol=1e-12)
        assert_allclose(getattr(twin, name), expected, rtol=1e-12)
    assert_allclose(twin.oof_score_, mdn.oof_score_, atol=0.3)


def test_categories_are_those_of_all_workers(client):
    names = np.array(["red", "green", "blue"])[np.arange(200) // 67]
    holes = np.where(np.arange(200) % 9 == 0, np.nan, X[:, 0])
    table = pd.DataFrame({"a": holes, "colour": pd.Categorical(names)})
    lazy = dd.from_pandas(table, npartitions=4).map_partitions(
        lambda part: part.assign(colour=part.colour.cat.remove_unused_categories())
    )
    targets = dd.from_pandas(pd.DataFrame(Y), npartitions=4)
    ours = dask.fit(quick(), lazy, targets, client)
    alone = quick().fit(table, pd.DataFrame(Y))
    assert ours.feature_encoder_.levels == alone.feature_encoder_.levels
    assert_allclose(ours.X_mean_, alone.X_mean_, rtol=1e-12)
    assert_allclose(dask.predict(ours, lazy).compute(), ours.predict(table))


def test_intervals_are_fitted_and_scored(client):
    upper = np.where(np.arange(200) % 5 == 0, np.inf, Y[:, 0])
    rows = blocks(X, 60), blocks(Y[:, 0], 60)
    ours = dask.fit(quick(), *rows, client, y_upper=blocks(upper, 60))
    assert ours.oof_score_ > dask.fit(quick(), *rows, client).oof_score_
    lazy = dask.score_samples(ours, *rows, y_upper=blocks(upper, 60))
    expected = ours.score_samples(X, Y[:, 0], y_upper=upper)
    assert_allclose(lazy.compute(), expected)


@pytest.mark.parametrize("n_estimators", [1, 4])
def test_groups_are_those_of_all_workers(client, n_estimators):
    group = np.arange(200) % 4
    labels = np.array(list("abcd"))[group]
    mdn = quick(n_estimators=n_estimators)
    arrays = [blocks(part) for part in (X, Y)]
    fitted = dask.fit(mdn, *arrays, client, groups=blocks(labels))
    assert np.isfinite(fitted.validation_scores_).all()
    # One block is one rank, whose fit is that of one process.
    rows = blocks(X, 200), blocks(Y, 200)
    one = dask.fit(mdn, *rows, client, groups=blocks(labels, 200))
    assert_same_fit(one, quick(n_estimators=n_estimators).fit(X, Y, groups=group))
    series = dd.from_pandas(pd.Series(labels, dtype="category"), npartitions=4)
    frame = dd.from_pandas(pd.DataFrame(X, columns=["a"]), npartitions=4)
    y = dd.from_pandas(pd.DataFrame(Y), npartitions=4)
    assert dask.fit(mdn, frame, y, client, groups=series).n_outputs_ == 2
    with pytest.raises(ValueError, match="groups must have at least 2 different"):
        dask.fit(mdn, *arrays, client, groups=blocks(np.ones(200)))


def test_one_output_empty_blocks_sparse_rows_and_other_chunks(client):
    rows = da.from_array(X, chunks=((50, 0, 100, 50), 1))
    rows = rows.map_blocks(sparse.csr_array)
    mdn = dask.fit(quick(), rows, blocks(Y[:, 0], 70), client)
    assert mdn.n_outputs_ == 1
    assert dask.predict(mdn, rows).compute().shape == (200,)


def test_the_fit_of_one_worker_is_that_of_one_process(client):
    ours = dask.fit(quick(), blocks(X, 200), blocks(Y, 200), client)
    assert_same_fit(ours, quick().fit(X, Y))


def test_fitted_networks_are_continued(client):
    first = dask.fit(quick(warm_start=True), blocks(X), blocks(Y), client)
    again = dask.fit(first, blocks(X), blocks(Y), client)
    assert_array_equal(again.X_mean_, first.X_mean_)
    assert again.loss_curve_[0] < first.loss_curve_[0]


def test_threads_of_one_process_are_ranks_too():
    with dask_client(processes=False) as client:
        estimator = quick()
        mdn = dask.fit(estimator, blocks(X), blocks(Y), client)
        assert not hasattr(estimator, "network_")
        assert mdn.score(X, Y) > -2.5


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (
            (X, blocks(Y)),
            TypeError,
            "X must be a dask array or data frame, got ndarray",
        ),
        (
            (blocks(X), Y),
            TypeError,
            "y must be a dask array or data frame, got ndarray",
        ),
        (
            (blocks(X), blocks(Y[:90])),
            ValueError,
            "same number of rows, got 200 and 90",
        ),
        (
            (dd.from_pandas(pd.DataFrame(X), npartitions=3), blocks(Y)),
            ValueError,
            "partitioned alike, got 3 and 5 partitions",
        ),
        (
            (dd.from_pandas(pd.DataFrame(X), npartitions=5), blocks(Y[::-1][:190], 38)),
            ValueError,
            "inconsistent numbers of samples",
        ),
        ((blocks(X + HOLES), blocks(Y)), ValueError, "X contains infinity"),
    ],
)
def test_rows_that_do_not_fit_are_refused(client, arguments, error, message):
    with pytest.raises(error, match=message):
        dask.fit(quick(), *arguments, client)


def test_only_an_mdn_is_fitted(client):
    with pytest.raises(TypeError, match=r"must be an MDNRegressor, got GridSearchCV"):
        dask.fit(SEARCHES["grid"](), blocks(X), blocks(Y), client)


# -- predictions -----------------------------------------------------------------


@pytest.fixture(scope="module")
def fitted():
    return quick().fit(X, Y)


def test_predictions_are_those_of_the_estimator(client, fitted):
    lazy = dask.predict(fitted, blocks(X))
    assert lazy.chunks == ((40,) * 5, (2,))
    assert_allclose(lazy.compute(), fitted.predict(X), rtol=1e-12, atol=1e-14)
    lazy = dask.score_samples(fitted, blocks(X), blocks(Y, 30))
    assert lazy.shape == (200,)
    assert_allclose(lazy.compute(), fitted.score_samples(X, Y), rtol=1e-12)
    lazy = dask.score_samples(fitted, blocks(X[:50]))
    assert_allclose(lazy.compute(), fitted.score_samples(X[:50]), rtol=1e-12)


def test_predictions_are_lazy(fitted):
    def refuse(block):
        raise AssertionError("computed")

    rows = blocks(X).map_blocks(refuse, dtype=float, meta=np.empty((0, 1)))
    for lazy in (
        dask.predict(fitted, rows),
        dask.score_samples(fitted, rows),
        dask.sample(fitted, rows),
    ):
        assert isinstance(lazy, da.Array)


def test_samples_differ_between_blocks_and_repeat(client, fitted):
    rows = blocks(np.repeat(X[:1], 80, axis=0))
    lazy = dask.sample(fitted, rows, 3, random_state=0)
    assert lazy.shape == (80, 3, 2)
    drawn = lazy.compute()
    assert_array_equal(drawn, lazy.compute())
    assert_array_equal(drawn, dask.sample(fitted, rows, 3, random_state=0).compute())
    assert len(np.unique(drawn)) == drawn.size
    other = dask.sample(fitted, rows, 3).compute()
    assert not np.isin(other, drawn).any()


def test_frames_give_arrays_of_unknown_length(client):
    frame = pd.DataFrame(X, columns=["a"])
    mdn = quick().fit(frame, Y[:, 0])
    lazy = dask.predict(mdn, dd.from_pandas(frame, npartitions=3))
    assert np.isnan(lazy.shape[0])
    assert_allclose(lazy.compute(), mdn.predict(frame), rtol=1e-12)


# -- killed workers --------------------------------------------------------------


def slowly(block):
    time.sleep(0.2)
    return block


def test_prediction_survives_a_killed_worker(disposable, fitted):
    rows = blocks(X, 10).map_blocks(slowly, dtype=float, meta=np.empty((0, 1)))
    pids = list(disposable.run(os.getpid).values())
    future = disposable.compute(dask.sample(fitted, rows, random_state=0))
    time.sleep(1)
    assert not future.done()
    os.kill(pids[0], signal.SIGKILL)
    expected = dask.sample(fitted, blocks(X, 10), random_state=0)
    assert_array_equal(future.result(timeout=120), expected.compute())


@needs_callbacks
def test_a_worker_killed_during_training_is_reported(disposable, tmp_path):
    path = tmp_path / "fit.npz"
    mdn = quick(max_iter=60, n_iter_no_change=60)
    mdn.set_callbacks(Checkpoint(path), KillWorker(20))
    start = time.monotonic()
    with pytest.raises(RanksLostError, match="Checkpoint"):
        dask.fit(mdn, blocks(X), blocks(Y), disposable)
    assert time.monotonic() - start < 60
    with np.load(path) as file:
        losses = file["losses"]
    assert len(losses) == 21
    disposable.wait_for_workers(2, timeout=60)
    resumed = dask.fit(
        mdn.set_callbacks(Checkpoint(path)), blocks(X), blocks(Y), disposable
    )
    assert not path.exists()
    assert_array_equal(resumed.loss_curve_[:21], losses)
    assert resumed.n_iter_ == 60


class KillWorker:
    """Callback that kills the worker of one rank at the end of an epoch."""

    def __init__(self, epoch):
        self.epoch = epoch

    def setup(self, estimator, context):
        pass

    def on_fit_task_begin(self, estimator, context):
        pass

    def on_session_begin(self, session, context):
        self.rank = session.data.ranks.rank

    def on_fit_task_end(self, estimator, context):
        is_time = context.task_name == "epoch" and context.task_id == self.epoch
        if is_time and self.rank == 1:
            os.kill(os.getpid(), signal.SIGKILL)

    def teardown(self, estimator, context):
        pass
