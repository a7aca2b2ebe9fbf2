"""States of pickled densities, those of the first release included."""

import copy
import pickle

import numpy as np
import pytest
import torch
from helpers import random_density
from numpy.testing import assert_array_equal

from skmdn import MixtureDensity
from skmdn._mixture import Mixture

OLD_STATE = {
    "_mixture": Mixture(
        torch.tensor([[0.25, 0.75]], dtype=torch.float64, device="cpu").log(),
        torch.tensor([[[0.0], [2.0]]], dtype=torch.float64, device="cpu"),
        torch.tensor([[[[1.0]], [[2.0]]]], dtype=torch.float64, device="cpu"),
    ),
    "_is_scalar": True,
    "output_names": ("length",),
}


@pytest.mark.parametrize("is_scalar", [True, False])
def test_state_of_the_first_release_is_read(is_scalar):
    density = MixtureDensity.__new__(MixtureDensity)
    density.__setstate__({**OLD_STATE, "_is_scalar": is_scalar})
    assert density.outputs.event_shape == (() if is_scalar else (1,))
    assert density.output_names == ("length",)
    assert_array_equal(density.mean(), [1.5] if is_scalar else [[1.5]])
    assert_array_equal(density.weights, [[0.25, 0.75]])


def test_state_is_of_arrays_and_builtins():
    density = random_density(4, 3, 2)
    state = density.__getstate__()
    kinds = {type(value) for value in state.values()}
    assert kinds == {np.ndarray, tuple, type(None)}
    assert MixtureDensity.__module__ == "skmdn.density"
    for twin in (pickle.loads(pickle.dumps(density)), copy.deepcopy(density)):
        assert twin.outputs == density.outputs
        assert_array_equal(twin.precision_factors, density.precision_factors)
