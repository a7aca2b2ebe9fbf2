"""Picture of the NLL of tables: results of quality.py beside published figures."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from _summary import Row, mean_and_error, pivot

# Names in the files, and the styles of their lines.
PUBLISHED = {"best published": "-", "TabPFN": ":"}
OURS, LINES, OTHERS = "#005a9c", "#777777", "#c1440e"


def draw(rows: Sequence[Row], published: Sequence[Row], picture: Path) -> None:
    """Draw each set with a published figure: skmdn, peers, and published figures.

    Parameters
    ----------
    rows : sequence of dict
        With the columns set, peer, split and nll.
    published : sequence of dict
        With the columns set, peer (a key of `PUBLISHED`) and nll.
    picture : Path
        File that is written.
    """
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot as plt

    measured = pivot(rows, ["set"], "peer", "nll")
    figures = pivot(published, ["set"], "peer", "nll")
    names = [name for name in figures if "skmdn" in measured.get(name, {})]
    n_columns = max(1, (len(names) + 1) // 2)
    figure, axes = plt.subplots(2, n_columns, figsize=(11, 5), layout="constrained")
    for ax, name in zip(axes.flat, names, strict=False):
        lines = {peer: values[""] for peer, values in figures[name].items()}
        draw_set(ax, dict(measured[name]), lines)
        ax.set_title(*name)
    for ax in axes.flat[len(names) :]:
        ax.axis("off")
    figure.supylabel("mean test NLL (nats; lower is better)", fontsize=9)
    entries: dict[str, Any] = {}
    for ax in axes.flat:
        handles, labels = ax.get_legend_handles_labels()
        entries |= dict(zip(labels, handles, strict=True))
    figure.legend(
        entries.values(), entries.keys(), loc="outside upper right", ncols=3, fontsize=8
    )
    figure.savefig(picture, dpi=120)
    plt.close(figure)


def draw_set(
    ax: Any, measured: dict[str, dict[str, float]], published: dict[str, float]
) -> None:
    """Draw the NLL of each peer, by split, and lines at published figures.

    Peers far above all others are drawn as triangles at the top.
    """
    for peer, nll in published.items():
        ax.axhline(nll, color=LINES, linestyle=PUBLISHED[peer], label=peer)
    ours, error = mean_and_error(measured.pop("skmdn").values())
    ax.errorbar(0, ours, 2 * error, fmt="o", color=OURS, label="skmdn")
    nearest = max(published.values())
    top = max(nearest, ours) + 3 * max(0.3, abs(nearest - ours))
    for position, peer in enumerate(sorted(measured), start=1):
        nll, _ = mean_and_error(measured[peer].values())
        place = position, min(nll, top)
        ax.plot(*place, "^" if nll > top else "s", color=OTHERS)
        below = {"xytext": (0, -5), "textcoords": "offset points"}
        ax.annotate(peer, place, **below, rotation=90, ha="center", va="top", size=6)
    ax.set(xticks=[], xlim=(-0.7, len(measured) + 0.7))
