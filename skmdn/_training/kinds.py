"""Kinds of networks that compete in one fit.

A new kind is an entry of `KINDS`. Kinds of equal structure are trained in one batched
computation.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from skmdn._data.folds import MAX_FOLDS


class Kind(NamedTuple):
    """What distinguishes the networks of a kind.

    Parameters
    ----------
    embedding : {"periodic", "bins"} or None
        Embedding of the features.
    frequency_scale : float, default=0.3
        Initial frequencies of the periodic embedding.
    is_linear : bool, default=False
        Learn what a linear model leaves, starting at Gaussian residuals; or else start
        at the mixture of y alone.
    views : tuple of {"kriging", "nearest", "trees"}, default=()
        Parts of views whose columns are further features.
    """

    embedding: str | None
    frequency_scale: float = 0.3
    is_linear: bool = False
    views: tuple[str, ...] = ()


KINDS = {
    "periodic_0.1": Kind("periodic", 0.1),
    "periodic_0.3": Kind("periodic", 0.3),
    "periodic_1": Kind("periodic", 1.0),
    "linear": Kind("periodic", 0.1, is_linear=True),
    "bins": Kind("bins"),
    "plain": Kind(None),
    "views_0.1": Kind("periodic", 0.1, views=("kriging", "trees")),
    "views_1": Kind("periodic", 1.0, views=("kriging", "trees")),
    "nearest_0.1": Kind("periodic", 0.1, views=("kriging", "nearest", "trees")),
    "kriging_0.1": Kind("periodic", 0.1, views=("kriging",)),
    "kriging_1": Kind("periodic", 1.0, views=("kriging",)),
    "trees_0.1": Kind("periodic", 0.1, views=("trees",)),
    "trees_1": Kind("periodic", 1.0, views=("trees",)),
}
# Those of portfolio="auto".
AUTO_KINDS = (
    "periodic_0.1",
    "periodic_0.3",
    "periodic_1",
    "linear",
    "bins",
    "views_0.1",
    "views_1",
    "nearest_0.1",
)
# The kind of a fit without a portfolio, by its embedding.
SINGLE_KINDS = {
    "auto": "periodic_0.3",
    "periodic": "periodic_0.3",
    "bins": "bins",
    None: "plain",
}
# Name of the kind of user-defined networks.
USER_DEFINED = "network"
# A linear start needs the inverse of a matrix of this many columns at most, and bins
# are a layer of this many inputs at most.
MOST_LINEAR_FEATURES, MOST_BINS = 1000, 4096
# Of portfolio="auto": fewer rows are too few for a view to learn from, or too far from
# each other to be alike; and views of more features take longer than the networks.
FEWEST_ROWS_OF_VIEWS = {"kriging": 500, "trees": 500, "nearest": 2000}
MOST_FEATURES_OF_VIEWS = 100
# Also of "auto": with fewer networks, all are of the kind that is best after few
# epochs. A view is good early, whether or not it is better in the end.
FEWEST_NETWORKS_OF_VIEWS = 2 * MAX_FOLDS
# Epochs that are needed to compare kinds at all.
FEWEST_EPOCHS_OF_CHOICE = 5


def competing_kinds(
    params: Mapping[str, Any],
    n_rows: int,
    n_features: int,
    n_members: int,
    *,
    can_choose: bool,
    can_view: bool,
) -> dict[str, Kind]:
    """Return the kinds of a fit by name.

    Parameters
    ----------
    params : mapping
        Parameters of `MDNRegressor`.
    n_rows, n_features, n_members : int
        Numbers of rows, of features and of networks.
    can_choose : bool
        Whether held-out rows will decide; otherwise there is one kind: that of a fit
        without a portfolio, or the first one named if this is not among them.
    can_view : bool
        Whether kinds with views can compete.

    Raises
    ------
    ValueError
        If `portfolio` is not of kinds, or none of them can have the embedding asked
        for, or does without a view where there can be none.
    """
    portfolio, embedding = params["portfolio"], params["embedding"]
    names, single = _candidates(portfolio), SINGLE_KINDS[embedding]
    if params["network"] is not None:
        return {USER_DEFINED: Kind(None)}
    if portfolio is None:
        return {single: KINDS[single]}
    kinds = {
        name: KINDS[name]
        for name in names
        if embedding in ("auto", KINDS[name].embedding)
    }
    if portfolio == "auto":
        kinds = {
            name: kind
            for name, kind in kinds.items()
            if not kind.views or _views_pay(kind, n_rows, n_features, n_members)
        }
    if not can_view:
        without_views = {k: kind for k, kind in kinds.items() if not kind.views}
        if kinds and not without_views and portfolio != "auto":
            raise ValueError(
                f"Every kind of portfolio={portfolio!r} has a view of the other rows. "
                "partial_fit and fits of sparse X, on several ranks or on Dask cannot "
                "compute views. Name other kinds too."
            )
        kinds = without_views
    if not kinds:
        if portfolio == "auto":
            return {single: KINDS[single]}
        raise ValueError(
            f"No kind of portfolio={portfolio!r} has embedding={embedding!r}. Set "
            "embedding='auto', or name other kinds."
        )
    if not can_choose:
        return only_kind(kinds, embedding)
    if n_features > MOST_LINEAR_FEATURES and len(kinds) > 1:
        kinds.pop("linear", None)
    return kinds


def _views_pay(kind: Kind, n_rows: int, n_features: int, n_members: int) -> bool:
    """Whether the views of a kind are worth their cost."""
    fewest_rows = max(FEWEST_ROWS_OF_VIEWS[part] for part in kind.views)
    return (
        n_rows >= fewest_rows
        and n_features <= MOST_FEATURES_OF_VIEWS
        and n_members >= FEWEST_NETWORKS_OF_VIEWS
    )


def only_kind(kinds: Mapping[str, Kind], embedding: str | None) -> dict[str, Kind]:
    """Return the kind of a fit that cannot choose: the first one, or a better known."""
    name = SINGLE_KINDS[embedding]
    name = name if name in kinds else next(iter(kinds))
    return {name: kinds[name]}


def _candidates(portfolio: str | Sequence[str] | None) -> Sequence[str]:
    """Return the names of the kinds asked for."""
    if portfolio is None or isinstance(portfolio, str):
        return AUTO_KINDS
    known = list(KINDS)
    if not portfolio or any(name not in known for name in portfolio):
        raise ValueError(
            "portfolio must be 'auto', None, or a list of kinds, which are "
            f"{', '.join(map(repr, known))}; got {portfolio!r}."
        )
    return portfolio
