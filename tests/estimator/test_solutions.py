"""The modes of fitted densities are the solutions of inverse problems."""

import numpy as np
import pytest

from skmdn import MDNRegressor
from skmdn.datasets import make_inverse_sine

pytestmark = pytest.mark.full

SHOULDER = 0.3, 0.9  # mean and standard deviation of the prior
ELBOW_RIGHT = 0.4  # probability of an elbow to the right


def hand(angles):
    """Return the position of the hand of an arm with two segments of length one."""
    directions = angles.cumsum(axis=1)
    return np.column_stack([np.cos(directions).sum(1), np.sin(directions).sum(1)])


def draw_angles(n, rng):
    side = rng.choice([-1, 1], n, p=[ELBOW_RIGHT, 1 - ELBOW_RIGHT])
    return np.column_stack([rng.normal(*SHOULDER, n), side * rng.uniform(0.5, 1.6, n)])


def exact_masses(angles):
    """Return the probabilities of both solutions, (n, 2), without noise.

    The other solution is (first + second, -second), with the same Jacobian.
    """
    other = np.column_stack([angles.sum(axis=1), -angles[:, 1]])
    mean, std = SHOULDER
    prior = np.column_stack(
        [
            np.exp(-0.5 * ((each[:, 0] - mean) / std) ** 2)
            * np.where(each[:, 1] > 0, 1 - ELBOW_RIGHT, ELBOW_RIGHT)
            for each in (angles, other)
        ]
    )
    return prior / prior.sum(axis=1, keepdims=True)


def test_an_arm_with_two_joints_has_two_solutions():
    rng = np.random.default_rng(0)
    angles = draw_angles(4000, rng)
    positions = hand(angles) + rng.normal(0, 0.02, (4000, 2))
    mdn = MDNRegressor(random_state=0).fit(positions, angles)
    new = draw_angles(60, rng)
    density = mdn.predict_density(hand(new))
    modes, masses = density.modes(min_mass=0.01, return_mass=True)
    n_found = np.array([len(points) for points in modes])
    n_exact = 1 + (exact_masses(new).min(axis=1) > 0.01)
    assert (n_found == n_exact).mean() >= 0.95
    for row in np.flatnonzero(n_found == 2)[:20]:
        draws = density[row : row + 1].sample(100_000, random_state=1)[0]
        # The solutions have opposite elbows.
        sides = np.sign(modes[row][:, 1])
        assert sides[0] == -sides[1]
        share = (np.sign(draws[:, 1]) == sides[0]).mean()
        assert abs(share - masses[row][0]) < 0.02


def test_the_inverse_sine_has_one_or_three_solutions():
    X, y = make_inverse_sine(2000, random_state=0)
    new_X, _, truth = make_inverse_sine(500, random_state=1, return_density=True)
    mdn = MDNRegressor(random_state=0).fit(X, y)
    modes = mdn.predict_density(new_X).modes(min_mass=0.01)
    exact = truth.modes(min_mass=0.01)
    same = [len(ours) == len(theirs) for ours, theirs in zip(modes, exact, strict=True)]
    assert np.mean(same) >= 0.95
