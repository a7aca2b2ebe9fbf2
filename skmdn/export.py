"""Export of fitted networks as ONNX models.

Requires the extra ``skmdn[onnx]``.
"""

from __future__ import annotations

import json
import logging
import os
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from copy import deepcopy
from typing import Any

import numpy as np
import torch
from numpy.typing import DTypeLike
from sklearn.utils.validation import check_is_fitted
from torch import Tensor, nn

from skmdn import _mixture, _onnx_converter
from skmdn._data.feature_transform import size_of_indicators
from skmdn._model import ConditionalModel
from skmdn._regressor import MDNRegressor
from skmdn._utils.arrays import rows_per_chunk, to_tensor
from skmdn._utils.compat import TORCH_VERSION, aten, parse_version
from skmdn._version import __version__

__all__ = ["to_onnx"]

_OUTPUTS = "weights", "means", "precision_factors"
# Lines of torch and onnxscript about operators that no exported network has.
_NOISE = {
    "torch.onnx._internal.exporter._registration": "torchvision is not installed",
    "onnxscript.optimizer._constant_folding": "Skipping constant folding",
}


def to_onnx(
    estimator: MDNRegressor,
    path: str | os.PathLike[str],
    *,
    input_dtype: DTypeLike = "float64",
) -> None:
    """Write a fitted estimator as an ONNX model, which runs without torch.

    The model includes the standardisation and the encoding of categories and missing
    values. Its input is `X` of shape (n_samples, n_features): NaN where a
    value is missing, and for a category that is not a number its position among the
    levels of its column, which the metadata name (any other number means an unknown
    one). Its outputs are the attributes of a
    :class:`~skmdn.MixtureDensity`: `weights` (n_samples, K), `means`
    (n_samples, K, n_outputs) and `precision_factors`
    (n_samples, K, n_outputs, n_outputs), in the unit of y. If y was one-dimensional,
    all three have the shape (n_samples, K). With `target_support` they are those of the
    latent mixture: its bounds are in the metadata, as JSON, and
    ``TransformedDensity(latent, bounds)`` is the density.

    Parameters
    ----------
    estimator : MDNRegressor
        Fitted estimator. Of a pipeline, ``skl2onnx.to_onnx`` makes one model: the
        import of `skmdn.export` tells it how to convert the last step.
    path : str or path-like
        File to write.
    input_dtype : {"float64", "float32"} or dtype, default="float64"
        Type of `X`; a model of one type refuses arrays of the other one. Outputs are
        float64 in any case.

    Raises
    ------
    ImportError
        If onnx or onnxscript is not installed, or torch is older than 2.7.1.
    TypeError
        If the estimator is not an MDNRegressor.
    ValueError
        If networks that predict have a view of the training rows, or for another
        `input_dtype`.

    Notes
    -----
    The model computes blocks of rows one after the other, as `predict_density` does, so
    that the memory of a call is that of its outputs and little more.
    All computations are in float64; with onnxruntime on a CPU, results agree with
    `predict_density` to about eight digits. The metadata of the model contain the
    version of skmdn and, as JSON, the names of features and outputs if they have any,
    and the levels of each categorical column by its position.
    User-defined modules (`network`) are exported if :func:`torch.export.export` can
    trace them.

    Examples
    --------
    >>> import os, tempfile
    >>> from skmdn import MDNRegressor
    >>> from skmdn.datasets import load_geyser
    >>> from skmdn.export import to_onnx
    >>> X, y = load_geyser(return_X_y=True)
    >>> mdn = MDNRegressor(2, n_estimators=4, max_iter=5, random_state=0).fit(X, y)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = os.path.join(folder, "geyser.onnx")
    ...     to_onnx(mdn, path)
    ...     os.listdir(folder)
    ['geyser.onnx']
    """
    _check_exportable(estimator)
    dtype = _checked_dtype(input_dtype)
    program = _exported_program(estimator)
    # Only now: the error of a missing package has to name what to install.
    import onnx

    model = program.model_proto
    pool = estimator._model.pool
    _loop_over_blocks(model, rows_per_chunk(8 * pool.floats_per_mixture), dtype)
    onnx.helper.set_model_props(model, _metadata(estimator))
    onnx.save(model, os.fspath(path))


def _exported_program(estimator: MDNRegressor) -> torch.onnx.ONNXProgram:
    """Convert the networks to an ONNX graph that computes all rows at once."""
    rows = torch.zeros(2, estimator.n_features_in_, dtype=torch.float64, device="cpu")
    program = torch.export.export(
        _Served(estimator._model).eval(),
        (rows,),
        dynamic_shapes=({0: torch.export.Dim("n_samples")},),
    )
    with _without_noise(), warnings.catch_warnings():
        # torch raises this warning itself.
        warnings.filterwarnings("ignore", ".*LeafSpec", FutureWarning)
        model = torch.onnx.export(
            program.run_decompositions(_DECOMPOSITIONS),
            (rows,),
            input_names=["X"],
            output_names=[*_OUTPUTS],
            verbose=False,
        )
    assert model is not None  # guaranteed if no path is given
    return model


def _check_exportable(estimator: Any) -> None:
    """Raise an error if the estimator, or this environment, cannot be used."""
    if not isinstance(estimator, MDNRegressor):
        raise TypeError(
            f"estimator must be an MDNRegressor, got {type(estimator).__name__}. For a "
            "pipeline use skl2onnx.to_onnx, see docs/serving.md; of a search, take "
            "best_estimator_."
        )
    check_is_fitted(estimator)
    if estimator._model.views:
        raise ValueError(
            "An ONNX model cannot contain a view of the training rows, and "
            f"portfolio_weights_ is {estimator.portfolio_weights_}. Fit again with a "
            "portfolio of kinds without views, as in portfolio=['periodic_0.1', "
            "'periodic_0.3', 'periodic_1', 'linear', 'bins']."
        )
    if parse_version("2.7.1") > TORCH_VERSION:
        raise ImportError(
            f"to_onnx requires torch 2.7.1 or newer, got {TORCH_VERSION}: "
            "pip install 'skmdn[onnx]'."
        )
    try:
        import onnxscript  # noqa: F401  # the error of torch.onnx is less clear
    except ImportError as exc:
        raise ImportError(
            "to_onnx requires onnx and onnxscript: pip install 'skmdn[onnx]'."
        ) from exc


def _checked_dtype(input_dtype: DTypeLike) -> np.dtype[Any]:
    """Convert the type of X, or raise an error."""
    with suppress(TypeError):  # numpy's error does not name the argument
        dtype = np.dtype(input_dtype)
        if dtype in (np.float64, np.float32):
            return dtype
    raise ValueError(
        f"input_dtype must be 'float64' or 'float32', got {input_dtype!r}."
    )


class _Served(nn.Module):
    """Map rows of X to pooled mixtures, both in the unit of the user."""

    X_mean: Tensor
    X_scale: Tensor
    X_knees: Tensor
    X_spread: Tensor
    X_median: Tensor
    y_mean: Tensor
    y_scale: Tensor

    def __init__(self, model: ConditionalModel) -> None:
        super().__init__()
        self.pool = deepcopy(model.pool).requires_grad_(False)
        self.outputs = model.outputs
        self.encoder = model.features.encoder
        self.numbers = self.encoder.numbers
        of_numbers = model.features.scaling.take(self.numbers)
        for name, scaling in {"X": of_numbers, "y": model.target.scaling}.items():
            self.register_buffer(f"{name}_mean", to_tensor(scaling.mean))
            self.register_buffer(f"{name}_scale", to_tensor(scaling.scale))
        self.register_buffer("X_knees", to_tensor(of_numbers.knees))
        self.register_buffer("X_spread", to_tensor(of_numbers.spread))
        self.register_buffer("X_median", to_tensor(self.encoder.median[self.numbers]))
        self.levels = [*self.encoder.levels]
        for j, levels in self.encoder.levels.items():
            # Levels that are not numbers are given by their positions.
            is_number = not any(isinstance(level, str) for level in levels)
            values = levels if is_number else range(len(levels))
            self.register_buffer(f"values_{j}", to_tensor(np.array(values, float)))
            # Indicators (n_codes, n_indicators) of the unknown level, of all others,
            # and of missing values.
            places = torch.from_numpy(model.features.places[j])
            columns = torch.arange(int(places.max()) + 1, device="cpu")
            table = (places[:, None] == columns).to(torch.float64)
            table *= size_of_indicators(len(columns))
            self.register_buffer(f"indicators_{j}", table)

    def encode(self, X: Tensor) -> Tensor:
        """Compute what `FeatureTransform.transform` does for encoded rows."""
        is_missing = X.isnan()
        parts = []
        for j in self.levels:
            values, table = (
                getattr(self, f"{name}_{j}") for name in ("values", "indicators")
            )
            is_level = X[:, j, None] == values
            known, missing = is_level.any(dim=1), is_missing[:, j]
            states = [~known & ~missing, *is_level.unbind(1), missing]
            parts.append(torch.stack(states, dim=1).to(X) @ table)
        parts.append(is_missing[:, list(self.encoder.with_missing)].to(X))
        x = X[:, self.numbers]
        x = torch.where(is_missing[:, self.numbers], self.X_median, x)
        inside = torch.minimum(torch.maximum(x, self.X_knees[0]), self.X_knees[1])
        x = inside + self.X_spread * _asinh((x - inside) / self.X_spread)
        return torch.cat([*parts, (x - self.X_mean) / self.X_scale], dim=1)

    def forward(self, X: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        mixture = self.pool(self.encode(X))
        mixture = _mixture.rescale(mixture, self.y_mean, self.y_scale)
        log_weights, means, factors = mixture
        return (
            log_weights.exp(),
            self.outputs.squeeze(means),
            self.outputs.squeeze_matrix(factors),
        )


def _metadata(estimator: MDNRegressor) -> dict[str, str]:
    names = {
        "feature_names": getattr(estimator, "feature_names_in_", None),
        "output_names": getattr(estimator, "output_names_", None),
    }
    known = {key: json.dumps(list(n)) for key, n in names.items() if n is not None}
    if levels := estimator._model.features.encoder.levels:
        known["categories"] = json.dumps(levels)
    supports = estimator._model.target.recording.supports
    if not supports.is_identity:
        known["target_support"] = json.dumps(supports.to_state())
    return {"skmdn": __version__} | known


@contextmanager
def _without_noise() -> Iterator[None]:
    """Drop log lines of other packages that mean nothing to a user."""
    with ExitStack() as stack:
        for name, start in _NOISE.items():

            def is_kept(record: logging.LogRecord, start: str = start) -> bool:
                return not str(record.msg).startswith(start)

            logger = logging.getLogger(name)
            logger.addFilter(is_kept)
            stack.callback(logger.removeFilter, is_kept)
        yield


# -- blocks of rows --------------------------------------------------------------


# n rows become B blocks of b rows, with zeros at the end where B does not divide n.
_GRAPH = """
rows ({type}[n_samples, {width}] X) => ({outputs})
<
    int64[1] zero = {{0}}, int64[1] one = {{1}},
    int64[1] size = {{{size}}}, int64[1] width = {{{width}}},
    {rests}
>
{{
    x = Cast <to = 11> (X)
    n = Shape <start = 0, end = 1> (X)
    size_less_one = Sub (size, one)
    n_up_to_size = Add (n, size_less_one)
    n_full = Div (n_up_to_size, size)
    B = Max (n_full, one)
    B_less_one = Sub (B, one)
    n_up_to_B = Add (n, B_less_one)
    b_or_none = Div (n_up_to_B, B)
    b = Max (b_or_none, one)
    n_padded = Mul (B, b)
    n_zeros = Sub (n_padded, n)
    pads = Concat <axis = 0> (zero, zero, n_zeros, zero)
    padded = Pad (x, pads)
    shape = Concat <axis = 0> (B, b, width)
    blocks = Reshape (padded, shape)
}}
"""
# For each output, from (B, b, ...) to (n, ...).
_JOINED = """
rows (double[x] {name}_blocks) => (double[y] {name})
{{
    {name}_shape = Concat <axis = 0> (n_padded, {name}_rest)
    {name}_padded = Reshape ({name}_blocks, {name}_shape)
    {name} = Slice ({name}_padded, zero, n, zero)
}}
"""


def _loop_over_blocks(model: Any, size: int, dtype: np.dtype[Any]) -> None:
    """Let a model compute its rows in blocks of equal numbers of rows, in place.

    Its graph becomes the body of a Scan, which computes one block after the other.

    Parameters
    ----------
    model : onnx.ModelProto
        From float64 `X` (n, n_features) to the outputs.
    size : int
        Largest number of rows of a block.
    dtype : dtype
        Of the new `X`.
    """
    from onnx import compose, helper, parser

    old = compose.add_prefix_graph(model.graph, "block.")
    for node in old.node:  # of where the code of the networks lies on this machine
        node.ClearField("metadata_props")
        node.ClearField("doc_string")
    ((width,), *rests) = map(_shape_of_row, [*old.input, *old.output])
    named = dict(zip(_OUTPUTS, rests, strict=True))
    text = _GRAPH.format(
        type={"float64": "double", "float32": "float"}[dtype.name],
        width=width,
        size=size,
        outputs=", ".join(
            f"double[{', '.join(map(str, ['n_samples', *rest]))}] {name}"
            for name, rest in named.items()
        ),
        rests=", ".join(
            f"int64[{len(rest)}] {name}_rest = {{{', '.join(map(str, rest))}}}"
            for name, rest in named.items()
        ),
    )
    graph = parser.parse_graph(text)
    scan = helper.make_node(
        "Scan",
        ["blocks"],
        [f"{name}_blocks" for name in _OUTPUTS],
        body=helper.make_graph(old.node, "block", old.input, old.output),
        num_scan_inputs=1,
    )
    graph.node.append(scan)
    for name in _OUTPUTS:
        graph.node.extend(parser.parse_graph(_JOINED.format(name=name)).node)
    graph.initializer.extend(old.initializer)
    model.graph.CopyFrom(graph)


def _shape_of_row(value: Any) -> list[int]:
    """Return the lengths of all axes of an input or output but the first."""
    return [axis.dim_value for axis in value.type.tensor_type.shape.dim[1:]]


# -- functions that ONNX or onnxruntime lacks ------------------------------------


def _asinh(x: Tensor) -> Tensor:
    """Compute asinh, which onnxruntime lacks in float64, to an absolute error."""
    size = x.abs()
    above = size + 1  # a factor taken out of the logarithm, since x^2 may overflow
    ratio = size / above
    root = (ratio.square() + above.reciprocal().square()).sqrt()
    return x.sign() * (above.log() + (ratio + root).log())


def _qr(matrices: Tensor, mode: str = "reduced") -> tuple[Tensor, Tensor]:
    """Compute R by modified Gram-Schmidt, which is stable for R; omit Q."""
    rows = []
    for j in range(matrices.shape[-1]):
        first, rest = matrices[..., :1], matrices[..., 1:]
        length = first.square().sum(-2, keepdim=True).sqrt()
        unit = first / length
        share = (unit * rest).sum(-2, keepdim=True)
        zeros = torch.zeros_like(length).expand(*length.shape[:-1], j)
        rows.append(torch.cat([zeros, length, share], dim=-1))
        matrices = rest - unit * share
    return matrices, torch.cat(rows, dim=-2)


_DECOMPOSITIONS: dict[Any, Callable[..., Any]] = {aten.linalg_qr.default: _qr}

_onnx_converter.register(to_onnx)
