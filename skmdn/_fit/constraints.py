"""Accepted values of the parameters of `MDNRegressor`."""

from __future__ import annotations

from numbers import Integral, Real
from typing import Any

import numpy as np

from skmdn._training.optimizer import LEARNING_RATES
from skmdn._utils.compat import Interval, StrOptions
from skmdn.nn.activations import ACTIVATIONS
from skmdn.nn.covariance import COVARIANCE_TYPES
from skmdn.nn.embeddings import EMBEDDINGS

CONSTRAINTS: dict[str, list[Any]] = {
    "n_components": [
        Interval(Integral, 1, None, closed="left"),
        StrOptions({"auto"}),
    ],
    "covariance_type": [StrOptions(set(COVARIANCE_TYPES))],
    "rank": [Interval(Integral, 1, None, closed="left")],
    "n_estimators": [
        Interval(Integral, 1, None, closed="left"),
        StrOptions({"auto"}),
    ],
    "portfolio": [StrOptions({"auto"}), None, list, tuple],
    "embedding": [StrOptions({"auto", *EMBEDDINGS}), None],
    "hidden_layer_sizes": ["array-like", StrOptions({"auto"})],
    "activation": [StrOptions(set(ACTIVATIONS))],
    "dropout": [Interval(Real, 0, 1, closed="left")],
    "network": [callable, None],
    "categorical_features": [StrOptions({"from_dtype"}), "array-like", None],
    "target_support": ["array-like", dict, None],
    "target_resolution": [
        StrOptions({"auto"}),
        Interval(Real, 0, None, closed="neither"),
        "array-like",
        dict,
        None,
    ],
    "reg_covar": [Interval(Real, 0, None, closed="left")],
    "alpha": [Interval(Real, 0, None, closed="left")],
    "learning_rate_init": [Interval(Real, 0, None, closed="neither")],
    "learning_rate": [StrOptions(set(LEARNING_RATES))],
    "batch_size": [
        Interval(Integral, 1, None, closed="left"),
        StrOptions({"auto"}),
    ],
    "max_iter": [Interval(Integral, 1, None, closed="left"), StrOptions({"auto"})],
    "tol": [Interval(Real, 0, None, closed="left")],
    "n_iter_no_change": [
        Interval(Integral, 1, None, closed="left"),
        StrOptions({"auto"}),
    ],
    "early_stopping": ["boolean"],
    "validation_fraction": [Interval(Real, 0, 1, closed="neither")],
    "warmup_iter": [Interval(Integral, 0, None, closed="left")],
    "max_grad_norm": [Interval(Real, 0, None, closed="neither"), None],
    "warm_start": ["boolean"],
    "verbose": ["verbose"],
    "random_state": ["random_state", np.random.Generator],
    "device": [str],
}
