"""Kinds of networks that compete in one fit.

A new kind is an entry of `KINDS`. Kinds of equal structure are trained in one batched
computation.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple


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
    """

    embedding: str | None
    frequency_scale: float = 0.3
    is_linear: bool = False


KINDS = {
    "periodic_0.1": Kind("periodic", 0.1),
    "periodic_0.3": Kind("periodic", 0.3),
    "periodic_1": Kind("periodic", 1.0),
    "linear": Kind("periodic", 0.1, is_linear=True),
    "bins": Kind("bins"),
    "plain": Kind(None),
}
# Those of portfolio="auto".
AUTO_KINDS = ("periodic_0.1", "periodic_0.3", "periodic_1", "linear", "bins")
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
# Epochs that are needed to compare kinds at all.
FEWEST_EPOCHS_OF_CHOICE = 5


def competing_kinds(
    params: Mapping[str, Any], n_features: int, *, can_choose: bool
) -> dict[str, Kind]:
    """Return the kinds of a fit by name.

    Parameters
    ----------
    params : mapping
        Parameters of `MDNRegressor`.
    n_features : int
    can_choose : bool
        Whether held-out rows will decide; otherwise there is one kind: that of a fit
        without a portfolio, or the first one named if this is not among them.

    Raises
    ------
    ValueError
        If `portfolio` is not of kinds, or none of them has the embedding asked for.
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
    if not kinds:
        if portfolio == "auto":
            return {single: KINDS[single]}
        raise ValueError(
            f"No kind of portfolio={portfolio!r} has embedding={embedding!r}. Set "
            "embedding='auto', or name other kinds."
        )
    if not can_choose:
        name = single if single in kinds else next(iter(kinds))
        return {name: kinds[name]}
    if n_features > MOST_LINEAR_FEATURES and len(kinds) > 1:
        kinds.pop("linear", None)
    return kinds


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
