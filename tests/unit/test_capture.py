"""Captured operations: what is captured, and that it computes what plain calls do."""

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose

from skmdn import MDNRegressor
from skmdn._training import capture, loop
from skmdn._training.capture import N_PLAIN_CALLS, Captured, can_capture
from skmdn.nn import MixtureDensityNetwork

gpu = pytest.mark.skipif(
    not torch.cuda.is_available(), reason="CUDA graphs need an NVIDIA GPU"
)


class FakeGraph:
    """Stand in for a CUDA graph, where there is no GPU: run the function again."""

    replays = 0

    def replay(self):
        FakeGraph.replays += 1
        self.function()


@pytest.fixture
def fake_graphs(monkeypatch):
    """Record a function by its call, and replay it by the same call."""

    class Recording:
        def __init__(self, graph, capture_error_mode):
            assert capture_error_mode == "thread_local"

        def __enter__(self):
            pass

        def __exit__(self, *exc):
            pass

    monkeypatch.setattr(torch.cuda, "CUDAGraph", FakeGraph)
    monkeypatch.setattr(torch.cuda, "graph", Recording)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda: "the stream before")
    FakeGraph.replays = 0
    return Recording


def make_captured():
    result = torch.zeros(3)

    def function(x, rate):
        return torch.mul(x, rate, out=result)

    captured = Captured(function, torch.device("cpu"))
    FakeGraph.function = lambda graph: function(*captured.buffers)
    return captured


def test_a_replay_reads_the_values_of_its_call(fake_graphs):
    captured = make_captured()
    for number in range(3 * N_PLAIN_CALLS):
        x = torch.full((3,), float(number))
        assert_allclose(captured(x, 0.5 * number), 0.5 * number**2)
    assert FakeGraph.replays == 2 * N_PLAIN_CALLS


def test_a_capture_that_fails_leaves_plain_calls(fake_graphs, monkeypatch):
    def fail(*exc):
        raise RuntimeError("operation not permitted when stream is capturing")

    monkeypatch.setattr(fake_graphs, "__exit__", fail)
    streams = []
    monkeypatch.setattr(torch.cuda, "set_stream", streams.append)
    captured = make_captured()
    for number in range(3 * N_PLAIN_CALLS):
        assert_allclose(captured(torch.ones(3), number), number)
    assert FakeGraph.replays == 0
    assert streams == ["the stream before"]
    assert not capture._lock.locked()


def test_nothing_is_captured_on_a_cpu():
    network = MixtureDensityNetwork(3, generator=torch.Generator())
    assert not can_capture(network)


@gpu
def test_a_fit_with_captured_steps_is_that_without(monkeypatch):
    rng = np.random.RandomState(0)
    X = rng.normal(size=(400, 3))
    y = X[:, 0] + 0.3 * rng.normal(size=400)
    mdn = MDNRegressor(device="cuda", max_iter=20, random_state=0)
    captured = mdn.fit(X, y).loss_curve_
    monkeypatch.setattr(loop, "can_capture", lambda network: False)
    assert_allclose(mdn.fit(X, y).loss_curve_, captured, atol=0.02)
