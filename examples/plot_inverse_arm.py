"""
Inverse problem: the joint angles of a robot arm
================================================

The angles of the joints of an arm determine the position of its hand. The inverse has
several solutions: two for an arm with two joints (elbow to the left or to the right),
and infinitely many for an arm with three. Simulate the forward direction, and fit the
density of the angles given the position: it has all solutions, each with its
probability. The page on :doc:`inverse problems </inverse_problems>` explains the steps.
"""

import numpy as np
from matplotlib import pyplot as plt

from skmdn import MDNRegressor

NOISE = 0.02  # standard deviation of each coordinate of the measured position
N_SIMULATIONS = 4000
rng = np.random.default_rng(0)


def joints(angles, lengths):
    """Return base, joints and hand of arms, (..., n_joints + 1, 2).

    Each angle is relative to the direction of the segment before it.
    """
    direction = np.cumsum(angles, axis=-1)
    steps = lengths[:, None] * np.stack([np.cos(direction), np.sin(direction)], -1)
    return np.cumsum(np.insert(steps, 0, 0.0, axis=-2), axis=-2)


def hand(angles, lengths):
    return joints(angles, lengths)[..., -1, :]


def simulate(prior_mean, prior_std, lengths):
    """Return angles of the prior, and measured positions of the hand."""
    angles = rng.normal(prior_mean, prior_std, size=(N_SIMULATIONS, len(lengths)))
    return angles, hand(angles, lengths) + rng.normal(0, NOISE, (N_SIMULATIONS, 2))


options = {"n_estimators": 4, "max_iter": 50, "random_state": 0}

# %%
# Two joints: the two solutions follow from the law of cosines. The prior prefers an
# elbow to the left; the Jacobian of the position is the same for both solutions, so
# that the ratio of their probabilities is that of their prior densities, if the noise
# is small.
lengths = np.array([1.0, 1.0])
prior_mean, prior_std = np.array([0.8, 0.3]), np.array([0.6, 1.0])
angles, positions = simulate(prior_mean, prior_std, lengths)
mdn = MDNRegressor(**options).fit(positions, angles)

target = np.array([0.9, 1.3])
elbow = np.arccos((target @ target - lengths @ lengths) / (2 * lengths.prod()))
elbow = np.array([elbow, -elbow])
shoulder = np.arctan2(target[1], target[0]) - np.arctan2(
    lengths[1] * np.sin(elbow), lengths[0] + lengths[1] * np.cos(elbow)
)
exact = np.column_stack([shoulder, elbow])
prior = np.exp(-0.5 * (((exact - prior_mean) / prior_std) ** 2).sum(axis=1))

density = mdn.predict_density(target[None])
(solutions,), (masses,) = density.modes(min_mass=0.01, return_mass=True)
for solution, mass in zip(solutions, masses, strict=True):
    at = np.linalg.norm(exact - solution, axis=1).argmin()
    print(
        f"shoulder {solution[0]:5.2f}, elbow {solution[1]:5.2f} with probability "
        f"{mass:.2f}; exact: {exact[at, 0]:5.2f}, {exact[at, 1]:5.2f}, "
        f"{prior[at] / prior.sum():.2f}"
    )
two_joints = density.sample(100, random_state=0)[0]

# %%
# Three joints: the solutions are a curve in the space of the angles. The re-simulation
# error is the distance between the target and the position of the hand for angles drawn
# from the density. Draws from the exact posterior would have about the error of the
# measurement. Rejection keeps the hundredth of the simulations that ended nearest to
# the target (approximate Bayesian computation); it needs new simulations for each
# target, or many more of them.
three_lengths = np.array([0.8, 0.7, 0.5])
angles, positions = simulate(0.3, 0.7, three_lengths)
mdn3 = MDNRegressor(**options).fit(positions, angles)
targets = np.array([[0.6, 1.2], [1.2, 0.9], [1.0, -0.4]])
draws = mdn3.sample(targets, 1000, random_state=0)


def error(angles, target):
    return np.linalg.norm(hand(angles, three_lengths) - target, axis=-1)


errors = {"prior": [], "rejection, nearest 1 %": [], "skmdn": [], "measurement": []}
for target3, drawn in zip(targets, draws, strict=True):
    distance = np.linalg.norm(positions - target3, axis=1)
    nearest = angles[distance.argsort()[: N_SIMULATIONS // 100]]
    errors["prior"].append(error(angles, target3))
    errors["rejection, nearest 1 %"].append(error(nearest, target3))
    errors["skmdn"].append(error(drawn, target3))
    errors["measurement"].append(
        NOISE * np.linalg.norm(rng.normal(size=(1000, 2)), axis=1)
    )
errors = {name: np.concatenate(values) for name, values in errors.items()}
for name, values in errors.items():
    print(f"median re-simulation error, {name}: {np.median(values):.3f}")

# %%
# Configurations drawn over one another: every arm starts at the base, and ends near the
# target.
figure, axes = plt.subplots(1, 3, figsize=(12, 4), layout="constrained")
for ax, arms, at in (
    (axes[0], joints(two_joints, lengths), target),
    (axes[1], joints(draws[0, :100], three_lengths), targets[0]),
):
    for arm in arms:
        ax.plot(*arm.T, "-", color="#0072B2", alpha=0.12)
    ax.plot(*arms[:, 1:-1].reshape(-1, 2).T, ".", color="#0072B2", markersize=3)
    ax.plot(*at, "x", color="#D55E00", markersize=9, markeredgewidth=2, zorder=5)
    ax.plot(0, 0, "ks", markersize=7)
    ax.set_aspect("equal", adjustable="datalim")
for solution, mass in zip(solutions, masses, strict=True):
    axes[0].plot(*joints(solution, lengths).T, "o-", color="k", label=f"{mass:.0%}")
axes[0].legend(title="solutions", loc="lower right")
axes[0].set_title("two joints: two solutions")
axes[1].set_title("three joints: a curve of solutions")
bins = np.geomspace(1e-3, 4, 60)
for name, values in errors.items():
    style = {"color": "k", "linestyle": ":"} if name == "measurement" else {}
    axes[2].hist(
        values,
        bins,
        weights=np.full(len(values), 1 / len(values)),
        histtype="step",
        label=name,
        linewidth=1.5,
        **style,
    )
axes[2].set(
    xscale="log",
    xlabel="re-simulation error",
    ylabel="share of the draws",
    ylim=(0, 0.2),
)
axes[2].legend(loc="upper left")
title = axes[2].set_title("distance of hand and target")
