"""
Rain: a positive target with exact zeros
========================================

Rain is zero on many days, and recorded in tenths of a millimetre otherwise. With a
support and a resolution, one density answers both questions: will it rain, and how
much? The left panel shows the quantiles of the recorded rain, the right one the
predicted probability of a dry day against the share of dry days.
"""

import numpy as np
from matplotlib import pyplot as plt

from skmdn import MDNRegressor


def weather(n, seed):
    rng = np.random.default_rng(seed)
    humidity = rng.uniform(0, 1, size=(n, 1))
    is_wet = rng.uniform(size=n) < humidity[:, 0] ** 2
    amount = rng.gamma(1.2, 1 + 6 * humidity[:, 0])
    return humidity, np.round(is_wet * amount, 1)


X, rain = weather(1500, 0)
mdn = MDNRegressor(target_support=(0, None), target_resolution=0.1, random_state=0)
mdn.fit(X, rain)

# %%
# `recorded` gives the distribution of the values as they are recorded: multiples of
# 0.1 mm, with a probability of exactly zero.
grid = np.linspace(0, 1, 100)[:, None]
recorded = mdn.predict_density(grid).recorded()
new, observed = weather(4000, 1)
for humidity in (0.2, 0.5, 0.9):
    day = mdn.predict_density([[humidity]]).recorded()
    print(
        f"humidity {humidity}: dry with probability {day.pmf(0.0)[0]:.2f},"
        f" 95 % quantile {day.ppf(0.95)[0]:.1f} mm"
    )

figure, (left, right) = plt.subplots(1, 2, figsize=(9, 4), layout="constrained")
left.plot(new, observed, ".", color="0.6", markersize=2)
for level in (0.5, 0.75, 0.9, 0.95):
    left.plot(grid, recorded.ppf(level), label=f"{level:.0%} quantile")
left.set(xlabel="humidity", ylabel="rain in mm", ylim=(-0.5, 25))
left.legend()

bins = np.linspace(0, 1, 11)
place = np.digitize(new[:, 0], bins) - 1
dry = [np.mean(observed[place == i] == 0) for i in range(10)]
right.plot(grid, recorded.pmf(0.0), label="predicted")
right.plot(0.5 * (bins[1:] + bins[:-1]), dry, "o", label="observed")
right.set(xlabel="humidity", ylabel="probability of a dry day", ylim=(0, 1.05))
right.legend()
