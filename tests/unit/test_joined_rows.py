"""Rows of several densities joined, and densities where arrays are expected."""

import numpy as np
import pytest
from helpers import random_density, random_parameters, random_scalar_density
from numpy.testing import assert_array_equal
from sklearn.utils import _safe_indexing, check_array, indexable

from skmdn import MixtureDensity, TransformedDensity
from skmdn.metrics import log_score


def named(names, n=2, K=2, seed=0):
    parameters = random_parameters(n, K, len(names), seed=seed)
    return MixtureDensity.from_covariances(*parameters, output_names=names)


@pytest.mark.parametrize("components", [(3, 3), (1, 4, 2)])
@pytest.mark.parametrize("d", [1, 3])
def test_rows_are_joined_in_order(components, d):
    densities = [
        random_density(n, K, d, seed=n)
        for n, K in zip((2, 3, 1), components, strict=False)
    ]
    joined = MixtureDensity.concatenate(iter(densities))
    assert joined.n_components == max(components)
    assert len(joined) == sum(map(len, densities))
    y = np.full(d, 0.3)
    for method, *arguments in [
        ("logpdf", y),
        ("mean",),
        ("cov",),
        ("probability", y - 1, y + 1),
    ]:
        parts = [getattr(density, method)(*arguments) for density in densities]
        found = getattr(joined, method)(*arguments)
        np.testing.assert_allclose(found, np.concatenate(parts), rtol=1e-12)
    modes = [row for density in densities for row in density.modes()]
    for ours, theirs in zip(joined.modes(), modes, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-8, atol=1e-8)


def test_parts_of_a_density_give_the_density():
    density = random_density(5, 3, 2)
    joined = MixtureDensity.concatenate([density[:2], density[2:2], density[2:]])
    for ours, theirs in zip(joined.mixture, density.mixture, strict=True):
        assert_array_equal(ours, theirs)


def test_outputs_are_joined_by_name():
    first, second = named(["a", "b"]), named(["b", "a"], seed=1)
    joined = MixtureDensity.concatenate([first, second])
    assert joined.output_names == ("a", "b")
    assert_array_equal(joined.mean()[2:], second.mean()[:, ::-1])
    plain = random_density(2, 2, 2)
    for order in ([plain, first], [first, plain]):
        assert MixtureDensity.concatenate(order).output_names == ("a", "b")


@pytest.mark.parametrize(
    ("others", "error", "message"),
    [
        ([], ValueError, "at least one density"),
        ([random_density(2, 2, 3)], ValueError, r"same event_shape, got \(2,\) and"),
        ([random_scalar_density(2, 2)], ValueError, "same event_shape"),
        ([named(["a", "b"]), named(["a", "c"])], ValueError, "densities has the outpu"),
        ([named(["a", "b"]), random_density(2, 2, 3)], ValueError, "same event_shape"),
        (random_density(2, 2, 2), TypeError, "sequence of MixtureDensity"),
        ([3], TypeError, "must hold MixtureDensity, got .* int"),
        (
            [TransformedDensity(random_density(2, 2, 2), (0, None))],
            TypeError,
            "got an object of type TransformedDensity",
        ),
    ],
)
def test_what_cannot_be_joined_is_refused(others, error, message):
    first = random_density(2, 2, 2)
    if isinstance(others, list) and others:
        others = [first, *others]
    with pytest.raises(error, match=message):
        MixtureDensity.concatenate(others)


def test_steps_must_be_equal():
    first, second = random_density(2, 2, 2), random_density(2, 2, 2)
    first.outputs = first.outputs.recorded_to(np.array([0.5, 0.0]))
    with pytest.raises(ValueError, match=r"same resolution, got .*0\.5, None.* None"):
        MixtureDensity.concatenate([first, second])
    second.outputs = first.outputs
    assert MixtureDensity.concatenate([first, second]).resolution == (0.5, None)


def test_bounded_densities_are_joined():
    latents = random_density(2, 2, 2), random_density(3, 1, 2, seed=1)
    supports = [(0, None), None]
    joined = TransformedDensity.concatenate(
        [TransformedDensity(latent, supports) for latent in latents]
    )
    assert joined.supports.to_state() == ((0, None), (None, None))
    expected = MixtureDensity.concatenate(latents)
    assert_array_equal(joined.latent.means, expected.means)
    with pytest.raises(ValueError, match="same supports, got"):
        TransformedDensity.concatenate(
            [TransformedDensity(latents[0], supports), TransformedDensity(latents[1])]
        )
    turned = (
        TransformedDensity(named(["b", "a"]), {"a": (0, None)}),
        TransformedDensity(named(["a", "b"]), {"a": (0, None)}),
    )
    both = TransformedDensity.concatenate(turned)
    assert both.output_names == ("b", "a")
    assert both.supports.to_state() == ((None, None), (0, None))


# -- densities are no arrays ---------------------------------------------------------

KINDS = {
    "mixture": random_scalar_density(3, 2),
    "bounded": TransformedDensity(random_density(3, 2, 2), (0, None)),
    "recorded": random_scalar_density(3, 2).recorded(1.0),
}


@pytest.mark.parametrize("kind", KINDS)
def test_densities_are_no_arrays(kind):
    density = KINDS[kind]
    message = rf"A {type(density).__name__} is not an array of numbers\. Use mean\(\)"
    for convert in (
        np.asarray,
        np.array,
        lambda d: np.asarray(d, dtype=float),
        check_array,
        np.sum,
        np.exp,
        lambda d: np.float64(2) * d,
    ):
        with pytest.raises(TypeError, match=message):
            convert(density)
    with pytest.raises(TypeError):
        density + 1


def test_metrics_name_swapped_arguments_of_densities():
    with pytest.raises(TypeError, match="order of the arguments"):
        log_score(KINDS["mixture"], np.zeros(3))
    with pytest.raises(TypeError, match="y must hold numbers, got an object of type"):
        KINDS["mixture"].logpdf(KINDS["mixture"])


def test_utilities_of_scikit_learn_select_rows():
    density = KINDS["mixture"]
    X, same = indexable(np.zeros((3, 1)), density)
    assert len(X) == len(same) == 3
    assert [len(row) for row in _safe_indexing(density, [0, 2])] == [1, 1]
