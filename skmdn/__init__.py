"""Conditional density estimation for scikit-learn by mixture density networks."""

from skmdn._regressor import MDNRegressor
from skmdn._version import __version__
from skmdn.density import MixtureDensity
from skmdn.metrics import predict_density

__all__ = ["MDNRegressor", "MixtureDensity", "__version__", "predict_density"]
