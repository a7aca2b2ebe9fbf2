"""The fitted state of an estimator: replaced as a whole, stored as arrays."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from skmdn._fit.session import FitSession, epoch_task
from skmdn._stored import pack_state, unpack_state

# Fitted state that not every fit publishes.
OPTIONAL_STATE = (
    *("feature_names_in_", "output_names_", "_optimizer_state", "portfolio_scores_"),
    *("validation_scores_", "best_validation_score_", "oof_log_density_", "oof_score_"),
    "_out_of_fold",
)


class FittedStateMixin:
    """Publish and store the fitted state of an estimator with a `ConditionalModel`."""

    def _train(
        self,
        session: FitSession,
        feature_attributes: dict[str, Any],
        task: Any,
        hooks: dict[str, Any],
    ) -> None:
        """Run epochs until the session is over, and publish its result."""
        try:
            while not session.is_over:
                with epoch_task(session, feature_attributes, task, hooks):
                    session.step()
                session.agree()
        except KeyboardInterrupt:
            # Other ranks are in the middle of a step, and cannot finish.
            if session.data.ranks.size == 1 and session.n_epochs > 0:
                session.stop()
                result = session.finish()
                self._publish(feature_attributes | result.attributes())
                with suppress(Warning):  # even if warnings are errors
                    result.issue_warnings()
            raise
        result = session.finish()
        result.issue_warnings()
        before = dict(vars(self))
        self._publish(feature_attributes | result.attributes())
        try:
            task.call_on_fit_task_end(**hooks)
        except Exception:  # a callback failed, and so does the fit
            self.__dict__ = before
            raise

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
