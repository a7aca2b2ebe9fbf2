"""Generators of NumPy as `random_state`: advanced, and reproducible by their state."""

import copy

import numpy as np
import pytest
from helpers import quick, random_density, random_scalar_density
from numpy.testing import assert_array_equal

import skmdn
from skmdn import TransformedDensity, metrics

X = np.linspace(0, 1, 40)[:, None]
Y = np.sin(6 * X[:, 0])
JOINT, SCALAR = random_density(3, 2, 2), random_scalar_density(3, 2)
RECORDED = SCALAR.recorded(0.5)


@pytest.fixture(scope="module")
def fitted():
    return quick(max_iter=2, random_state=0).fit(X, Y)


DRAWS = {
    "mixture": lambda rng, mdn: JOINT.sample(5, rng),
    "bounded": lambda rng, mdn: TransformedDensity(JOINT, (0, None)).sample(5, rng),
    "recorded": lambda rng, mdn: SCALAR.recorded(1e-3).sample(5, rng),
    "estimator": lambda rng, mdn: mdn.sample(X, 5, rng),
    "composite": lambda rng, mdn: skmdn.sample(mdn, X, 5, rng),
    "pit": lambda rng, mdn: RECORDED.pit([0.0, 0.5, 1.0], rng),
    "pit metric": lambda rng, mdn: metrics.pit([0.0, 0.5, 1.0], RECORDED, rng),
    "energy": lambda rng, mdn: metrics.energy_score(
        np.zeros((3, 2)), JOINT, random_state=rng
    ),
}


@pytest.mark.parametrize("kind", DRAWS)
@pytest.mark.parametrize("bits", [np.random.PCG64, np.random.MT19937, np.random.SFC64])
def test_generators_advance_and_repeat(kind, bits, fitted):
    draw = DRAWS[kind]
    generator = np.random.Generator(bits(0))
    before = copy.deepcopy(generator)
    first, second = draw(generator, fitted), draw(generator, fitted)
    assert (first != second).any()
    assert_array_equal(draw(before, fitted), first)
    assert_array_equal(draw(before, fitted), second)
    # Both were advanced by the same steps.
    assert generator.random() == before.random()


@pytest.mark.parametrize("kind", DRAWS)
def test_seeds_and_generators_of_other_kinds_are_told_apart(kind, fitted):
    draw = DRAWS[kind]
    assert_array_equal(draw(3, fitted), draw(np.int64(3), fitted))
    with pytest.raises(ValueError, match="random_state must be None"):
        draw(np.random.PCG64(0), fitted)
