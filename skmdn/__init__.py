"""Conditional density estimation for scikit-learn by mixture density networks."""

from skmdn._regressor import MDNRegressor
from skmdn.density import MixtureDensity
from skmdn.metrics import predict_density

__all__ = ["MDNRegressor", "MixtureDensity", "__version__", "predict_density"]
__version__ = "0.1.0.dev0"
