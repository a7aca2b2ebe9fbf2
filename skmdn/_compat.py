"""What older versions of scikit-learn lack."""

from __future__ import annotations

from typing import Any

import sklearn

__all__ = ["CallbackSupportMixin"]

try:
    from sklearn.callback import CallbackSupportMixin
except ImportError:  # scikit-learn < 1.9; goes when that is the oldest supported

    class _NoCallbacks:
        """Context of a task that nobody watches."""

        def subcontext(self, **task: Any) -> _NoCallbacks:
            return self

        def call_on_fit_task_begin(self, **data: Any) -> _NoCallbacks:
            return self

        def call_on_fit_task_end(self, **data: Any) -> bool:
            return False

    class CallbackSupportMixin:  # type: ignore[no-redef]
        """Stands in: estimators fit as they do without callbacks."""

        def set_callbacks(self, *callbacks: Any) -> None:
            raise ImportError(
                "Callbacks need scikit-learn 1.9 or newer, got "
                f"scikit-learn {sklearn.__version__}."
            )

        def _init_callback_context(self, **task: Any) -> _NoCallbacks:
            return _NoCallbacks()
