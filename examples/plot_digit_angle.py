"""
Images: the angle of digits by a convolutional network
======================================================

Handwritten digits are rotated by a random angle, and a small user-defined convolutional
network predicts the density of the angle from the 8 x 8 pixels. For some digits two
angles are possible: a zero looks the same after half a rotation, and a six becomes a
nine. The density then has two modes, while the mean lies in between.
"""

import numpy as np
from matplotlib import pyplot as plt
from scipy.ndimage import rotate
from sklearn.datasets import load_digits
from sklearn.model_selection import GridSearchCV, GroupKFold, GroupShuffleSplit
from torch import nn

from skmdn import MDNRegressor


def convolutional(n_features):
    """Build a network that maps pixels (n_samples, 64) to (n_samples, 64)."""
    return nn.Sequential(
        nn.Unflatten(1, (1, 8, 8)),
        nn.Conv2d(1, 16, kernel_size=3),
        nn.SiLU(),
        nn.Conv2d(16, 32, kernel_size=3),
        nn.SiLU(),
        nn.Flatten(),
        nn.LazyLinear(64),
        nn.SiLU(),
    )


# %%
# Every image is rotated twice, by different angles.
digits = load_digits()
image = np.repeat(np.arange(len(digits.images)), 2)
rng = np.random.RandomState(0)
angles = rng.uniform(-180.0, 180.0, size=len(image))
X = np.array(
    [
        rotate(digits.images[i], angle, reshape=False, order=1).ravel()
        for i, angle in zip(image, angles, strict=True)
    ]
)
train, test = next(GroupShuffleSplit(1, random_state=0).split(X, groups=image))

# %%
# `network` is an ordinary parameter: a search compares the convolutional network with
# the default fully connected networks (None). Both rotations of an image stay in one
# fold.
search = GridSearchCV(
    MDNRegressor(8, n_estimators=4, max_iter=30, random_state=0),
    {"network": [None, convolutional]},
    cv=GroupKFold(3),
)
search.fit(X[train], angles[train], groups=image[train])
for settings, score in zip(
    search.cv_results_["params"], search.cv_results_["mean_test_score"], strict=True
):
    name = "fully connected" if settings["network"] is None else "convolutional"
    print(f"{name}: {score:.2f} nats")
print(f"uniform over all angles: {-np.log(360):.2f} nats")
print(f"held-out images: {search.score(X[test], angles[test]):.2f} nats")

# %%
# The figure shows one held-out image of each digit, and the density of its angle.
labels = digits.target[image[test]]
shown = [test[np.flatnonzero(labels == digit)[0]] for digit in range(10)]
density = search.best_estimator_.predict_density(X[shown])
grid = np.linspace(-180.0, 180.0, 721)
curves = density.pdf(grid[:, None]).T

figure, axes = plt.subplots(4, 5, figsize=(9, 7), layout="constrained")
for digit, i in enumerate(shown):
    top, bottom = axes[2 * (digit // 5) : 2 * (digit // 5) + 2, digit % 5]
    top.imshow(X[i].reshape(8, 8), cmap="gray_r")
    top.set_axis_off()
    top.set_title(f"a {digit}")
    bottom.fill_between(grid, curves[digit], color="#0072B2", alpha=0.4)
    bottom.axvline(angles[i], color="#D55E00")
    bottom.set(xticks=[-180, 0, 180], yticks=[], ylim=(0, None))
title = figure.suptitle("Density of the angle in degrees (line: true angle)")
