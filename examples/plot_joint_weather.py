"""
Joint density of two outputs: temperatures in Seattle
=====================================================

The highest and the lowest temperature of a day are strongly correlated in January, and
weakly in April. One model predicts their joint density from the day of the year. The
regions contain 50, 80 and 95 % of the probability; the points are the days within
a week of the date, from 2012 to 2015.
"""

import numpy as np
from matplotlib import pyplot as plt
from vega_datasets import local_data

from skmdn import MDNRegressor
from skmdn.plot import DensityDisplay

weather = local_data.seattle_weather()
day = weather["date"].dt.day_of_year.to_numpy()
temperatures = weather[["temp_min", "temp_max"]].to_numpy()


def on_circle(day):
    """Map the day of the year to a circle, without a jump at the end of the year."""
    angle = 2 * np.pi * np.asarray(day) / 365.25
    return np.column_stack([np.cos(angle), np.sin(angle)])


# The values have steps of about half a degree: the floor is the variance of a step.
mdn = MDNRegressor(2, reg_covar=5e-4, random_state=0)
mdn.fit(on_circle(day), temperatures)

# %%
# The density of four dates, from the same fit.
dates = {"15 January": 15, "15 April": 105, "15 July": 196, "15 October": 288}
figure, axes = plt.subplots(
    2, 2, figsize=(8, 7), sharex=True, sharey=True, layout="constrained"
)
for ax, (name, date) in zip(axes.flat, dates.items(), strict=True):
    density = mdn.predict_density(on_circle([date]))
    display = DensityDisplay.from_predictions(
        density,
        output=(0, 1),
        y_label=("lowest of the day (degrees C)", "highest of the day (degrees C)"),
        ax=ax,
    )
    is_near = np.abs(day - date) <= 7
    ax.plot(*temperatures[is_near].T, ".", color="#D55E00", markersize=4)
    covariance = density.cov()[0]
    correlation = covariance[0, 1] / np.sqrt(covariance[0, 0] * covariance[1, 1])
    ax.set_title(f"{name}: correlation {correlation:.2f}")
    ax.label_outer()
