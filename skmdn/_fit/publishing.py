"""The fitted state of an estimator: replaced as a whole, stored as arrays."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from skmdn._model import pack_state, unpack_state

# Fitted state that not every fit publishes.
OPTIONAL_STATE = (
    *("feature_names_in_", "output_names_", "_optimizer_state", "portfolio_scores_"),
    *("validation_scores_", "best_validation_score_", "oof_log_density_", "oof_score_"),
)


class FittedStateMixin:
    """Publish and store the fitted state of an estimator with a `ConditionalModel`."""

    def _publish(self, fitted: dict[str, Any]) -> None:
        """Replace the fitted state as a whole."""
        kept = {k: v for k, v in vars(self).items() if k not in OPTIONAL_STATE}
        # A single assignment: nothing can fail or interrupt it half way.
        self.__dict__ = kept | fitted

    def __getstate__(self) -> dict[str, Any]:
        """Convert the fitted state to arrays and builtins, and seal it."""
        state: Any = super().__getstate__()
        return pack_state(dict(state))

    def __setstate__(self, state: Mapping[str, Any]) -> None:
        state = unpack_state(type(self).__name__, state)
        super().__setstate__(state)  # type: ignore[misc]  # of BaseEstimator

    def __sklearn_is_fitted__(self) -> bool:
        return hasattr(self, "_model")
