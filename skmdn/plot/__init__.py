"""Displays of conditional densities and of their calibration.

As in scikit-learn, the class methods `from_estimator` and `from_predictions` compute
and draw, and `plot` draws again. matplotlib is imported when a display is drawn.
"""

from skmdn.plot._calibration import CalibrationDisplay, PITDisplay
from skmdn.plot._density import DensityDisplay
from skmdn.plot._dependence import DependenceDisplay
from skmdn.plot._loss_curve import LossCurveDisplay
from skmdn.plot._pairs import PairDisplay

__all__ = [
    "CalibrationDisplay",
    "DensityDisplay",
    "DependenceDisplay",
    "LossCurveDisplay",
    "PITDisplay",
    "PairDisplay",
]
