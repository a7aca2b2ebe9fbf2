"""Probabilities of cells of a normal distribution, against arithmetic of 60 digits."""

import itertools
import math

import mpmath
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose

from skmdn._mixture.cells import NARROW, log_probability, truncate

INFINITE = [(-np.inf, 0.0), (0.0, np.inf), (-np.inf, np.inf), (-np.inf, 5.0)]
INFINITE += [(-3.0, np.inf), (-0.01, np.inf)]
WIDTHS = [0.0, 1e-12, 1e-9, 1e-6, 1e-3, 0.012, 0.013, 0.1, 0.3, 0.24, 0.26, 1, 3, 1e2]
WIDTHS += [1e3]
# The middle, the ends, and a point in between.
SHARES = [0.0, 0.3, 0.5, 1.0]


def exact(z, below, above):
    """Compute the fields of `Truncated` with 60 digits, as floats."""
    with mpmath.workdps(60):
        z, below, above = map(mpmath.mpf, (z, below, above))
        if below == above:
            x = z + below
            return [float(v) for v in (mpmath.log(mpmath.npdf(x)), x, x**2, 0)]
        ends = low, high = z + below, z + above
        if low < 0 < high:
            outside = mpmath.ncdf(low) + mpmath.ncdf(-high)
            value, probability = mpmath.log1p(-outside), 1 - outside
        else:
            nearer, further = sorted([-abs(low), -abs(high)], reverse=True)
            probability = mpmath.ncdf(nearer) - mpmath.ncdf(further)
            value = mpmath.log(probability)
        at_low, at_high = (
            mpmath.mpf(0) if mpmath.isinf(x) else mpmath.npdf(x) / probability
            for x in ends
        )

        def moved(k):
            left, right = (
                mpmath.mpf(0) if mpmath.isinf(x) else x**k * at
                for x, at in zip(ends, (at_low, at_high), strict=True)
            )
            return right - left

        square = 1 - moved(1)
        spread = 3 * square - moved(3) - square**2
        found = value, -moved(0), square, spread, at_low, at_high
        return [float(v) for v in found]


def cells(zs=None):
    """Cells of all widths that the module tells apart, in both tails and around 0."""
    zs = [*np.linspace(-40, 40, 17), 1e-3, -1e-9, 0.3, -0.7] if zs is None else zs
    for z in map(float, zs):
        for width, share in itertools.product(WIDTHS, SHARES):
            yield z, -width * share, width * (1 - share)
        yield from ((z, *ends) for ends in INFINITE)
        # The width at which the formulas meet.
        edge = NARROW / max(1.0, abs(z))
        yield from ((z, -edge * f / 2, edge * f / 2) for f in (0.98, 1.02))


def test_cells_are_those_of_exact_arithmetic():
    rows = list(cells())
    z, below, above = torch.tensor(rows, dtype=torch.float64).T
    found = truncate(z, below, above)
    expected = [exact(*row) for row in rows]
    value, mean, square, spread = np.transpose([row[:4] for row in expected])
    assert_allclose(found.log_probability, value, rtol=1e-11, atol=0)
    assert_allclose(found.mean, mean, rtol=1e-11, atol=1e-14)
    assert_allclose(found.square, square, rtol=1e-11, atol=1e-14)
    # Next to 2 E[X^2] in the second derivative.
    assert_allclose(found.spread, spread, rtol=1e-8, atol=1e-8)
    is_cell = below != above
    ends = np.transpose([row[4:] for row in expected if len(row) > 4])
    assert_allclose(found.at_lower[is_cell], ends[0], rtol=1e-11, atol=1e-300)
    assert_allclose(found.at_upper[is_cell], ends[1], rtol=1e-11, atol=1e-300)


def test_single_precision_keeps_its_digits():
    rows = list(cells([-40.0, -5.0, -0.5, 0.0, 2.0, 40.0]))
    cell = torch.tensor(rows, dtype=torch.float32)
    expected = np.array([exact(*row)[:3] for row in cell.double().tolist()])
    found = truncate(*cell.T)
    assert {part.dtype for part in found} == {torch.float32}
    for part, column in zip(found[:3], expected.T, strict=True):
        assert_allclose(part, column, rtol=2e-6, atol=1e-6)


# So far out that cells have no probability in the precision.
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("z", [200.0, 1e4, 1e8])
@pytest.mark.parametrize("sign", [-1, 1])
def test_cells_far_out_pull_towards_the_mean(dtype, z, sign):
    for below, above in [(-0.5, 0.5), (-1e-3, 1e-3), (0.0, np.inf)]:
        ends = (below, above) if sign > 0 else (-above, -below)
        inputs = [
            torch.tensor([x], dtype=dtype, requires_grad=True)
            for x in (sign * z, *ends)
        ]
        value = log_probability(*inputs)
        slope, *others = torch.autograd.grad(value, inputs)
        nearest = z + below
        assert value.isfinite()
        assert value < -0.5 * nearest**2 * (1 - 1e-6)
        # Bounds of the mean of a tail, and so of a part of it.
        assert (
            nearest * (1 - 1e-6) <= -sign * slope <= (nearest + 1 / nearest) * 1.000001
        )
        assert all(part.isfinite() for part in others)
    # Nothing pulls where a bound is satisfied by far.
    far = [torch.tensor(x, dtype=dtype, requires_grad=True) for x in (z, -np.inf, 0.0)]
    value = log_probability(*far)
    assert value == 0
    assert not any(torch.autograd.grad(value, far))


numbers = st.floats(-12, 12)
lengths = st.floats(1e-3, 20)


@given(numbers, lengths, st.floats(0, 1))
def test_derivatives_are_those_of_autograd(z, width, share):
    """Of a difference of error functions, where it keeps enough digits."""
    below, above = -share * width, (1 - share) * width

    def plain(z, below, above, s=0.0):
        low, high = s.exp() * (z + below), s.exp() * (z + above)
        if z + (below + above) / 2 > 0:
            low, high = -high, -low
        return torch.log(
            0.5
            * (torch.erfc(-high * math.sqrt(0.5)) - torch.erfc(-low * math.sqrt(0.5)))
        )

    inputs = [
        torch.tensor(x, dtype=torch.float64, requires_grad=True)
        for x in (z, below, above, 0.0)
    ]
    value = plain(*inputs)
    *slopes, first = torch.autograd.grad(value, inputs, create_graph=True)
    (second,) = torch.autograd.grad(first, inputs[3])
    found = truncate(*inputs[:3])
    tolerance = {"rtol": 1e-7, "atol": 1e-7}
    assert_allclose(found.log_probability.detach(), value.detach(), **tolerance)
    by_ends = -found.mean, -found.at_lower, found.at_upper
    for part, expected in zip(by_ends, slopes, strict=True):
        assert_allclose(part.detach(), expected.detach(), **tolerance)
    assert_allclose((1 - found.square).detach(), first.detach(), **tolerance)
    bend = found.spread - 2 * found.square
    assert_allclose(bend.detach(), second, rtol=1e-4, atol=1e-5)
    ours = torch.autograd.grad(log_probability(*inputs[:3]), inputs[:3])
    assert_allclose(torch.stack(ours), torch.stack(by_ends).detach(), rtol=1e-12)


@given(numbers, st.lists(st.floats(-12, 12), min_size=1, max_size=6, unique=True))
def test_probabilities_of_a_partition_add_up_to_one(z, edges):
    edges = np.array([-np.inf, *sorted(edges), np.inf])
    below, above = torch.from_numpy(edges[:-1]), torch.from_numpy(edges[1:])
    found = truncate(torch.tensor(z, dtype=torch.float64), below, above)
    p = found.log_probability.exp()
    assert_allclose(p.sum(), 1, rtol=1e-12)
    # The moments of the whole are those of the standard normal.
    assert_allclose((p * found.mean).sum(), 0, atol=1e-12)
    assert_allclose((p * found.square).sum(), 1, rtol=1e-10)


def test_a_cell_of_width_zero_is_a_point():
    z = torch.tensor([-30.0, -1.0, 0.0, 2.5], dtype=torch.float64)
    zero = torch.zeros_like(z)
    found = truncate(z, zero, zero)
    density = -0.5 * z.square() - 0.5 * math.log(2 * math.pi)
    assert_allclose(found.log_probability, density, rtol=1e-15)
    assert torch.equal(found.mean, z)
    assert_allclose(found.square, z.square(), rtol=1e-15)
    assert not found.spread.any()
    inputs = [part.clone().requires_grad_() for part in (z, zero, zero)]
    slopes = torch.autograd.grad(log_probability(*inputs).sum(), inputs)
    assert_allclose(slopes[0], -z)
    assert not torch.stack(slopes[1:]).any()


def test_the_whole_line_is_certain():
    z = torch.tensor([-1e5, 0.0, 3.0], dtype=torch.float32)
    for end in (np.inf, 1e18):
        found = truncate(z, torch.tensor(-end), torch.tensor(end))
        assert not found.log_probability.any()
        assert not found.mean.any()
        assert torch.equal(found.square, torch.ones(3))
