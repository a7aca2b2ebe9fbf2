"""Stored states of estimators, of this and of earlier forms."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from skmdn._data.encoding import FeatureEncoder
from skmdn._data.feature_transform import FeatureTransform
from skmdn._data.outputs import Outputs
from skmdn._data.scaling import Scaling
from skmdn._data.target_transform import TargetTransform
from skmdn._data.targets import Recording
from skmdn._held_out import OutOfFold
from skmdn._model import ConditionalModel
from skmdn._training.kinds import SINGLE_KINDS, USER_DEFINED
from skmdn._utils.persistence import seal, unseal
from skmdn._utils.warn import warn

# Removed parameters and their defaults; states of form 1 and 2 have them.
REMOVED_PARAMETERS = {"input_noise": 0.0, "target_noise": 0.0, "shuffle": True}
# Bound of the features in networks up to form 3.
FORMER_SATURATION = 5.0


def pack_state(state: dict[str, Any]) -> dict[str, Any]:
    """Convert the state of an estimator to arrays and builtins, and seal it."""
    model = state.get("_model")
    if model is not None:
        derived = model.attributes()
        state = {k: v for k, v in state.items() if k not in derived}
        state["_model"] = model.to_state()
    if "_out_of_fold" in state:
        state["_out_of_fold"] = state["_out_of_fold"].to_state()
    return seal(state)


def unpack_state(name: str, state: Mapping[str, Any]) -> dict[str, Any]:
    """Undo `pack_state`, for a state of this or an earlier form.

    Raises
    ------
    ValueError
        If the state is damaged, or of an unknown form.
    """
    state, version = unseal(name, dict(state))
    if version < 3:
        state = _updated(state)
    if version < 4:
        state = _with_portfolio(state)
    if version < 5:
        state = _with_transforms(state)
    if "_model" in state:
        model = ConditionalModel.from_state(state["_model"])
        state |= model.attributes() | {"_model": model}
    if "_out_of_fold" in state:
        state["_out_of_fold"] = OutOfFold.from_state(state["_out_of_fold"])
    return state


def _with_portfolio(state: dict[str, Any]) -> dict[str, Any]:
    """Bring a state of form 3, with networks of a single kind, up to date."""
    state = {"portfolio": None} | state
    if "_model" not in state:
        return state
    model = dict(state["_model"])
    structure = {"saturation": FORMER_SATURATION} | model.pop("structure")
    is_user_defined = structure["network"] is not None
    kind = USER_DEFINED if is_user_defined else SINGLE_KINDS[structure["embedding"]]
    n_members = structure["n_members"]
    parameters = {f"networks.0.{k}": v for k, v in model["parameters"].items()}
    model |= {
        "structures": [structure],
        "sizes": [{kind: n_members}],
        "n_estimators": n_members,
        "parameters": parameters
        | {"log_weights": np.full(n_members, -np.log(n_members))},
    }
    state["_model"] = model
    if "_optimizer_state" in state:
        optimizer = state["_optimizer_state"]
        state["_optimizer_state"] = {f"0.{k}": v for k, v in optimizer.items()}
    return state


def _with_transforms(state: dict[str, Any]) -> dict[str, Any]:
    """Bring a state of form 4 up to date.

    Its features are known numbers, its targets are exact, and a network has one view or
    none.
    """
    added = "categorical_features", "target_support", "target_resolution"
    state = dict.fromkeys(added) | state
    if "_model" not in state:
        return state
    model = dict(state["_model"])
    views_of = model.get("views_of", [None] * len(model["structures"]))
    scaling = model["target"]
    size = len(scaling["mean"])
    target = TargetTransform(
        Recording.exact(Outputs((size,))),
        Scaling.from_state(scaling),
        scaling["mean"],
        np.abs(scaling["scale"]),
    )
    model["target"] = target.to_state()
    features = Scaling.from_state(model["features"])
    encoder = FeatureEncoder({}, features.mean)
    model["features"] = FeatureTransform(encoder, features, {}).to_state()
    model["views_of"] = [() if view is None else (view,) for view in views_of]
    return state | {"_model": {"views": {}} | model}


def _updated(state: dict[str, Any]) -> dict[str, Any]:
    """Bring a state of form 1 or 2 up to date.

    Form 1 has no parameter `network`. Both have the model in single attributes, and
    user-defined networks under the name of an embedding.
    """
    state = {"network": None} | state
    for name, default in REMOVED_PARAMETERS.items():
        if (value := state.pop(name, default)) != default:
            warn(
                f"The stored estimator has {name}={value}, but this parameter was "
                "removed. Predictions are the same; further training ignores it."
            )
    if "network_" not in state:
        return state
    structure = {"network": None} | state.pop("_structure")
    parameters = state.pop("network_")
    if structure["network"] is not None:
        parameters = {
            key.replace("embedding.", "backbones.", 1): value
            for key, value in parameters.items()
        }
    y_ndim = state.pop("_y_ndim")
    state["_model"] = {
        "structure": structure,
        "parameters": parameters,
        "features": {"mean": state.pop("X_mean_"), "scale": state.pop("X_scale_")},
        "target": {"mean": state.pop("y_mean_"), "scale": state.pop("y_scale_")},
        "event_shape": () if y_ndim == 1 else (structure["n_outputs"],),
        "output_names": state.get("output_names_"),
    }
    if "_moments" in state:
        state["_optimizer_state"] = state.pop("_moments")
    return state
