"""Conditional density estimation for scikit-learn by mixture density networks."""

from skmdn._composite import sample
from skmdn._regressor import MDNRegressor
from skmdn._version import __version__
from skmdn.density import MixtureDensity
from skmdn.density.recorded import RecordedDensity
from skmdn.density.transformed import TransformedDensity
from skmdn.metrics import predict_density

__all__ = [
    "MDNRegressor",
    "MixtureDensity",
    "RecordedDensity",
    "TransformedDensity",
    "__version__",
    "predict_density",
    "sample",
]
