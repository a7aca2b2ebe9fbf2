"""ONNX models predict what the estimator predicts."""

import json
import logging
import sys

import numpy as np
import pandas as pd
import pytest
from helpers import busy_network, quick
from numpy.testing import assert_allclose
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from skmdn import MDNRegressor, MixtureDensity, TransformedDensity, export
from skmdn._utils.arrays import rows_per_chunk
from skmdn._utils.compat import parse_version
from skmdn.nn.covariance import COVARIANCE_TYPES

onnxruntime = pytest.importorskip("onnxruntime", reason="needs the extra 'test'")
onnx = pytest.importorskip("onnx", reason="needs the extra 'onnx'")
pytest.importorskip("onnxscript", reason="needs the extra 'onnx'")

RNG = np.random.RandomState(0)
X = RNG.normal(5.0, 100.0, size=(120, 3))
# Skewed both ways, so that an output is mirrored; and of very different units.
Y = np.exp(RNG.normal(size=(120, 3)) + 0.01 * X) * [1e-3, -1.0, 1e4] + [0, 0, 1e6]


def fitted(X=X, y=Y, **options):
    return quick(n_components=3, max_iter=4).set_params(**options).fit(X, y)


def served(mdn, path):
    """Export, and evaluate one row and many with onnxruntime."""
    export.to_onnx(mdn, path)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    assert [item.name for item in session.get_inputs()] == ["X"]
    names = [item.name for item in session.get_outputs()]
    assert names == ["weights", "means", "precision_factors"]
    one, many = (session.run(None, {"X": rows}) for rows in (X[:1], X))
    for alone, among in zip(one, many, strict=True):
        assert_allclose(alone[0], among[0], rtol=1e-12)
    return session, MixtureDensity(*many)


def assert_same_density(ours, theirs, y=Y):
    assert_allclose(ours.weights, theirs.weights, rtol=1e-7)
    assert_allclose(ours.means, theirs.means, rtol=1e-8)
    # Columns have the units of one over the outputs.
    scale = np.abs(theirs.precision_factors).max(axis=(1, 2), keepdims=True)
    difference = (ours.precision_factors - theirs.precision_factors) / scale
    assert_allclose(difference, 0, atol=1e-8)
    assert_allclose(ours.logpdf(y), theirs.logpdf(y), rtol=1e-7)


# One of each kind for newcomers; exporting takes seconds.
@pytest.mark.parametrize(
    "covariance_type",
    [
        pytest.param(kind, marks=[] if kind == "full" else pytest.mark.full)
        for kind in COVARIANCE_TYPES
    ],
)
def test_every_covariance(covariance_type, tmp_path):
    mdn = fitted(covariance_type=covariance_type)
    assert mdn.y_scale_.min() < 0 < mdn.y_scale_.max()
    _, density = served(mdn, tmp_path / "model.onnx")
    assert_same_density(density, mdn.predict_density(X))


# Above 16 outputs, other routines of linear algebra are used.
@pytest.mark.full
@pytest.mark.parametrize("d", [2, 16, 17, 40])
@pytest.mark.parametrize("covariance_type", COVARIANCE_TYPES)
def test_many_outputs(covariance_type, d, tmp_path):
    y = np.exp(0.3 * RNG.normal(size=(120, d)) + 0.003 * X[:, :1])
    y *= np.geomspace(1e-3, 1e4, d) * np.where(np.arange(d) % 3, 1, -1)
    options = {"n_estimators": 2, "n_components": 2, "rank": 2}
    mdn = fitted(y=y, covariance_type=covariance_type, **options)
    _, density = served(mdn, tmp_path / "model.onnx")
    assert_same_density(density, mdn.predict_density(X), y)


@pytest.mark.parametrize(
    "options",
    [
        pytest.param({"embedding": None}, marks=pytest.mark.full),
        pytest.param({"activation": "tanh"}, marks=pytest.mark.full),
        {},
    ],
)
def test_one_output_has_no_output_axis(options, tmp_path):
    mdn = fitted(y=Y[:, 0], **options)
    _, density = served(mdn, tmp_path / "model.onnx")
    ours, theirs = density, mdn.predict_density(X)
    assert ours.means.shape == ours.precision_factors.shape == (120, 12)
    grid = np.linspace(*np.quantile(Y[:, 0], [0, 1]), 7)[:, None]
    assert_allclose(ours.cdf(grid), theirs.cdf(grid), rtol=1e-6, atol=1e-9)


@pytest.mark.full
def test_a_user_defined_network(tmp_path):
    mdn = fitted(network=busy_network)
    _, density = served(mdn, tmp_path / "model.onnx")
    assert_same_density(density, mdn.predict_density(X))


def test_networks_of_several_kinds(tmp_path, monkeypatch):
    kinds = ["periodic_1", "linear", "bins", "plain"]
    monkeypatch.setattr(
        "skmdn._fit.portfolio.apportion", lambda w, n, most: np.ones_like(w, int)
    )
    mdn = fitted(portfolio=kinds, n_estimators=32, max_iter=8, n_components=2)
    assert list(mdn.portfolio_weights_) == kinds
    assert len(mdn.network_.networks) == 3
    _, density = served(mdn, tmp_path / "model.onnx")
    assert_same_density(density, mdn.predict_density(X))


def test_categories_and_missing_values(tmp_path):
    towns = np.array(["Ulm", "Bonn", "Kiel"])[RNG.randint(3, size=120)]
    table = pd.DataFrame(X, columns=["a", "b", "c"]).assign(
        a=np.where(RNG.uniform(size=120) < 0.2, np.nan, X[:, 0]),
        town=pd.Categorical(np.where(RNG.uniform(size=120) < 0.1, None, towns)),
        code=pd.Categorical(RNG.choice([2, 7, 30], size=120)),
        many=pd.Categorical(np.arange(120) % 12),
    )
    mdn = fitted(table, Y)
    path = tmp_path / "model.onnx"
    export.to_onnx(mdn, path)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    metadata = session.get_modelmeta().custom_metadata_map
    levels = json.loads(metadata["categories"])
    assert levels["3"] == ["Bonn", "Kiel", "Ulm"]
    assert levels["4"] == [2, 7, 30]
    table.loc[:2, "code"] = np.nan
    new = table.astype({"town": object, "code": float, "many": float})
    new.loc[3:5, ["town", "code"]] = ["Rom", 8.0]
    position = {level: number for number, level in enumerate(levels["3"])}
    rows = new.assign(town=new.town.map(lambda town: position.get(town, -1)))
    rows.loc[new.town.isna(), "town"] = np.nan
    many = session.run(None, {"X": rows.to_numpy(float)})
    assert_same_density(MixtureDensity(*many), mdn.predict_density(new))


def test_names_and_release_are_in_the_metadata(tmp_path):
    frame = pd.DataFrame(X, columns=["a", "b", "c"])
    mdn = fitted(frame, pd.DataFrame(Y, columns=["u", "v", "w"]))
    session, _ = served(mdn, tmp_path / "model.onnx")
    metadata = session.get_modelmeta().custom_metadata_map
    assert json.loads(metadata["feature_names"]) == ["a", "b", "c"]
    assert json.loads(metadata["output_names"]) == ["u", "v", "w"]
    assert "skmdn" in metadata


def test_the_model_of_a_bounded_target_is_latent(tmp_path):
    mdn = fitted(X, Y[:, :1], target_support=(0, None))
    session, latent = served(mdn, tmp_path / "model.onnx")
    density = mdn.predict_density(X)
    assert_allclose(latent.means, density.latent.means, rtol=1e-8)
    metadata = session.get_modelmeta().custom_metadata_map
    bounds = json.loads(metadata["target_support"])
    assert bounds == [[0.0, None]]
    ours = TransformedDensity(latent, bounds[0])
    assert_allclose(ours.mean(), density.mean(), rtol=1e-7)


def session_of_file(path):
    return onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])


@pytest.fixture(scope="module")
def one_output():
    return fitted(y=Y[:, 0])


def test_the_first_axis_is_named_and_the_model_is_valid(one_output, tmp_path):
    for mdn, shape in ((one_output, [12]), (fitted(), [12, 3])):
        path = tmp_path / "model.onnx"
        export.to_onnx(mdn, path)
        onnx.checker.check_model(path, full_check=True)
        session = session_of_file(path)
        (given,), outputs = session.get_inputs(), session.get_outputs()
        assert given.shape == ["n_samples", 3]
        assert [item.type for item in outputs] == ["tensor(double)"] * 3
        expected = [[12], shape, [*shape, *shape[1:]]]
        assert [item.shape for item in outputs] == [["n_samples", *s] for s in expected]
        # Not where the code lies on the machine that wrote it.
        assert b".py" not in path.read_bytes()


@pytest.mark.parametrize("size", [1, 7, 40, 119, 120, 10_000])
def test_blocks_of_rows_give_the_same_values(one_output, size, tmp_path, monkeypatch):
    monkeypatch.setattr(export, "rows_per_chunk", lambda floats: size)
    export.to_onnx(one_output, tmp_path / "model.onnx")
    session, density = session_of_file(tmp_path / "model.onnx"), []
    for n in (0, 1, 6, 7, 8, 14, 39, 41, 120):
        found = session.run(None, {"X": X[:n]})
        assert [part.shape for part in found] == [(n, 12)] * 3
        density.append(found)
    for found in density:
        for part, whole in zip(found, density[-1], strict=True):
            assert_allclose(part, whole[: len(part)], rtol=1e-12)
    theirs = one_output.predict_density(X)
    assert_allclose(density[-1][1], theirs.means, rtol=1e-8)
    assert_allclose(density[-1][2], theirs.precision_factors, rtol=1e-8)


def test_blocks_fit_the_cache(tmp_path, monkeypatch):
    sizes = []
    monkeypatch.setattr(
        export, "rows_per_chunk", lambda n_bytes: sizes.append(rows_per_chunk(n_bytes))
    )
    monkeypatch.setattr(export, "_loop_over_blocks", lambda *args: None)
    mdn = fitted()
    export.to_onnx(mdn, tmp_path / "model.onnx")
    assert 8 * mdn.network_.floats_per_mixture * sizes[0] <= 2**24
    assert 8 * mdn.network_.floats_per_mixture * (sizes[0] + 1) > 2**24


@pytest.mark.parametrize("dtype", ["float32", np.float32, X.astype("f4").dtype])
def test_float32_rows(one_output, dtype, tmp_path):
    path, rows = tmp_path / "model.onnx", X.astype(np.float32)
    export.to_onnx(one_output, path, input_dtype=dtype)
    session = session_of_file(path)
    found = session.run(None, {"X": rows})
    assert {part.dtype for part in found} == {np.dtype(np.float64)}
    theirs = one_output.predict_density(rows)
    assert_allclose(found[0], theirs.weights, rtol=1e-7)
    assert_allclose(found[1], theirs.means, rtol=1e-8)
    assert_allclose(found[2], theirs.precision_factors, rtol=1e-8)
    with pytest.raises(Exception, match="expected: \\(tensor\\(float\\)\\)"):
        session.run(None, {"X": X})


@pytest.mark.parametrize("dtype", ["float16", int, "text"])
def test_other_types_of_rows_are_refused(one_output, dtype, tmp_path):
    with pytest.raises(ValueError, match="must be 'float64' or 'float32', got"):
        export.to_onnx(one_output, tmp_path / "model.onnx", input_dtype=dtype)


def test_an_export_is_silent_and_leaves_loggers_as_they_were(
    one_output, tmp_path, caplog, capfd
):
    loggers = [logging.getLogger(name) for name in export._NOISE]
    for logger in loggers:
        logger.addHandler(caplog.handler)
    try:
        export.to_onnx(one_output, tmp_path / "model.onnx")
        assert [r for r in caplog.records if r.levelno >= logging.WARNING] == []
        caplog.clear()
        assert capfd.readouterr() == ("", "")
        for logger, start in zip(loggers, export._NOISE.values(), strict=True):
            with export._without_noise():
                logger.warning(f"{start} of %s", "x")
                logger.warning("Another line")
            logger.warning(f"{start} of %s", "y")
    finally:
        for logger in loggers:
            logger.removeHandler(caplog.handler)
    starts = [f"{start} of y" for start in export._NOISE.values()]
    expected = [line for start in starts for line in ("Another line", start)]
    assert list(dict.fromkeys(caplog.messages)) == list(dict.fromkeys(expected))


def test_what_cannot_be_exported_is_refused(tmp_path, monkeypatch):
    pipeline = make_pipeline(StandardScaler(), MDNRegressor())
    with monkeypatch.context() as patch:
        patch.setattr(export, "TORCH_VERSION", parse_version("2.6.0"))
        with pytest.raises(ImportError, match=r"torch 2\.7\.1 or newer, got 2\.6"):
            export.to_onnx(fitted(), tmp_path / "model.onnx")
    with pytest.raises(TypeError, match="must be an MDNRegressor, got Pipeline"):
        export.to_onnx(pipeline, tmp_path / "model.onnx")
    with pytest.raises(ValueError, match="not fitted"):
        export.to_onnx(MDNRegressor(), tmp_path / "model.onnx")
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(ImportError, match=r"pip install 'skmdn\[onnx\]'"):
        export.to_onnx(fitted(), tmp_path / "model.onnx")
