"""
Survival: censored lifetimes
============================

Two in five of these machines still run when the study ends: of their lifetimes it is
only known that they are longer. The fit uses both kinds of rows. Its survival curves,
the probability of a longer life for three loads, are compared with the truth, and with
a fit that takes the end of the study for the end of the machine.
"""

import numpy as np
from matplotlib import pyplot as plt
from scipy.stats import weibull_min

from skmdn import MDNRegressor

SHAPE = 1.8


def scale(load):
    return 30 * np.exp(-load)


rng = np.random.default_rng(0)
load = rng.uniform(0, 2, size=(1500, 1))
life = scale(load[:, 0]) * rng.weibull(SHAPE, size=1500)
age = rng.uniform(1, 25, size=1500)  # when the study ends
time, time_upper = np.minimum(life, age), np.where(life > age, np.inf, life)
print(f"{np.isinf(time_upper).mean():.0%} of the machines still run")

# %%
# `y_upper` is the upper end of what is known: infinity for a machine that still runs.
mdn = MDNRegressor(target_support=(0, None), random_state=0)
naive = MDNRegressor(target_support=(0, None), random_state=0)
mdn.fit(load, time, y_upper=time_upper)
naive.fit(load, time)

for value in (0.2, 1.0, 1.8):
    (median,) = mdn.predict_density([[value]]).median()
    (wrong,) = naive.predict_density([[value]]).median()
    truth = weibull_min(SHAPE, scale=scale(value)).median()
    print(
        f"load {value}: median life {median:.0f} with y_upper, {wrong:.0f} without,"
        f" {truth:.0f} in truth"
    )

# %%
# The probability of a life longer than t.
t = np.linspace(0.1, 40, 200)[:, None]
figure, axes = plt.subplots(1, 3, figsize=(10, 3.5), sharey=True, layout="constrained")
for ax, value in zip(axes, (0.2, 1.0, 1.8), strict=True):
    ax.plot(t, weibull_min(SHAPE, scale=scale(value)).sf(t), "k--", label="truth")
    for name, fitted in (("with y_upper", mdn), ("without", naive)):
        ax.plot(t, fitted.predict_density([[value]]).sf(t), label=name)
    ax.set(title=f"load {value}", xlabel="time")
axes[0].set_ylabel("probability of a longer life")
axes[0].legend()
