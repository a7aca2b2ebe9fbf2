"""Another checkout of skmdn in the same process, to time both alternately."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from types import ModuleType


def load_checkout(path: Path) -> ModuleType:
    """Import skmdn from a folder beside the one that is imported already.

    Modules of the two do not mix: each keeps those that it imported.
    """
    own = {name: sys.modules.pop(name) for name in list(sys.modules) if is_own(name)}
    sys.path.insert(0, str(path))
    try:
        other = importlib.import_module("skmdn")
        importlib.import_module("skmdn.metrics")
    finally:
        sys.path.remove(str(path))
        for name in list(sys.modules):
            if is_own(name):
                del sys.modules[name]
        sys.modules.update(own)
    if Path(str(other.__file__)).resolve().parents[1] != path.resolve():
        raise ImportError(f"{path} holds no skmdn.")
    return other


def is_own(name: str) -> bool:
    return name.split(".")[0] == "skmdn"
