"""New densities from densities: linear maps, fewer components, joined rows; boxes."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import partial
from numbers import Integral
from typing import Any, Literal, Self, TypeVar, overload

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from skmdn import _mixture
from skmdn._data.outputs import Outputs
from skmdn._data.supports import Supports
from skmdn._mixture.core import Mixture
from skmdn._utils.arrays import row_chunks, to_numpy, to_tensor
from skmdn.density._affine import as_affine, image_outputs, latent_map
from skmdn.density._base import ConditionalDensity
from skmdn.density._checks import check_output_names, check_range
from skmdn.density.rowwise import as_box, map_mixtures, take_rows

Density = TypeVar("Density", bound="AlgebraMethods")


class AlgebraMethods(ConditionalDensity):
    """Maps, reductions and boxes of a mixture, seen through the maps of the supports.

    A base of `MixtureDensity` and `TransformedDensity`. `mixture` is the density of
    latent variables z, and y the image of z under the maps of `supports`.
    """

    mixture: Mixture
    supports: Supports

    @classmethod
    @abstractmethod
    def _build(cls, mixture: Mixture, outputs: Outputs, supports: Supports) -> Self:
        """Return a density of this type with other parameters, uncopied."""

    def affine(
        self,
        matrix: ArrayLike,
        shift: ArrayLike = 0.0,
        output_names: Sequence[str] | None = None,
    ) -> Self:
        table, offset, event_shape = as_affine(matrix, shift, self.outputs)
        names = check_output_names(output_names, len(table))
        outputs = image_outputs(table, event_shape, names, self.outputs)
        latent_matrix, latent_shift, supports = latent_map(table, offset, self.supports)
        image = map_mixtures(
            partial(
                _mixture.affine,
                matrix=to_tensor(latent_matrix),
                shift=to_tensor(latent_shift),
            ),
            self.mixture,
        )
        check_range(to_numpy(image.means), to_numpy(image.precision_factors))
        return self._build(image, outputs, supports)

    def probability(self, lower: ArrayLike, upper: ArrayLike) -> NDArray[np.float64]:
        ends = as_box(lower, upper, self)
        low, high = (to_tensor(self.supports.to_latent(end.numpy())) for end in ends)
        return to_numpy(_mixture.box_probability(self.mixture, low, high))

    @overload
    def reduce(
        self, n_components: int, return_divergence: Literal[False] = False
    ) -> Self: ...
    @overload
    def reduce(self, n_components: int, return_divergence: bool = False) -> Any: ...
    def reduce(self, n_components: int, return_divergence: bool = False) -> Any:
        is_count = isinstance(n_components, Integral)
        if isinstance(n_components, bool) or not is_count or n_components < 1:
            raise ValueError(
                f"n_components must be a positive integer, got {n_components!r}."
            )
        n_bytes = _mixture.reduction_bytes(self.mixture)
        parts, divergences = [], []
        for rows in row_chunks(max(1, len(self)), n_bytes):
            part = take_rows(self.mixture, rows)
            parts.append(_mixture.reduce(part, int(n_components)))
            if return_divergence:
                divergences.append(_mixture.divergence(part, parts[-1]))
        reduced = Mixture(*map(torch.cat, zip(*parts, strict=True)))
        density = self._build(reduced, self.outputs, self.supports)
        if return_divergence:
            return density, to_numpy(torch.cat(divergences))
        return density

    @classmethod
    def concatenate(cls, densities: Iterable[Self]) -> Self:
        """Join the rows of densities.

        Parameters
        ----------
        densities : iterable of densities of this type
            Equal in outputs, supports and resolution; outputs are matched by name
            where both densities have names. Where the numbers of components differ,
            components of weight zero are added.

        Returns
        -------
        density : density of the same type
            The rows of all densities, in the order given.

        Raises
        ------
        TypeError
            If something else than densities of this type is given.
        ValueError
            If there are none, or if they differ in outputs, supports or resolution.

        Examples
        --------
        >>> from skmdn import MixtureDensity
        >>> first = MixtureDensity([[1.0]], [[0.0]], [[1.0]])
        >>> second = MixtureDensity([[0.5, 0.5]], [[4.0, 6.0]], [[1.0, 1.0]])
        >>> MixtureDensity.concatenate([first, second]).mean()
        array([0., 5.])
        """
        densities = _alike(cls, densities)
        largest = max(len(d.mixture.log_weights.T) for d in densities)
        padded = [_padded(density.mixture, largest) for density in densities]
        joined = Mixture(*map(torch.cat, zip(*padded, strict=True)))
        return cls._build(joined, densities[0].outputs, densities[0].supports)


def _alike(cls: type[Density], densities: Iterable[Any]) -> list[Density]:
    """Return densities of a type, with the same outputs in the same order."""
    if isinstance(densities, ConditionalDensity) or not np.iterable(densities):
        raise TypeError(
            f"densities must be a sequence of {cls.__name__}, got an object of type "
            f"{type(densities).__name__}."
        )
    given = list(densities)
    for density in given:
        if not isinstance(density, cls):
            raise TypeError(
                f"densities must hold {cls.__name__}, got an object of type "
                f"{type(density).__name__}."
            )
    if not given:
        raise ValueError("densities must hold at least one density, got none.")
    names = next((d.output_names for d in given if d.output_names), None)
    alike = [_named(density, names) for density in given]
    for what in ("event_shape", "resolution"):
        found = {getattr(density.outputs, what) for density in alike}
        if len(found) > 1:
            raise ValueError(
                f"densities must have the same {what}, got "
                f"{' and '.join(sorted(map(str, found)))}."
            )
    supports = {density.supports for density in alike}
    if len(supports) > 1:
        raise ValueError(
            "densities must have the same supports, got "
            f"{' and '.join(sorted(str(each.to_state()) for each in supports))}."
        )
    return alike


def _named(density: Density, names: tuple[str, ...] | None) -> Density:
    """Return a density with outputs of the given names, in their order."""
    outputs = density.outputs
    if names is None or outputs.names == names:
        return density
    if outputs.names is None:
        # Another number of outputs is found by the comparison of shapes.
        outputs = (
            replace(outputs, names=names) if outputs.size == len(names) else outputs
        )
        return density._build(density.mixture, outputs, density.supports)
    replace(outputs, names=names).order_of("densities", outputs.names)
    return density.marginal(list(names))


def _padded(mixture: Mixture, n_components: int) -> Mixture:
    """Repeat the last component with weight zero up to a number of components."""
    last = mixture.means.shape[1] - 1
    number = torch.arange(n_components, device=mixture.means.device)
    log_weights, means, factors = (part[:, number.clamp(max=last)] for part in mixture)
    return Mixture(log_weights.masked_fill(number > last, -torch.inf), means, factors)
