"""Isolation from torch's global defaults and global random generators.

User-defined modules create tensors of the default dtype on the default device, and
draw from the global generators. The contexts of this module replace these for the
calling thread.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import cache, wraps
from typing import Any, Concatenate, ParamSpec, TypeVar

import numpy as np
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from skmdn._utils.arrays import draw_seed
from skmdn._utils.compat import TorchDispatchMode

P = ParamSpec("P")
Owner = TypeVar("Owner")
Result = TypeVar("Result")

# One thread at a time may replace the state of the global generators.
_lock = threading.Lock()


def _renew_lock() -> None:
    """Replace the lock in a forked child, where no thread would release it."""
    global _lock
    _lock = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew_lock)


# -- default dtype, default device, autocast ---------------------------------------

# Functions that return the default dtype unless `dtype` is given.
FLOAT_FACTORIES = {
    torch.empty,
    torch.eye,
    torch.linspace,
    torch.logspace,
    torch.ones,
    torch.rand,
    torch.randn,
    torch.scalar_tensor,
    torch.zeros,
}
# Functions that return it for Python floats.
VALUE_FACTORIES = {
    torch.arange,
    torch.as_tensor,
    torch.asarray,
    torch.full,
    torch.tensor,
}


class Float32Defaults(TorchFunctionMode):
    """Let the factories of torch make float32 where no dtype is given."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        if kwargs.get("dtype") is None:
            if func in FLOAT_FACTORIES:
                return func(*args, **kwargs | {"dtype": torch.float32})
            if func in VALUE_FACTORIES and not _has_dtype(args):
                made = func(*args, **kwargs)
                if not made.is_floating_point():
                    return made
                return func(*args, **kwargs | {"dtype": torch.float32})
        return func(*args, **kwargs)


def _has_dtype(args: tuple[Any, ...]) -> bool:
    """Whether the first argument is an array, whose dtype is kept."""
    return bool(args) and isinstance(args[0], (Tensor, np.ndarray, np.generic))


@contextmanager
def neutral_defaults(device: torch.device) -> Iterator[None]:
    """Set the defaults of the calling thread: float32, the device given, no autocast.

    Nothing is entered, and no time spent, where these are the defaults already.
    """
    with ExitStack() as stack:
        if torch.is_autocast_enabled(device.type):
            stack.enter_context(torch.autocast(device.type, enabled=False))
        if torch.get_default_dtype() != torch.float32:
            stack.enter_context(Float32Defaults())
        # No `device` on purpose. In torch 2.4 `torch.get_default_device` fails, or
        # misses the device of an enclosing context.
        if torch.empty(0, dtype=torch.float32).device != device:
            stack.enter_context(device)
        yield


def without_autocast(
    method: Callable[Concatenate[Owner, Tensor, P], Result],
) -> Callable[Concatenate[Owner, Tensor, P], Result]:
    """Compute a method of (X, ...) in the dtype of its parameters, also in autocast.

    Triangular solves and the determinants of precision factors need full precision.
    """

    @wraps(method)
    def wrapper(self: Owner, X: Tensor, /, *args: P.args, **kwargs: P.kwargs) -> Result:
        if not torch.is_autocast_enabled(X.device.type):
            return method(self, X, *args, **kwargs)
        with torch.autocast(X.device.type, enabled=False):
            return method(self, X, *args, **kwargs)

    return wrapper


# -- random numbers ----------------------------------------------------------------


def spawn_generators(
    generator: torch.Generator, device: torch.device
) -> list[torch.Generator]:
    """Draw a seed, and return generators seeded with it: of the CPU and the device."""
    seed = draw_seed(generator)
    devices = {torch.device("cpu"): None, device: None}
    return [torch.Generator(device=place).manual_seed(seed) for place in devices]


@contextmanager
def lend_global_generators(generators: Sequence[torch.Generator]) -> Iterator[None]:
    """Let code that draws from torch's global generators draw from those given.

    Afterwards the global ones are as they were. Global generators are shared by all
    threads: calls of this function wait for one another, but another thread that draws
    in between draws from the generators given.
    """
    lent = [item for item in generators if item.device.type in ("cpu", "cuda")]
    cuda = [item.device for item in lent if item.device.type == "cuda"]
    with _lock, torch.random.fork_rng(devices=cuda):
        for generator in lent:
            _global_generator(generator.device).set_state(generator.get_state())
        yield
        for generator in lent:
            generator.set_state(_global_generator(generator.device).get_state())


def _global_generator(device: torch.device) -> torch.Generator:
    if device.type == "cpu":
        return torch.default_generator
    index = torch.cuda.current_device() if device.index is None else device.index
    generator: torch.Generator = torch.cuda.default_generators[index]
    return generator


@contextmanager
def seed_restored() -> Iterator[None]:
    """Undo a call of :func:`torch.manual_seed`, for the generator of the CPU.

    A generator in another state than a newly seeded one was used by another thread,
    and keeps its state.
    """
    state = torch.get_rng_state()
    try:
        yield
    finally:
        seeded = torch.Generator(device="cpu").manual_seed(torch.initial_seed())
        if torch.equal(torch.get_rng_state(), seeded.get_state()):
            torch.set_rng_state(state)


class RoutedRandomness(TorchDispatchMode):
    """Let random operations of the calling thread draw from the generators given.

    Python is called for every operation, which takes several microseconds each: this
    is for building modules, not for training them. For operations without a generator
    argument, the state of the global generator is replaced during the call.

    Parameters
    ----------
    generators : sequence of torch.Generator
        One for each device.
    """

    def __init__(self, generators: Sequence[torch.Generator]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.generators = {item.device.type: item for item in generators}

    def __torch_dispatch__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        if torch.Tag.nondeterministic_seeded not in getattr(func, "tags", ()):
            return func(*args, **kwargs)
        generator = self.generators.get(_device_type(args, kwargs))
        if generator is None or _has_generator(args, kwargs):
            return func(*args, **kwargs)
        overload = overload_with_generator(func)
        if overload is not None:
            return overload(*args, **kwargs | {"generator": generator})
        with lend_global_generators([generator]):
            return func(*args, **kwargs)


@cache
def overload_with_generator(func: Any) -> Any | None:
    """Return the overload of a random operation that also takes a generator, if any."""

    def arguments(overload: Any) -> list[tuple[str, str]]:
        return [(a.name, str(a.type)) for a in overload._schema.arguments]

    ours = [item for item in arguments(func) if item[0] != "generator"]
    packet = func.overloadpacket
    # Try the overload itself first.
    for name in (func._overloadname, *packet.overloads()):
        overload = getattr(packet, name)
        found = arguments(overload)
        rest = [item for item in found if item[0] != "generator"]
        if rest == ours and len(found) > len(rest):
            return overload
    return None


def _device_type(args: tuple[Any, ...], kwargs: dict[str, Any]) -> str:
    """Device of the first tensor, else the one asked for, else the CPU."""
    for item in args:
        if isinstance(item, Tensor):
            return item.device.type
    return torch.device(kwargs.get("device") or "cpu").type


def _has_generator(args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    return any(isinstance(item, torch.Generator) for item in (*args, *kwargs.values()))
