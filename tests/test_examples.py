"""Every example runs, and draws."""

import runpy
from pathlib import Path

import pytest

pytest.importorskip("matplotlib")

import matplotlib as mpl

mpl.use("Agg")
from matplotlib import pyplot as plt

EXAMPLES = sorted((Path(__file__).parents[1] / "examples").glob("plot_*.py"))


@pytest.mark.full
@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_example_draws(path):
    runpy.run_path(str(path))
    assert any(ax.has_data() for n in plt.get_fignums() for ax in plt.figure(n).axes)
    plt.close("all")
