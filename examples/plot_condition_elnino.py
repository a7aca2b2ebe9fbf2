"""
Conditioning on known outputs: El Nino
======================================

The data are sea surface temperatures off Peru, one row for each year since 1950. One
model predicts the joint density of the temperatures of March, June, September and
December from the temperature of the previous December. During a year, its months become
known one after the other. `density.condition` then gives the density of the remaining
months, exactly and without another fit. The year shown, 1997, had a strong El Nino, and
is not among the training rows.
"""

import numpy as np
from matplotlib import pyplot as plt
from statsmodels.datasets import elnino

from skmdn import MDNRegressor

years = elnino.load_pandas().data.set_index("YEAR")
before = years[["DEC"]].shift(1).rename(columns={"DEC": "DEC before"})
months = years[["MAR", "JUN", "SEP", "DEC"]]
is_train = before["DEC before"].notna() & (years.index != 1997)
mdn = MDNRegressor(1, random_state=0).fit(before[is_train], months[is_train])
joint = mdn.predict_density(before.loc[[1997]])
truth = months.loc[1997]

# %%
# The outputs are named like the columns.
figure, ax = plt.subplots(layout="constrained")
grid = np.linspace(18.0, 30.0, 400)
stages = [[], ["MAR"], ["MAR", "JUN"], ["MAR", "JUN", "SEP"]]
for place, known in enumerate(reversed(stages)):
    density = joint.condition({name: truth[name] for name in known}) if known else joint
    december = density.marginal("DEC")
    (low,), (high,) = december.interval(0.9)
    print(f"given {known}: {december.mean()[0]:.1f}, 90 % in {low:.1f} to {high:.1f}")
    curve = place + 0.9 * december.pdf(grid) / december.pdf(grid).max()
    ax.fill_between(grid, place, curve, color="#0072B2", alpha=0.4)
line = ax.axvline(truth["DEC"], color="#D55E00", label="observed")
labels = ["and September", "and June", "and March", "December 1996"]
ax.set_yticks(range(len(stages)), labels)
ax.set(
    xlabel="temperature in December 1997 (degrees Celsius)", ylabel="known temperatures"
)
legend = ax.legend(loc="upper left")
