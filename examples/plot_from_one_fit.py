"""
Mean, modes, regions and risks from one fit
===========================================

One fitted model gives the mean, median, modes, highest-density regions, the probability
of exceeding a threshold, and the density of one output given another, all exactly. The
data are the eruptions of Old Faithful. The outputs are the duration of an eruption and
the waiting time after it, given the waiting time before it.
"""

import numpy as np
from matplotlib import pyplot as plt

from skmdn import MDNRegressor
from skmdn.datasets import load_geyser
from skmdn.plot import DensityDisplay

# Rows are in order of time: the waiting time of the next row follows this eruption.
data = load_geyser(drop_night_codes=False)
waits, durations = data.data[:, 0], data.target
by_day = ~np.isin(durations[:-1], (2.0, 3.0, 4.0))
X = waits[:-1, None][by_day]
y = np.column_stack([durations[:-1], waits[1:]])[by_day]

mdn = MDNRegressor(3, random_state=0).fit(X, y)
joint = mdn.predict_density([[80.0]])

# %%
# Statistics of the duration, and of the next wait once the duration is known.
duration = joint.marginal(0)

print(f"after a wait of 80 minutes, an eruption of {duration.mean()[0]:.2f} minutes")
print(f"  on average, median {duration.median()[0]:.2f},")
print(f"  most likely {', '.join(f'{mode:.2f}' for mode in duration.modes()[0])};")
pieces = [f"{low:.2f} to {high:.2f}" for low, high in duration.hdr(0.9)[0]]
print(f"  90 % of the probability within {' or '.join(pieces)};")
print(f"  longer than 3 minutes with probability {duration.sf(3.0)[0]:.2f}")
for seen in (1.8, 4.3):
    wait = joint.condition({0: seen})
    print(f"if it lasts {seen} minutes, the next wait is {wait.mean()[0, 0]:.0f}")
    print(f"  +- {wait.std()[0, 0]:.0f} minutes")

# %%
# The joint density has one region for short and one for long eruptions.
figure, ax = plt.subplots(layout="constrained")
near = np.abs(X[:, 0] - 80) <= 5
display = DensityDisplay.from_predictions(
    joint,
    output=(0, 1),
    y_label=("duration (minutes)", "next wait (minutes)"),
    ax=ax,
)
points = ax.plot(*y[near].T, ".", color="#D55E00")
title = ax.set_title("After a wait of 80 minutes (points: 75 to 85)")
