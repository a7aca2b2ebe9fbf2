"""
Prices with categories: rents of flats
======================================

Prices are positive, rounded, and depend on categories. A frame with a categorical
column needs no encoding; `target_support` says that a rent is positive, and
`target_resolution` that it is rounded to 10 euros. The frame is made: in the old town,
two thirds of the flats have an old contract with a low rent, which no column tells.
"""

import numpy as np
import pandas as pd
from matplotlib import pyplot as plt

from skmdn import MDNRegressor

rng = np.random.default_rng(0)
n = 800
districts = np.array(["old town", "harbour", "suburb"])
flats = pd.DataFrame(
    {
        "area": rng.uniform(25, 120, size=n).round(),
        "year": rng.integers(1950, 2024, size=n),
        "district": pd.Categorical(rng.choice(districts, size=n), categories=districts),
    }
)
per_metre = flats["district"].map({"old town": 18, "harbour": 16, "suburb": 11})
per_metre = per_metre.astype(float) + 0.05 * (flats["year"] - 1990)
has_old_contract = (flats["district"] == "old town") & (rng.uniform(size=n) < 2 / 3)
rent = per_metre * flats["area"] ** 0.95 * np.where(has_old_contract, 0.5, 1.0)
rent = (rent * rng.lognormal(0.0, 0.1, size=n)).round(-1).rename("rent")
print(flats.assign(rent=rent).head(4).to_string(index=False))

# %%
# One flat in each district. The fit takes the frame as it is.
mdn = MDNRegressor(target_support=(0, None), target_resolution=10.0, random_state=0)
mdn.fit(flats, rent)
new = pd.DataFrame({"area": 70.0, "year": 1990, "district": districts})
new["district"] = new["district"].astype(flats["district"].dtype)
density = mdn.predict_density(new)
answers = pd.DataFrame(
    {
        "mean": density.mean(),
        "median": density.median(),
        "P(rent > 900)": 100 * density.sf(900.0),
    },
    index=districts,
)
print("euros, euros, %")
print(answers.round().astype(int))

# %%
# The mean rents of the old town and the suburb are similar, but hardly any flat in the
# old town has that rent: the 80 % highest-density region has two intervals.
for name, pieces in zip(districts, density.hdr(0.8), strict=True):
    text = " or ".join(f"{low:.0f} to {high:.0f}" for low, high in pieces)
    print(f"{name}: {text} euros")

grid = np.linspace(200.0, 1600.0, 500)[:, None]
figure, ax = plt.subplots(layout="constrained")
for name, curve in zip(districts, density.pdf(grid).T, strict=True):
    (line,) = ax.plot(grid, 1000 * curve, label=name)
    ax.axvline(answers.loc[name, "mean"], color=line.get_color(), linestyle=":")
ax.set(xlabel="rent (euros)", ylabel="density (per 1000 euros)", ylim=(0, None))
legend = ax.legend(title="70 m², built in 1990 (dotted: mean)")
