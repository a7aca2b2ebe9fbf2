"""Picture of the results of quality.py, beside published figures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from _summary import mean_and_error

# Scores by set, peer, split and field.
Table = dict[str, dict[str, dict[int, dict[str, float]]]]

# Lowest published mean test NLL of a density trained on each set alone, on these or
# similar splits (boston and naval: own splits), and the NLL of TabPFN, which was
# trained on millions of other tables (None: not published). docs/quality.md names the
# sources.
PUBLISHED = {
    "boston": (2.35, None),
    "concrete": (2.75, 2.21),
    "energy": (0.53, 0.15),
    "kin8nm": (-1.29, -1.27),
    "naval": (-6.33, -7.33),
    "power": (2.58, 2.28),
    "protein": (1.93, 1.73),
    "yacht": (0.05, -0.73),
}


def draw(table: Table, picture: Path) -> None:
    """Draw the NLL of each set: skmdn, the peers, and the best published figure."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot as plt

    names = [name for name in PUBLISHED if "skmdn" in table.get(name, {})]
    figure, axes = plt.subplots(
        2, (len(names) + 1) // 2, figsize=(11, 5), layout="constrained"
    )
    for ax, name in zip(axes.flat, names, strict=False):
        published, pretrained = PUBLISHED[name]
        ours, error = mean_and_error(r["nll"] for r in table[name]["skmdn"].values())
        ax.axhline(published, color="#777777", linewidth=1, label="best published")
        if pretrained is not None:
            ax.axhline(pretrained, color="#777777", linestyle=":", label="TabPFN")
        ax.errorbar(0, ours, 2 * error, fmt="o", color="#005a9c", label="skmdn")
        others = {
            peer: mean_and_error(r["nll"] for r in rows.values())[0]
            for peer, rows in table[name].items()
            if peer != "skmdn"
        }
        top = max(published, ours) + 3 * max(0.3, abs(published - ours))
        for position, (peer, value) in enumerate(sorted(others.items()), start=1):
            ax.plot(
                position, min(value, top), "^" if value > top else "s", color="#c1440e"
            )
            ax.annotate(
                peer,
                (position, min(value, top)),
                xytext=(0, -5),
                textcoords="offset points",
                rotation=90,
                ha="center",
                va="top",
                fontsize=6,
            )
        ax.set(title=name, xticks=[], xlim=(-0.7, len(others) + 0.7))
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
