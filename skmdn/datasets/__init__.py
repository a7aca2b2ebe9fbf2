"""A small real data set, and generators with a known conditional density."""

from __future__ import annotations

from importlib import resources
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.utils import Bunch, check_random_state

from skmdn.density import MixtureDensity

__all__ = [
    "load_geyser",
    "make_inverse_sine",
    "make_rotating_gaussians",
    "make_two_moons",
]


def load_geyser(*, return_X_y: bool = False, drop_night_codes: bool = True) -> Any:
    """Load the eruptions of the Old Faithful geyser, 1 to 15 August 1985.

    The target is the duration of an eruption, and the feature the waiting time
    before it. Eruptions after short waits are long; after long waits they are
    either short or long.

    Parameters
    ----------
    return_X_y : bool, default=False
        Whether to return only X and y.
    drop_night_codes : bool, default=True
        Whether to omit the 78 eruptions observed at night. Their durations were
        noted as short, medium or long, and coded as exactly 2, 3 or 4 minutes.

    Returns
    -------
    data : Bunch
        With `data` (n, 1), the waiting time before the eruption in minutes,
        `target` (n,), its duration in minutes, `feature_names`, `target_name` and
        `DESCR`. With `return_X_y`, the tuple of the first two.

    References
    ----------
    A. Azzalini and A. W. Bowman, "A look at some data on the Old Faithful geyser",
    Applied Statistics 39, 357-365, 1990.

    Examples
    --------
    >>> from skmdn.datasets import load_geyser
    >>> X, y = load_geyser(return_X_y=True)
    >>> X[:3, 0], y[:3].round(2)  # minutes
    (array([80., 71., 60.]), array([4.02, 2.15, 4.38]))
    """
    path = resources.files(__name__) / "geyser.csv"
    with path.open(encoding="utf-8") as file:
        description = file.readline().lstrip("# ").strip()
        names = file.readline().strip().split(",")
        table = np.loadtxt(file, delimiter=",")
    if drop_night_codes:
        table = table[~np.isin(table[:, 1], (2.0, 3.0, 4.0))]
    X, y = table[:, :1], table[:, 1]
    if return_X_y:
        return X, y
    return Bunch(
        data=X,
        target=y,
        feature_names=names[:1],
        target_name=names[1],
        DESCR=description,
    )


def make_inverse_sine(
    n_samples: int = 1000,
    *,
    noise: float = 0.05,
    random_state: Any = None,
    return_density: bool = False,
) -> tuple[Any, ...]:
    """Make Bishop's inverse problem with a known conditional density.

    The map t -> t + 0.3 sin(2 pi t) is inverted: given x, y lies near one of the up
    to three t in [0, 1] that map to x. Bishop (1994) adds uniform noise to x; here
    Gaussian noise is added to y, so that p(y | x) is a Gaussian mixture, with means
    at the solutions and weights proportional to ``1 / |slope|``, as t is uniform.

    Parameters
    ----------
    n_samples : int, default=1000
        Number of rows.
    noise : float, default=0.05
        Standard deviation of y around a solution.
    random_state : int, RandomState, Generator or None, default=None
        Seed.
    return_density : bool, default=False
        Whether to return the true density as well.

    Returns
    -------
    X : ndarray of shape (n_samples, 1)
        Uniform in [0, 1].
    y : ndarray of shape (n_samples,)
    density : MixtureDensity
        The true p(y | x) of every row; only with `return_density`.

    References
    ----------
    C. M. Bishop, "Mixture density networks", Aston University, 1994.

    Examples
    --------
    >>> from skmdn.datasets import make_inverse_sine
    >>> X, y, density = make_inverse_sine(500, random_state=0, return_density=True)
    >>> density
    MixtureDensity(n_rows=500, n_components=3, n_outputs=1)
    """
    rng = _generator(random_state)
    x = rng.uniform(size=n_samples)
    # The slope of the map is zero at two points, which separate three branches.
    folds = np.arccos(-1 / (0.6 * np.pi)) / (2 * np.pi)
    edges = np.array([0.0, folds, 1 - folds, 1.0])
    solutions = np.stack(
        [_invert_sine(x, *edges[[k, k + 1], None]) for k in range(3)], axis=1
    )
    slopes = np.abs(1 + 0.6 * np.pi * np.cos(2 * np.pi * solutions))
    exists = np.abs(_sine(solutions) - x[:, None]) < 1e-9
    weights = np.where(exists, 1 / np.maximum(slopes, 1e-9), 0.0)
    weights /= weights.sum(axis=1, keepdims=True)
    density = MixtureDensity(weights, solutions, np.full_like(solutions, 1 / noise))
    return _draw(x[:, None], density, rng, return_density)


def _sine(t: NDArray[np.float64]) -> NDArray[np.float64]:
    return t + 0.3 * np.sin(2 * np.pi * t)


def _invert_sine(
    x: NDArray[np.float64], low: NDArray[np.float64], high: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Solve on a monotone branch of the map, by bisection to float64 precision."""
    sign = np.sign(_sine(high) - _sine(low))
    for _ in range(60):
        middle = (low + high) / 2
        is_below = sign * (_sine(middle) - x) < 0
        low, high = np.where(is_below, middle, low), np.where(is_below, high, middle)
    return (low + high) / 2


def make_rotating_gaussians(
    n_samples: int = 1000, *, random_state: Any = None, return_density: bool = False
) -> tuple[Any, ...]:
    """Make two correlated outputs whose covariance rotates with x.

    The density is a mixture of two Gaussians, with standard deviations 1 and 0.2
    along their axes and a distance of 4 between their means. The axes rotate by pi
    as x goes from 0 to 1, in opposite directions.

    Parameters
    ----------
    n_samples : int, default=1000
        Number of rows.
    random_state : int, RandomState, Generator or None, default=None
        Seed.
    return_density : bool, default=False
        Whether to return the true density as well.

    Returns
    -------
    X : ndarray of shape (n_samples, 1)
        Uniform in [0, 1].
    y : ndarray of shape (n_samples, 2)
    density : MixtureDensity
        The true p(y | x) of every row; only with `return_density`.

    Examples
    --------
    >>> from skmdn.datasets import make_rotating_gaussians
    >>> X, y, density = make_rotating_gaussians(
    ...     500, random_state=0, return_density=True
    ... )
    >>> density.std()[:2].round(1)  # the axes rotate with x
    array([[2. , 1. ],
           [2.1, 0.8]])
    """
    rng = _generator(random_state)
    x = rng.uniform(size=n_samples)
    # The two components rotate in opposite directions, (n, 2).
    angle = np.pi * np.stack([x, -x], axis=1)
    axes = np.stack(
        [
            np.stack([np.cos(angle), -np.sin(angle)], axis=-1),
            np.stack([np.sin(angle), np.cos(angle)], axis=-1),
        ],
        axis=-2,
    )
    covariances = (axes * np.array([1.0, 0.04])) @ axes.swapaxes(-1, -2)
    weights = np.stack([0.3 + 0.4 * x, 0.7 - 0.4 * x], axis=1)
    means = np.broadcast_to([[-2.0, 0.0], [2.0, 0.0]], (n_samples, 2, 2))
    density = MixtureDensity.from_covariances(weights, means, covariances)
    return _draw(x[:, None], density, rng, return_density)


def make_two_moons(
    n_samples: int = 1000,
    *,
    noise: float = 0.1,
    random_state: Any = None,
    return_density: bool = False,
) -> tuple[Any, ...]:
    """Make two interleaved half circles with a known conditional density.

    The arcs of :func:`sklearn.datasets.make_moons`, with the height y as a function
    of the position x: there is one arc where x lies outside of [0, 1], and two
    inside. Points are uniform along the arcs, so that the weight of an arc is
    unbounded at its ends; Gaussian noise is added to y only.

    Parameters
    ----------
    n_samples : int, default=1000
        Number of rows.
    noise : float, default=0.1
        Standard deviation of y around an arc.
    random_state : int, RandomState, Generator or None, default=None
        Seed.
    return_density : bool, default=False
        Whether to return the true density as well.

    Returns
    -------
    X : ndarray of shape (n_samples, 1)
        Position, in [-1, 2].
    y : ndarray of shape (n_samples,)
        Height.
    density : MixtureDensity
        The true p(y | x) of every row; only with `return_density`.

    Examples
    --------
    >>> from skmdn.datasets import make_two_moons
    >>> X, y, density = make_two_moons(500, random_state=0, return_density=True)
    >>> density
    MixtureDensity(n_rows=500, n_components=2, n_outputs=1)
    """
    rng = _generator(random_state)
    along = np.cos(np.pi * rng.uniform(size=n_samples))
    x = np.where(rng.uniform(size=n_samples) < 0.5, along, 1 - along)
    # Horizontal distance from the centre of each arc, and height above it, (n, 2).
    offset = np.stack([x, x - 1], axis=1)
    height = np.sqrt(np.maximum(1 - offset**2, 1e-12))
    weights = np.where(np.abs(offset) <= 1, 1 / height, 0.0)
    weights /= weights.sum(axis=1, keepdims=True)
    means = height * [1, -1] + [0, 0.5]
    density = MixtureDensity(weights, means, np.full_like(means, 1 / noise))
    return _draw(x[:, None], density, rng, return_density)


def _generator(random_state: Any) -> np.random.RandomState:
    """Return a generator that is not NumPy's global one."""
    if random_state is None:
        random_state = np.random.RandomState()
    if isinstance(random_state, np.random.Generator):  # they share the state
        random_state = np.random.RandomState(random_state.bit_generator)
    rng: np.random.RandomState = check_random_state(random_state)
    return rng


def _draw(
    X: NDArray[np.float64],
    density: MixtureDensity,
    rng: np.random.RandomState,
    return_density: bool,
) -> tuple[Any, ...]:
    """Draw y for every row; return (X, y), or (X, y, density)."""
    y = density.sample(random_state=rng)[:, 0]
    return (X, y, density) if return_density else (X, y)
