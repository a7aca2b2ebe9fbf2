"""Names that scikit-learn and torch keep private, or that their older versions lack."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import sklearn
import torch
from sklearn.base import _fit_context
from sklearn.utils import _param_validation
from sklearn.utils._param_validation import Interval, StrOptions
from sklearn.utils.fixes import parse_version
from sklearn.utils.validation import _check_sample_weight as check_sample_weight
from torch.optim.adam import adam
from torch.utils._python_dispatch import TorchDispatchMode

__all__ = [
    "TORCH_VERSION",
    "CallbackSupportMixin",
    "Interval",
    "StrOptions",
    "TorchDispatchMode",
    "adam",
    "aten",
    "callbacks_of",
    "check_sample_weight",
    "fit_context",
    "foreach_copy_",
    "parse_version",
    "validate_params",
]

Function = TypeVar("Function", bound=Callable[..., Any])

TORCH_VERSION = parse_version(torch.__version__)

aten = torch.ops.aten
foreach_copy_ = torch._foreach_copy_

try:
    from sklearn.callback import CallbackSupportMixin
except ImportError:  # scikit-learn < 1.9; remove when 1.9 is the oldest supported

    class _NoCallbacks:
        """Context of a task without callbacks."""

        def subcontext(self, **task: Any) -> _NoCallbacks:
            return self

        def call_on_fit_task_begin(self, **data: Any) -> _NoCallbacks:
            return self

        def call_on_fit_task_end(self, **data: Any) -> bool:
            return False

    class CallbackSupportMixin:  # type: ignore[no-redef]
        """Fit without callbacks."""

        def set_callbacks(self, *callbacks: Any) -> None:
            raise ImportError(
                "Callbacks need scikit-learn 1.9 or newer, got "
                f"scikit-learn {sklearn.__version__}."
            )

        def _init_callback_context(self, **task: Any) -> _NoCallbacks:
            return _NoCallbacks()


def callbacks_of(estimator: Any) -> list[Any]:
    """Return the callbacks that were set on an estimator."""
    callbacks: list[Any] = getattr(estimator, "_skl_callbacks", [])
    return callbacks


# Decorators of scikit-learn, with types: what they decorate keeps its signature.


def fit_context(
    *, prefer_skip_nested_validation: bool
) -> Callable[[Function], Function]:
    """Validate the parameters of an estimator before its method runs."""
    decorator: Callable[[Function], Function] = _fit_context(
        prefer_skip_nested_validation=prefer_skip_nested_validation
    )
    return decorator


def validate_params(
    constraints: dict[str, list[Any]], *, prefer_skip_nested_validation: bool
) -> Callable[[Function], Function]:
    """Validate the arguments of a function."""
    decorator: Callable[[Function], Function] = _param_validation.validate_params(
        constraints, prefer_skip_nested_validation=prefer_skip_nested_validation
    )
    return decorator
