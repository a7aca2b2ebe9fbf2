"""
Disjoint highest-density regions: iris petals
=============================================

The petal of an iris of unknown species with a sepal length of 5.4 cm is either about
1.5 cm or about 4 cm long; lengths in between are very unlikely. The 90 %
highest-density region consists of two intervals with a total length of 1.8 cm. The
central interval with equal tails (dashed) also covers the gap: its length is 3.3 cm for
the same 90 %.
"""

import numpy as np
from matplotlib import pyplot as plt
from sklearn.datasets import load_iris

from skmdn import MDNRegressor

data = load_iris(as_frame=True).frame
X = data[["sepal length (cm)"]].to_numpy()
y = data["petal length (cm)"].to_numpy()
mdn = MDNRegressor(random_state=0).fit(X, y)

grid = np.linspace(4.3, 7.9, 181)
density = mdn.predict_density(grid[:, None])
regions = density.hdr(0.9)
low, high = density.interval(0.9)

for length in (4.6, 5.4, 6.6):
    one = mdn.predict_density([[length]])
    pieces = one.hdr(0.9)[0]
    names = " or ".join(f"{a:.1f} to {b:.1f}" for a, b in pieces)
    width = np.diff(one.interval(0.9), axis=0)[0, 0]
    print(
        f"sepal {length} cm: petal {names} cm, "
        f"{np.diff(pieces).sum():.1f} cm in all; equal tails {width:.1f} cm"
    )

# %%
# Every strip is the 90 % region at one sepal length; it has one or two pieces.
figure, ax = plt.subplots(layout="constrained")
half = (grid[1] - grid[0]) / 2
for at, pieces in zip(grid, regions, strict=True):
    for bottom, top in pieces:
        ax.fill_between(
            [at - half, at + half], bottom, top, color="#0072B2", alpha=0.35, lw=0
        )
ax.plot(grid, np.transpose([low, high]), "--", color="#0072B2")
ax.plot(X, y, ".", color="#D55E00", markersize=5)
ax.set_title("90 % regions")
labels = ax.set(xlabel="sepal length (cm)", ylabel="petal length (cm)")
