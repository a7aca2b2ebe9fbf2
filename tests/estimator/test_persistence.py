"""A stored estimator predicts the same, or refuses to open and says why."""

import copy
import pickle
import random

import cloudpickle
import joblib
import numpy as np
import pytest
import skops.io
import torch
from helpers import ROOT
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.base import clone
from sklearn.exceptions import InconsistentVersionWarning
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from skmdn import MDNRegressor, _stored
from skmdn._utils import persistence as _persistence
from skmdn._utils.persistence import STATE_VERSION, digest
from skmdn.datasets import make_rotating_gaussians
from skmdn.nn.covariance import COVARIANCE_TYPES

X, Y = make_rotating_gaussians(60, random_state=0)
MODELS = sorted((ROOT / "tests" / "models").glob("v*.npz"))
TYPE = "skmdn._regressor.MDNRegressor"

# Stored models were written with the versions of their time.
any_version = pytest.mark.filterwarnings(
    "ignore::sklearn.exceptions.InconsistentVersionWarning"
)


def fitted(**options):
    options = {"n_estimators": 4, "max_iter": 3, "random_state": 0} | options
    return MDNRegressor(2, hidden_layer_sizes=(8,), **options).fit(X, Y)


def through_pickle(mdn, path):
    return pickle.loads(pickle.dumps(mdn))


def through_cloudpickle(mdn, path):
    return pickle.loads(cloudpickle.dumps(mdn))


def through_joblib(mdn, path):
    joblib.dump(mdn, path)
    return joblib.load(path)


def through_memory_map(mdn, path):
    joblib.dump(mdn, path)
    return joblib.load(path, mmap_mode="r")


def through_skops(mdn, path):
    skops.io.dump(mdn, path)
    assert skops.io.get_untrusted_types(file=path) == [TYPE]
    return skops.io.load(path, trusted=[TYPE])


WAYS = {
    "pickle": through_pickle,
    "cloudpickle": through_cloudpickle,
    "joblib": through_joblib,
    "joblib, mmap_mode='r'": through_memory_map,
    "skops": through_skops,
    "copy": lambda mdn, path: copy.copy(mdn),
    "deepcopy": lambda mdn, path: copy.deepcopy(mdn),
}


def assert_alike(restored, mdn):
    assert_array_equal(restored.predict(X), mdn.predict(X))
    assert_array_equal(restored.score_samples(X, Y), mdn.score_samples(X, Y))
    assert restored.__getstate__()["_seal"] == mdn.__getstate__()["_seal"]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("covariance_type", COVARIANCE_TYPES)
def test_restored_estimators_predict_the_same(way, covariance_type, tmp_path):
    mdn = fitted(covariance_type=covariance_type)
    restored = WAYS[way](mdn, tmp_path / "model")
    assert_alike(restored, mdn)
    assert_alike(restored.partial_fit(X, Y), mdn.partial_fit(X, Y))


@pytest.mark.parametrize("way", WAYS)
def test_unfitted_estimators_and_pipelines_are_restored(way, tmp_path):
    mdn = MDNRegressor(3, alpha=0.5)
    assert WAYS[way](mdn, tmp_path / "unfitted").get_params() == mdn.get_params()
    if way == "skops":
        return  # the pipeline's own types are its own affair
    pipeline = make_pipeline(StandardScaler(), clone(fitted())).fit(X, Y)
    restored = WAYS[way](pipeline, tmp_path / "pipeline")
    assert_array_equal(restored.predict(X), pipeline.predict(X))


def test_state_is_arrays_and_builtins():
    def leaves(item):
        if isinstance(item, dict):
            for value in item.values():
                yield from leaves(value)
        elif isinstance(item, (tuple, list)):
            for value in item:
                yield from leaves(value)
        else:
            yield item

    state = fitted().partial_fit(X, Y).__getstate__()
    kinds = {type(leaf) for leaf in leaves(state)}
    assert kinds <= {int, float, str, bool, type(None), np.ndarray}


def test_a_model_of_an_accelerator_opens_without_one(monkeypatch):
    mdn = fitted(device="auto")
    data = pickle.dumps(mdn)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    restored = pickle.loads(data)
    assert {p.device.type for p in restored.network_.parameters()} == {"cpu"}
    assert_alike(restored, mdn)


# -- what other releases wrote, and what nobody did ------------------------------


@any_version
@pytest.mark.parametrize("kind", ["pkl", "skops"])
@pytest.mark.parametrize("values", MODELS, ids=lambda path: path.stem)
def test_models_stored_by_earlier_releases_open(values, kind):
    path = values.with_suffix(f".{kind}")
    if kind == "pkl":
        mdn = pickle.loads(path.read_bytes())
    else:
        mdn = skops.io.load(path, trusted=[TYPE])
    with np.load(values) as expected:
        mean = mdn.predict(expected["X"])
        log_density = mdn.score_samples(expected["X"], expected["y"])
        assert_allclose(mean, expected["mean"], rtol=1e-12)
        assert_allclose(log_density, expected["log_density"], rtol=1e-12)
        # Nothing is lacking that training needs.
        kinds = list(mdn.portfolio_weights_)
        if mdn._model.views:
            with pytest.raises(ValueError, match="view of the training rows"):
                mdn.partial_fit(expected["X"], expected["y"])
        else:
            mdn.partial_fit(expected["X"], expected["y"])
        mdn.set_params(warm_start=True, max_iter=1).fit(expected["X"], expected["y"])
        assert list(mdn.portfolio_weights_) == kinds


def test_views_of_form_4_are_parts_now():
    """Its networks have one view, or none."""
    scaling = {"mean": [0.0], "scale": [-1.0]}
    model = {"structures": [{}, {}], "target": scaling, "features": scaling}
    old = model | {"views": {"kriging": 1}, "views_of": ["kriging", None]}
    new = _stored._with_transforms({"_model": old})["_model"]
    assert new["views"] == {"kriging": 1}
    assert new["views_of"] == [("kriging",), ()]
    plain = _stored._with_transforms({"_model": model})["_model"]
    assert (plain["views"], plain["views_of"]) == ({}, [(), ()])


def test_a_model_of_this_form_is_stored():
    assert MODELS[-1].stem == f"v{STATE_VERSION}"


def test_a_newer_form_is_refused(monkeypatch):
    monkeypatch.setattr(_persistence, "STATE_VERSION", STATE_VERSION + 1)
    monkeypatch.setitem(_persistence.WRITERS, "skmdn", "9.9")
    data = pickle.dumps(fitted())
    monkeypatch.undo()
    with pytest.raises(ValueError, match=r"by skmdn 9\.9 .* Install skmdn>=9\.9"):
        pickle.loads(data)


@pytest.mark.parametrize("package", _persistence.WRITERS)
def test_another_version_of_a_writer_is_reported(package, monkeypatch):
    mdn = fitted()
    monkeypatch.setitem(_persistence.WRITERS, package, "1.2.3")
    data = pickle.dumps(mdn)
    monkeypatch.undo()
    message = rf"MDNRegressor was written with {package} 1\.2\.3, and is opened with"
    with pytest.warns(InconsistentVersionWarning, match=message) as caught:
        restored = pickle.loads(data)
    assert [warning.filename for warning in caught] == [__file__]
    assert_array_equal(restored.predict(X), mdn.predict(X))


def test_another_build_of_a_version_is_not_reported(monkeypatch):
    mdn = fitted()
    version = _persistence.WRITERS["torch"].partition("+")[0]
    monkeypatch.setitem(_persistence.WRITERS, "torch", f"{version}+cu999")
    data = pickle.dumps(mdn)
    monkeypatch.undo()
    pickle.loads(data)  # a warning is an error


def edited(change):
    """Return an unfitted estimator and a state that was edited after sealing."""
    state = fitted().__getstate__()
    change(state)
    return MDNRegressor.__new__(MDNRegressor), state


@pytest.mark.parametrize(
    "change",
    [
        lambda state: state["_model"]["parameters"].popitem(),
        lambda state: state["_model"]["target"]["normal"].__setitem__(0, 2.0),
        lambda state: state["_model"].update(event_shape=()),
        lambda state: state.update(max_iter=4),
        lambda state: state["_model"]["parameters"].update(more=np.zeros(3)),
        lambda state: state["_model"].pop("features"),
        lambda state: state["_model"]["structures"][0].update(activation="relu"),
    ],
)
def test_an_edited_state_is_refused(change):
    blank, state = edited(change)
    with pytest.raises(ValueError, match=r"differs from the one that skmdn .* wrote"):
        blank.__setstate__(state)


@pytest.mark.parametrize("seal", [{}, None, {"state": 1}])
def test_a_state_without_a_seal_is_refused(seal):
    blank, state = edited(lambda state: state.update(_seal=seal))
    with pytest.raises(ValueError, match="no seal of skmdn"):
        blank.__setstate__(state)
    del state["_seal"]
    with pytest.raises(ValueError, match="no seal of skmdn"):
        blank.__setstate__(state)


def test_a_truncated_pickle_never_opens():
    data = MODELS[-1].with_suffix(".pkl").read_bytes()
    for length in range(0, len(data) - 1, 7):
        with pytest.raises((EOFError, pickle.UnpicklingError, ValueError)):
            pickle.loads(data[:length])


@any_version
def test_a_damaged_file_opens_as_it_was_or_not_at_all():
    """Flip one bit of the stored numbers, anywhere in the file."""
    data = MODELS[-1].with_suffix(".pkl").read_bytes()
    mdn = pickle.loads(data)
    weights = mdn.__getstate__()["_model"]["parameters"]
    draw = random.Random(0)
    for array in weights.values():
        start = data.index(array.tobytes())
        flipped = bytearray(data)
        flipped[start + draw.randrange(array.nbytes)] ^= 1 << draw.randrange(8)
        with pytest.raises(ValueError, match="damaged"):
            pickle.loads(bytes(flipped))


def test_a_damaged_skops_file_is_refused(tmp_path):
    data = MODELS[-1].with_suffix(".skops").read_bytes()
    path = tmp_path / "model.skops"
    for length in (0, 100, len(data) // 2, len(data) - 30):
        path.write_bytes(data[:length])
        with pytest.raises(Exception, match="zip"):
            skops.io.load(path, trusted=[TYPE])


def test_digests_tell_items_apart():
    items = [
        {},
        [],
        None,
        0,
        0.0,
        -0.0,
        False,
        "",
        b"",
        "0",
        [0],
        [[0]],
        [0, 0],
        {"a": 0},
        {"a": {"b": 0}},
        {"a": 0, "b": 0},
        np.zeros(2),
        np.zeros(3),
        np.zeros((1, 2)),
        np.zeros(2, dtype=np.float32),
        np.array(["a", "b"], dtype=object),
        np.array(["a", "c"], dtype=object),
    ]
    assert len({digest(item) for item in items}) == len(items)
    assert digest({"a": 1, "b": 2}) == digest({"b": 2, "a": 1})
    assert digest(np.float64(0.1)) == digest(0.1)
    grid = np.arange(6.0).reshape(2, 3)
    assert digest(grid) == digest(np.asfortranarray(grid))


@any_version
def test_a_removed_parameter_of_an_older_state_is_reported(monkeypatch):
    mdn = pickle.loads(MODELS[0].with_suffix(".pkl").read_bytes())
    state = mdn.__getstate__()
    state.pop("_seal")
    monkeypatch.setattr(_persistence, "STATE_VERSION", 2)
    old = _persistence.seal({"input_noise": 0.1, "n_estimators": 4})
    monkeypatch.undo()
    with pytest.warns(UserWarning, match=r"input_noise=0\.1, but .* removed"):
        MDNRegressor.__new__(MDNRegressor).__setstate__(old)


def test_partial_fits_continue_from_the_state_of_form_2():
    """Form 2 stores the optimizer under another name, and the model in attributes."""
    mdn = MDNRegressor(
        2,
        n_estimators=2,
        embedding="periodic",
        hidden_layer_sizes=(4,),
        random_state=0,
    )
    mdn.partial_fit(X, Y)
    twin = copy.copy(mdn)
    state, model = dict(vars(mdn)), mdn._model.to_state()
    later = {"_model", "_optimizer_state", "portfolio", "portfolio_weights_"}
    old = {k: v for k, v in state.items() if k not in later}
    old["network_"] = {
        name.removeprefix("networks.0."): values
        for name, values in model["parameters"].items()
        if name != "log_weights"
    }
    (structure,) = model["structures"]
    later = {"n_bins", "has_skip"}
    structure = {k: v for k, v in structure.items() if k not in later}
    old |= {"_structure": structure, "_y_ndim": 2}
    old["_moments"] = {
        name.removeprefix("0."): values
        for name, values in state["_optimizer_state"].items()
    }
    restored = MDNRegressor.__new__(MDNRegressor)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_persistence, "STATE_VERSION", 2)
        old = _persistence.seal(old)
    restored.__setstate__(old)
    assert_array_equal(restored.predict(X), mdn.predict(X))
    assert_array_equal(
        restored.partial_fit(X, Y).predict(X), twin.partial_fit(X, Y).predict(X)
    )
