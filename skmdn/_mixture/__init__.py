"""The mathematics of Gaussian mixtures on tensors.

A mixture of K Gaussians over R^d is a triple of tensors with any leading axes::

    log_weights (..., K)    means (..., K, d)    factors (..., K, d, d)

A factor is the upper-triangular U with positive diagonal such that U' U is the inverse
of the covariance (Kruse 2020, eq. 9): the log-density needs one matrix product and no
solve. Densities and moments are differentiable by autograd; no function keeps state.
"""

from skmdn._mixture.affine import affine
from skmdn._mixture.bounded_scores import bounded_crps, bounded_variogram_score
from skmdn._mixture.boxes import box_probability
from skmdn._mixture.contours import outlines
from skmdn._mixture.core import (
    LOG_2PI,
    Mixture,
    condition,
    cov,
    draw_components,
    joint_log_prob,
    log_prob,
    marginal,
    mean,
    rescale,
    responsibilities,
    select,
    unwhiten,
    var,
    whiten,
)
from skmdn._mixture.draws import n_uniforms, sample, sample_rows
from skmdn._mixture.edge_sums import log_cell, recorded_crps, recorded_moments
from skmdn._mixture.entropy import (
    entropy,
    n_entropy_points,
)
from skmdn._mixture.factors import (
    covariances,
    factors_from_covariances,
    invert_factors,
    log_det,
    precisions,
    reorder,
    triangularise,
)
from skmdn._mixture.hdr import n_region_points, regions
from skmdn._mixture.levels import (
    exact_levels,
    log_levels,
    n_level_points,
    trace_regions,
)
from skmdn._mixture.maps import Bounds
from skmdn._mixture.modes import (
    find_modes,
    n_mode_points,
)
from skmdn._mixture.moments import (
    bounded_cov,
    bounded_mean,
    bounded_var,
    mean_log_slope,
)
from skmdn._mixture.reduction import divergence, reduce, reduction_bytes
from skmdn._mixture.scores import (
    crps,
    energy_score,
    variogram_score,
)
from skmdn._mixture.tilts import as_function_of_latent
from skmdn._mixture.univariate import (
    cdf,
    log_cdf,
    normal_cdf,
    ppf,
    reflect,
)

__all__ = [
    "LOG_2PI",
    "Bounds",
    "Mixture",
    "affine",
    "as_function_of_latent",
    "bounded_cov",
    "bounded_crps",
    "bounded_mean",
    "bounded_var",
    "bounded_variogram_score",
    "box_probability",
    "cdf",
    "condition",
    "cov",
    "covariances",
    "crps",
    "divergence",
    "draw_components",
    "energy_score",
    "entropy",
    "exact_levels",
    "factors_from_covariances",
    "find_modes",
    "invert_factors",
    "joint_log_prob",
    "log_cdf",
    "log_cell",
    "log_det",
    "log_levels",
    "log_prob",
    "marginal",
    "mean",
    "mean_log_slope",
    "n_entropy_points",
    "n_level_points",
    "n_mode_points",
    "n_region_points",
    "n_uniforms",
    "normal_cdf",
    "outlines",
    "ppf",
    "precisions",
    "recorded_crps",
    "recorded_moments",
    "reduce",
    "reduction_bytes",
    "reflect",
    "regions",
    "reorder",
    "rescale",
    "responsibilities",
    "sample",
    "sample_rows",
    "select",
    "trace_regions",
    "triangularise",
    "unwhiten",
    "var",
    "variogram_score",
    "whiten",
]
