"""Everything that determines a fit except its seed, from rows and parameters."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from scipy import sparse

from skmdn._data.checks import FEATURE_ATTRIBUTES, CheckedRows, as_widths
from skmdn._data.feature_transform import FeatureTransform
from skmdn._data.outputs import Outputs
from skmdn._data.rows import Rows, UniqueRows, merge_rows
from skmdn._data.target_transform import TargetTransform
from skmdn._model import ConditionalModel
from skmdn._training.auto import TrainingSettings, auto_n_components, auto_networks
from skmdn._training.kinds import (
    FEWEST_EPOCHS_OF_CHOICE,
    Kind,
    competing_kinds,
)
from skmdn._utils.arrays import neutral_modes, resolve_device
from skmdn._utils.persistence import digest
from skmdn._utils.threads import shared_threads
from skmdn.distributed import Ranks, join
from skmdn.nn.head import LARGEST_SCALE


@contextmanager
def fitting() -> Iterator[Ranks]:
    """Join the ranks, share the threads, and disable the caller's torch modes."""
    with join() as ranks, shared_threads(), neutral_modes():
        yield ranks


@dataclass(frozen=True)
class FitData:
    """Everything that determines a fit except its seed; see `prepare`.

    `offset` is the mean of `TargetTransform.offset` over the rows to train on, and
    `n_given` the number of rows that were given, equal ones included, on all ranks.
    """

    params: Mapping[str, Any]
    settings: TrainingSettings
    structure: Mapping[str, Any]
    kinds: Mapping[str, Kind]
    n_members: int
    is_piece: bool
    given: Rows
    n_given: int
    has_intervals: bool
    rows: UniqueRows
    validation: Rows | None
    features: FeatureTransform
    target: TargetTransform
    offset: float
    outputs: Outputs
    feature_names: Sequence[str] | None
    start: ConditionalModel | None
    device: torch.device
    ranks: Ranks

    def fingerprints(self) -> dict[str, str]:
        """Compute digests of everything that determines the fit, to compare fits."""
        inputs = _fit_inputs(self.params, self.start) | {
            "device": self.device.type,
            "rows": self.given.fingerprint(self.ranks),
            "validation rows": self.validation
            and self.validation.fingerprint(self.ranks),
        }
        return {name: digest(item) for name, item in inputs.items()}


def prepare(
    checked: CheckedRows,
    validation: Rows | None,
    params: Mapping[str, Any],
    start: ConditionalModel | None,
    ranks: Ranks,
    callbacks: Sequence[Any] = (),
    *,
    is_piece: bool = False,
) -> FitData:
    """Merge and standardise checked rows, and resolve the parameters.

    Parameters
    ----------
    checked : CheckedRows
    validation : Rows or None
    params : mapping
        Parameters of `MDNRegressor`.
    start : ConditionalModel or None
        Model whose networks and scalings the fit continues.
    ranks : Ranks
    callbacks : sequence
        Only compared between the ranks.
    is_piece : bool, default=False
        Whether the rows are a piece of all that the networks learn from.

    Raises
    ------
    ValueError
        If a parameter does not fit the rows, the device or the networks to continue,
        or if the ranks would not fit the same model.
    """
    _check_agreement(checked, validation is not None, params, start, ranks, callbacks)
    given, outputs = checked.rows.rescaled(ranks), checked.fitted.outputs
    rows = merge_rows(given)
    n_rows, n_given = map(int, ranks.sum([len(rows.y), len(given.y)]))
    features, target = _transforms(checked, rows, start, ranks)
    rows = rows._replace(y=target.with_points(rows.y))
    if validation is not None:
        validation = validation.rescaled(ranks)
        validation = validation._replace(y=target.with_points(validation.y))
    settings = TrainingSettings.resolve(params, n_rows)
    sizes = _sizes(params, n_rows, outputs.size, start)
    n_members = int(sizes.pop("n_estimators"))
    largest = _largest_scale(target, rows, start, ranks)
    structure = _network_structure(features, outputs, largest, {**params, **sizes})
    can_view = not is_piece and _can_view(checked, ranks)
    if start is not None:
        _check_views(start, can_view=can_view)
        _check_structure(structure, n_members, params["embedding"], start)
    is_compared = params["early_stopping"] or validation is not None
    kinds = competing_kinds(
        params,
        n_rows,
        features.width,
        n_members,
        can_choose=is_compared and settings.max_iter >= FEWEST_EPOCHS_OF_CHOICE,
        can_view=can_view,
    )
    return FitData(
        params,
        settings,
        structure,
        kinds,
        n_members,
        is_piece,
        given,
        n_given,
        checked.has_intervals,
        rows,
        validation,
        features,
        target,
        target.mean_offset(rows.y, rows.weight, ranks),
        outputs,
        checked.feature_attributes.get("feature_names_in_"),
        start,
        resolve_device(params["device"], fitting=True),
        ranks,
    )


def _can_view(checked: CheckedRows, ranks: Ranks) -> bool:
    """Whether rows can have views of each other."""
    rows = checked.rows
    if ranks.size > 1 or sparse.issparse(rows.X):
        return False
    # A view of targets that are not known would be one of what stands for them.
    return rows.y.is_observed is None and not checked.has_intervals


def _transforms(
    checked: CheckedRows, rows: UniqueRows, start: ConditionalModel | None, ranks: Ranks
) -> tuple[FeatureTransform, TargetTransform]:
    """Fit the transforms of X and y, or return those of the networks to continue."""
    if start is not None:
        return start.features, start.target
    target = TargetTransform.fit(checked.fitted.recording, rows, ranks)
    return FeatureTransform.fit(checked.fitted.encoder, rows, ranks), target


def _largest_scale(
    target: TargetTransform,
    rows: UniqueRows,
    start: ConditionalModel | None,
    ranks: Ranks,
) -> float:
    """Return the bound of standard deviations of components, standardised."""
    if start is not None:
        return float(next(iter(start.pool)).arguments["largest_scale"])
    return min(LARGEST_SCALE, target.largest_scale(rows.y, rows.weight, ranks))


def _sizes(
    params: Mapping[str, Any],
    n_rows: int,
    n_outputs: int,
    start: ConditionalModel | None,
) -> dict[str, Any]:
    """Replace "auto" in the sizes of the networks, by those of the start if any."""
    if start is None:
        n_estimators, widths = auto_networks(n_rows)
        n_components = auto_n_components(n_rows, n_outputs)
    else:
        n_estimators, n_components = start.n_estimators, start.n_components
        widths = next(iter(start.pool)).arguments["hidden_layer_sizes"]
    automatic = {
        "n_estimators": n_estimators,
        "n_components": n_components,
        "hidden_layer_sizes": widths,
    }
    return {
        name: value if isinstance(params[name], str) else params[name]
        for name, value in automatic.items()
    }


def _network_structure(
    features: FeatureTransform,
    outputs: Outputs,
    largest_scale: float,
    params: Mapping[str, Any],
) -> dict[str, Any]:
    """Return the arguments that the networks of all kinds share, as builtins."""
    return {
        "n_features": features.width,
        "n_indicators": features.n_indicators,
        "n_outputs": outputs.size,
        "n_components": int(params["n_components"]),
        "covariance_type": params["covariance_type"],
        "rank": int(params["rank"]),
        "hidden_layer_sizes": as_widths(params["hidden_layer_sizes"]),
        "activation": params["activation"],
        "dropout": float(params["dropout"]),
        "network": params["network"],
        "reg_covar": float(params["reg_covar"]),
        "largest_scale": largest_scale,
    }


def _fit_inputs(
    params: Mapping[str, Any], start: ConditionalModel | None
) -> dict[str, Any]:
    """Return what determines a fit besides its rows and its device."""
    networks = start and start.to_state()["parameters"]
    return {k: v for k, v in params.items() if k != "verbose"} | {"networks": networks}


def _check_views(start: ConditionalModel, *, can_view: bool) -> None:
    if start.views and not can_view:
        raise ValueError(
            "Networks with a view of the training rows cannot be continued by "
            "partial_fit, on sparse X, on several ranks, or on Dask. Fit again with a "
            "portfolio of other kinds."
        )


def _check_structure(
    wanted: Mapping[str, Any],
    n_members: int,
    embedding: str | None,
    start: ConditionalModel,
) -> None:
    n_features = start.features.width  # without the columns of a view
    structures = [
        network.arguments | {"n_features": n_features} for network in start.pool
    ]
    changed = [key for key in wanted if wanted[key] != structures[0][key]]
    if n_members != start.n_estimators:
        changed.append("n_estimators")
    if embedding != "auto" and {embedding} != {
        each["embedding"] for each in structures
    }:
        changed.append("embedding")
    if changed:
        raise ValueError(
            "The fitted networks cannot be trained further with another "
            f"{', '.join(changed)}. Fit again with warm_start=False."
        )


def _check_agreement(
    checked: CheckedRows,
    has_validation: bool,
    params: Mapping[str, Any],
    start: ConditionalModel | None,
    ranks: Ranks,
    callbacks: Sequence[Any],
) -> None:
    """Refuse ranks that would not fit the same model in the same steps."""
    if ranks.size == 1:
        return
    features, outputs = checked.feature_attributes, checked.fitted.outputs
    inputs = _fit_inputs(params, start) | {
        "features": [features.get(name) for name in FEATURE_ATTRIBUTES],
        "outputs": [outputs.size, outputs.names],
        "y.ndim": 1 + len(outputs.event_shape),
        "X_val": has_validation,
        "groups": checked.rows.groups is not None,
        "callbacks": [type(callback).__qualname__ for callback in callbacks],
    }
    del inputs["random_state"], inputs["device"]
    ours = np.array([digest(item) for item in inputs.values()])
    for rank, theirs in enumerate(ranks.all_gather(ours)):
        if (ours != theirs).any():
            names = ", ".join(np.array([*inputs])[ours != theirs])
            raise ValueError(
                "All ranks must fit the same model, but those of ranks "
                f"{ranks.rank} and {rank} differ in {names}."
            )
