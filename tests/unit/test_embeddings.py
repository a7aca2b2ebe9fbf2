"""Embeddings of the features: cosines, and piecewise linear codes of bins."""

from itertools import pairwise

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose

from skmdn.nn import PeriodicEmbedding
from skmdn.nn.embeddings import Bins, BinsEmbedding


def test_embedding_appends_cosines():
    embedding = PeriodicEmbedding(2, 3, generator=torch.Generator().manual_seed(0))
    x = torch.from_numpy(np.random.RandomState(0).normal(size=(2, 7, 3)))
    embedded = embedding.double()(x).detach()
    assert embedded.shape == (2, 7, embedding.n_outputs)
    squashed = x / (1 + (x / 3.5) ** 4) ** 0.25
    assert_allclose(embedded[..., :3], squashed, rtol=1e-12)
    for member in range(2):
        for j in range(embedding.n_outputs - 3):
            wave = embedding.frequencies[member, 0, j] * squashed[member, :, j % 3]
            expected = (wave + embedding.phases[member, 0, j]).cos().detach()
            assert_allclose(embedded[member, :, 3 + j], expected, rtol=1e-9)


def code_by_hand(x, edges):
    """Encode x by intervals between edges: a ramp from 0 to 1 within each."""
    ramps = [np.interp(x, pair, [0, 1]) for pair in pairwise(edges)]
    return np.stack(ramps, axis=-1)


def test_bins_are_ramps_between_edges():
    edges = [[-1.0, -0.2, 0.5, 3.0], [7.0], [0.0, 0.1, 0.3]]  # one is constant
    feature = np.repeat([0, 2], [3, 2])
    lower = np.concatenate([edge[:-1] for edge in edges])
    width = np.concatenate([np.diff(edge) for edge in edges])
    embedding = BinsEmbedding(5).double()
    embedding.set_bins(Bins(*map(torch.from_numpy, (feature, lower, width))))
    x = np.random.RandomState(0).normal(size=(2, 9, 3))
    x[0, 0], x[0, 1], x[0, 2] = 1e30, -1e30, 0.0
    x[1, 0], x[1, 1] = -1.0, 0.1
    features = torch.from_numpy(x)
    before = features.clone()
    expected = [code_by_hand(x[..., j], edges[j]) for j in (0, 2)]
    found = embedding(features)
    assert_allclose(found, np.concatenate(expected, axis=-1), atol=1e-6)
    assert torch.equal(features, before)
    # Far values are those at the edge, where training rows lie.
    assert found[0, 0].tolist() == [1, 1, 1, 1, 1]
    assert found[0, 1].tolist() == [0, 0, 0, 0, 0]


@given(counts=st.lists(st.integers(0, 3), min_size=1, max_size=8))
def test_bins_are_those_of_their_feature(counts):
    """Whatever features stand beside each other, also after a state is loaded."""
    rng = np.random.RandomState(sum(counts))
    feature = np.repeat(np.arange(len(counts)), counts)
    lower, width = rng.normal(size=len(feature)), rng.uniform(0.5, 2, len(feature))
    bins = Bins(*map(torch.from_numpy, (feature, lower, width)))
    embedding = BinsEmbedding(len(feature)).double()
    embedding.set_bins(bins)
    x = rng.normal(size=(2, 5, len(counts)))
    expected = np.clip((x[..., feature] - lower) / width, 0, 1)
    assert_allclose(embedding(torch.from_numpy(x)), expected, atol=1e-6)
    loaded = BinsEmbedding(len(feature)).double()
    loaded.load_state_dict(embedding.state_dict())
    assert_allclose(loaded(torch.from_numpy(x)), expected, atol=1e-6)
