"""
A network of one's own: which way is up?
========================================

Handwritten digits are turned by an unknown angle, and a small convolutional network of
one's own reads the angle off the 8 x 8 pixels. Some digits have two answers: a zero
looks the same after half a turn, and a six becomes a nine. The density says so, where
a mean would point in between.
"""

import numpy as np
from matplotlib import pyplot as plt
from scipy.ndimage import rotate
from sklearn.datasets import load_digits
from sklearn.model_selection import GridSearchCV, GroupKFold, GroupShuffleSplit
from torch import nn

from skmdn import MDNRegressor


def convolutional(n_features):
    """Read pixels as an image; anything that gives (n_samples, width) will do."""
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
# Every image is turned twice, by angles of its own.
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
# `network` is a parameter like others: a search compares it with the fully connected
# networks that are the default (None). Both turns of an image stay in one fold.
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
# One held-out image of each digit, and the density of its angle.
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
title = figure.suptitle("Density of the angle in degrees (line: the truth)")
