"""Latent codes and samples of densities, and a comparison with FrEIA."""

import numpy as np
import pytest
import torch
from helpers import (
    random_density,
    random_parameters,
    random_scalar_density,
    scipy_logpdf,
)
from numpy.testing import assert_allclose, assert_array_equal
from scipy import stats
from sklearn import config_context

from skmdn import MixtureDensity, _mixture
from skmdn._mixture import draws as draws_module

RTOL = 1e-10


# -- against FrEIA ---------------------------------------------------------------


@pytest.fixture
def freia():
    """FrEIA's module and its arguments for a density; it needs float64 defaults."""
    modules = pytest.importorskip("FrEIA.modules", reason="FrEIA is a test extra")
    default = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)

    def build(density, component):
        factors = torch.tensor(density.precision_factors)
        rows, columns = np.triu_indices(density.n_outputs, 1)
        entries = torch.cat(
            [factors.diagonal(dim1=-2, dim2=-1).log(), factors[..., rows, columns]], -1
        )
        weights, means = torch.tensor(density.weights), torch.tensor(density.means)
        module = modules.GaussianMixtureModel(
            [(density.n_outputs,)], [(1,), (1,), (1,), (1,)]
        )
        return module, [weights, means, entries, component]

    yield build
    torch.set_default_dtype(default)


def test_latent_codes_jacobians_and_nll_equal_freia(freia):
    density = random_density(20, 3, 4)
    y = np.random.RandomState(1).normal(size=(20, 4))
    module, c = freia(density, None)
    (z,), jacobian = module([torch.tensor(y)], c)
    ours, log_det = density.to_latent(y)
    assert_allclose(ours, z, rtol=RTOL)
    assert_allclose(log_det, jacobian, rtol=RTOL)
    nll = module.nll_loss(c[0], z, jacobian) + 2 * np.log(2 * np.pi)
    assert_allclose(-density.logpdf(y), nll, rtol=RTOL)
    (back,), _ = module([z], c, rev=True)
    assert_allclose(density.from_latent(ours), back, rtol=1e-9)


def test_latent_codes_of_given_components_equal_freia(freia):
    density = random_density(20, 3, 4)
    y = np.random.RandomState(1).normal(size=(20, 4))
    component = np.random.RandomState(2).randint(3, size=20)
    module, c = freia(density, torch.tensor(component))
    (z,), jacobian = module([torch.tensor(y)], c)
    ours, log_det = density.to_latent(y, component)
    assert_allclose(ours, z, rtol=RTOL)
    assert_allclose(log_det, jacobian, rtol=RTOL)


def test_nll_is_finite_where_freia_overflows(freia):
    density = random_density(20, 3, 4)
    y = np.full((20, 4), 300.0)
    module, c = freia(density, None)
    (z,), jacobian = module([torch.tensor(y)], c)
    assert torch.isinf(module.nll_loss(c[0], z, jacobian)).any()
    parameters = random_parameters(20, 3, 4)
    assert_allclose(density.logpdf(y), scipy_logpdf(*parameters, y), rtol=1e-9)


# -- latent codes and samples ----------------------------------------------------


@pytest.mark.parametrize("component", [None, 7, [0, 2, 1, 1, 0]])
@pytest.mark.parametrize("is_scalar", [True, False])
def test_from_latent_inverts_to_latent(component, is_scalar):
    density = random_scalar_density(5, 3) if is_scalar else random_density(5, 3, 2)
    y = np.random.RandomState(0).normal(size=(5,) if is_scalar else (5, 2))
    z, _ = density.to_latent(y, component)
    back = density.from_latent(z, component)
    expected = y
    if component is None:
        expected = np.broadcast_to(y[:, None], back.shape)
    assert_allclose(back, expected, rtol=RTOL)


def test_seeded_components_follow_the_weights():
    density = MixtureDensity([[0.2, 0.8]], [[0.0, 1000.0]], [[1.0, 1.0]])
    rows = density[np.zeros(20_000, dtype=int)]
    y = rows.from_latent(np.zeros(20_000), component=3)
    assert_array_equal(y, rows.from_latent(np.zeros(20_000), component=3))
    assert_allclose((y > 500).mean(), 0.8, atol=0.015)


@pytest.mark.parametrize("d", [1, 3])
def test_samples_have_the_moments_of_the_density(d):
    density = random_density(3, 3, d)
    draws = density.sample(200_000, random_state=0)
    assert_allclose(draws.mean(axis=1), density.mean(), atol=0.03)
    for row, cov in zip(draws, density.cov(), strict=True):
        assert_allclose(np.cov(row.T), cov, atol=0.02 * np.abs(cov).max())


# Up to 16 outputs factors are inverted, above that each draw is solved for.
@pytest.mark.parametrize("d", [3, 16, 17, 40])
def test_draws_are_the_chosen_means_plus_noise_of_the_component(d):
    density = random_density(4, 3, d)
    n_uniforms = 1 + 2 * ((d + 1) // 2)
    uniform = np.random.RandomState(0).rand(n_uniforms, 4, 6)
    found = _mixture.sample(density.mixture, torch.tensor(uniform)).numpy()
    chosen = (uniform[0][..., None] > density.weights.cumsum(1)[:, None]).sum(-1)
    radius, angle = np.sqrt(-2 * np.log1p(-uniform[1::2])), 2 * np.pi * uniform[2::2]
    noise = np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=1)
    noise = noise.reshape(-1, 4, 6)[:d]
    for row, s in np.ndindex(4, 6):
        z = np.linalg.solve(
            density.precision_factors[row, chosen[row, s]], noise[:, row, s]
        )
        expected = density.means[row, chosen[row, s]] + z
        assert_allclose(found[row, s], expected, rtol=1e-8, atol=1e-9)


@pytest.mark.parametrize("d", [1, 2, 17])
def test_draws_do_not_depend_on_chunks(d, monkeypatch):
    monkeypatch.setattr(draws_module, "DRAWS_PER_BLOCK", 15)
    density = random_density(11, 5, d)
    expected = density.sample(3, random_state=0)
    with config_context(working_memory=2e-3):  # MiB: one row, or a few
        assert_array_equal(density.sample(3, random_state=0), expected)
    # Each row has numbers of its own.
    assert len(np.unique(expected[..., 0])) == 33


def test_samples_follow_the_cdf():
    density = random_scalar_density(3, 3)
    draws = density.sample(5000, random_state=0)
    for row in range(3):
        one = density[row]
        assert stats.kstest(draws[row], lambda y, one=one: one.cdf(y)).pvalue > 0.01


def test_marginal_of_samples_follows_the_marginal():
    density = random_density(1, 3, 3)
    draws = density.sample(5000, random_state=1)[0]
    for output in range(3):
        cdf = density.marginal(output).cdf
        assert stats.kstest(draws[:, output], cdf).pvalue > 0.01


def test_sample_with_a_seed_repeats_and_without_differs():
    density = random_density(3, 3, 2)
    assert_array_equal(density.sample(4, 0), density.sample(4, 0))
    assert not np.array_equal(density.sample(4), density.sample(4))
    state = np.random.RandomState(0)
    assert not np.array_equal(density.sample(4, state), density.sample(4, state))
