"""Export of fitted networks as ONNX models.

Requires the extra ``skmdn[onnx]``.
"""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Callable
from copy import deepcopy
from typing import Any

import torch
from sklearn.utils.validation import check_is_fitted
from torch import Tensor, nn

from skmdn import _mixture
from skmdn._model import ConditionalModel
from skmdn._regressor import MDNRegressor
from skmdn._utils.arrays import to_tensor
from skmdn._utils.compat import TORCH_VERSION, aten, parse_version
from skmdn._version import __version__

__all__ = ["to_onnx"]


def to_onnx(estimator: MDNRegressor, path: str | os.PathLike[str]) -> None:
    """Write a fitted estimator as an ONNX model, which runs without torch.

    The model includes the standardisation. Its input is `X`, float64 of shape
    (n_samples, n_features). Its outputs are the attributes of a
    :class:`MixtureDensity`: `weights` (n_samples, K), `means`
    (n_samples, K, n_outputs) and `precision_factors`
    (n_samples, K, n_outputs, n_outputs), in the unit of y. If y was one-dimensional,
    all three have the shape (n_samples, K). With `target_support` they are those of the
    latent mixture: its bounds are in the metadata, as JSON, and
    ``TransformedDensity(latent, bounds)`` is the density.

    Parameters
    ----------
    estimator : MDNRegressor
        Fitted estimator. For a pipeline, export the last step, and convert the other
        steps by skl2onnx.
    path : str or path-like
        File to write.

    Raises
    ------
    ImportError
        If onnx or onnxscript is not installed, or torch is older than 2.7.1.
    TypeError
        If the estimator is not an MDNRegressor.
    ValueError
        If networks that predict have a view of the training rows.

    Notes
    -----
    All computations are in float64; with onnxruntime on a CPU, results agree with
    `predict_density` to about eight digits. The metadata of the model contain the
    version of skmdn and, as JSON, the names of features and outputs if they have any.
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
    rows = torch.zeros(2, estimator.n_features_in_, dtype=torch.float64, device="cpu")
    program = torch.export.export(
        _Served(estimator._model).eval(),
        (rows,),
        dynamic_shapes=({0: torch.export.Dim("n_samples")},),
    )
    with warnings.catch_warnings():
        # torch raises this warning itself.
        warnings.filterwarnings("ignore", ".*LeafSpec", FutureWarning)
        model = torch.onnx.export(
            program.run_decompositions(_DECOMPOSITIONS),
            (rows,),
            input_names=["X"],
            output_names=["weights", "means", "precision_factors"],
            verbose=False,
        )
    assert model is not None  # guaranteed if no path is given
    model.model.metadata_props.update(_metadata(estimator))
    model.save(os.fspath(path))


def _check_exportable(estimator: Any) -> None:
    """Raise an error if the estimator, or this environment, cannot be used."""
    if not isinstance(estimator, MDNRegressor):
        raise TypeError(
            f"estimator must be an MDNRegressor, got {type(estimator).__name__}. For a "
            "pipeline or a search, export the fitted MDNRegressor inside it, and "
            "convert other steps with skl2onnx."
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


class _Served(nn.Module):
    """Map rows of X to pooled mixtures, both in the unit of the user."""

    X_mean: Tensor
    X_scale: Tensor
    X_knees: Tensor
    X_spread: Tensor
    y_mean: Tensor
    y_scale: Tensor

    def __init__(self, model: ConditionalModel) -> None:
        super().__init__()
        self.pool = deepcopy(model.pool).requires_grad_(False)
        self.outputs = model.outputs
        scalings = {"X": model.features, "y": model.target.scaling}
        for name, scaling in scalings.items():
            self.register_buffer(f"{name}_mean", to_tensor(scaling.mean))
            self.register_buffer(f"{name}_scale", to_tensor(scaling.scale))
        self.register_buffer("X_knees", to_tensor(model.features.knees))
        self.register_buffer("X_spread", to_tensor(model.features.spread))

    def forward(self, X: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        inside = torch.minimum(torch.maximum(X, self.X_knees[0]), self.X_knees[1])
        X = inside + self.X_spread * _asinh((X - inside) / self.X_spread)
        mixture = self.pool((X - self.X_mean) / self.X_scale)
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
    supports = estimator._model.target.recording.supports
    if not supports.is_identity:
        known["target_support"] = json.dumps(supports.to_state())
    return {"skmdn": __version__} | known


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
