"""skl2onnx converts pipelines that end in an MDNRegressor."""

from functools import partial

import helpers
import numpy as np
import pandas as pd
import pytest
from helpers import linear_data, run_python
from numpy.testing import assert_allclose
from sklearn.compose import make_column_transformer
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

import skmdn
import skmdn.export  # registers the converter

onnxruntime = pytest.importorskip("onnxruntime", reason="needs the extra 'test'")
pytest.importorskip("onnxscript", reason="needs the extra 'onnx'")
skl2onnx = pytest.importorskip("skl2onnx", reason="needs the extra 'onnx'")
from skl2onnx.common.data_types import (  # noqa: E402
    DoubleTensorType,
    FloatTensorType,
    Int64TensorType,
    StringTensorType,
)

quick = partial(helpers.quick, n_components=3, max_iter=4)
X, BOTH = linear_data(120)
X = 100 + 7 * X
OF_X = [("X", DoubleTensorType([None, 3]))]


def served(model, rows):
    """Evaluate a converted pipeline."""
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    names = [item.name for item in session.get_outputs()]
    assert names == ["weights", "means", "precision_factors"]
    return session.run(None, rows)


def assert_same_density(outputs, density, tolerance=1e-7):
    expected = density.weights, density.means, density.precision_factors
    for ours, theirs in zip(outputs, expected, strict=True):
        assert ours.dtype == np.float64
        assert ours.shape == theirs.shape
        difference = (ours - theirs) / np.abs(theirs).max()
        assert_allclose(difference, 0, atol=tolerance)


@pytest.mark.parametrize("y", [BOTH[:, 0], BOTH], ids=["one output", "two outputs"])
def test_a_scaled_pipeline_is_one_model(y):
    pipeline = make_pipeline(StandardScaler(), quick()).fit(X, y)
    model = skl2onnx.to_onnx(pipeline, initial_types=OF_X)
    density = skmdn.predict_density(pipeline, X)
    assert_same_density(served(model, {"X": X}), density)
    one = served(model, {"X": X[:1]})
    assert_same_density(one, density[:1])
    assert_allclose(
        skmdn.MixtureDensity(*served(model, {"X": X})).logpdf(y), density.logpdf(y)
    )


def test_columns_of_several_types_are_encoded_in_the_model():
    table = pd.DataFrame(X, columns=["a", "b", "c"]).assign(
        count=np.arange(120) % 5,
        town=np.array(["Ulm", "Bonn", "Kiel"])[np.arange(120) % 3],
    )
    encoder = make_column_transformer(
        (StandardScaler(), ["a", "b"]),
        (OneHotEncoder(handle_unknown="ignore"), ["town"]),
        remainder="passthrough",
    )
    pipeline = make_pipeline(encoder, quick()).fit(table, BOTH)
    types = [(name, DoubleTensorType([None, 1])) for name in "abc"]
    types += [("count", Int64TensorType([None, 1]))]
    types += [("town", StringTensorType([None, 1]))]
    model = skl2onnx.to_onnx(pipeline, initial_types=types)
    table.loc[:9, "town"] = "Rom"
    rows = {name: table[[name]].to_numpy() for name in table}
    assert_same_density(served(model, rows), skmdn.predict_density(pipeline, table))


@pytest.mark.full
def test_float32_rows_lose_what_their_rounding_loses():
    pipeline = make_pipeline(StandardScaler(), quick()).fit(X, BOTH)
    types = [("X", FloatTensorType([None, 3]))]
    model = skl2onnx.to_onnx(pipeline, initial_types=types)
    outputs = served(model, {"X": X.astype(np.float32)})
    density = skmdn.predict_density(pipeline, X)
    assert_same_density(outputs, density, tolerance=1e-5)
    with pytest.raises(AssertionError):
        assert_same_density(outputs, density)


def test_what_cannot_be_converted_is_refused():
    mdn = quick().fit(X, BOTH)
    types = [("X", StringTensorType([None, 3]))]
    with pytest.raises(TypeError, match="'X' of MDNRegressor is text"):
        skl2onnx.to_onnx(mdn, initial_types=types)
    with pytest.raises(
        ValueError, match=r"target_opset must be at least \d+ .* got 15"
    ):
        skl2onnx.to_onnx(mdn, initial_types=OF_X, target_opset=15)


def test_without_skl2onnx_nothing_is_registered():
    run_python(
        "-c",
        "import sys; sys.modules['skl2onnx'] = None; import skmdn.export",
    )
