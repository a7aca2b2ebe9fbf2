"""Examples with several processes; the gallery runs the others."""

import os
import re

import pytest
from helpers import ROOT, run_python

FOLDER = ROOT / "examples"
TORCHRUN = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]


def output_of(*arguments):
    # Each process of several has one thread.
    env = os.environ | {"OMP_NUM_THREADS": "1"}
    return run_python(*arguments, timeout=300, env=env)


@pytest.mark.full
def test_a_search_finds_the_same_on_all_workers():
    pytest.importorskip("distributed", reason="needs the extra 'dask'")
    processes, dask = output_of(FOLDER / "search_on_workers.py").splitlines()
    assert processes.split(": ", 1)[1] == dask.split(": ", 1)[1].strip()


@pytest.mark.full
def test_ranks_end_with_equal_networks():
    # Both write to one pipe, and a line's end need not follow the line.
    output = output_of(*TORCHRUN, FOLDER / "fit_on_ranks.py")
    ends = dict(re.findall(r"rank (\d): (.+?, the true density -?\d\.\d{3})", output))
    assert sorted(ends) == ["0", "1"]
    assert ends["0"] == ends["1"]


@pytest.mark.full
def test_lazy_rows_are_fitted_on_their_workers():
    pytest.importorskip("distributed", reason="needs the extra 'dask'")
    lines = output_of(FOLDER / "fit_where_the_rows_lie.py").splitlines()
    assert "are lazy" in lines[0]
    score, out_of_fold = (float(line.split()[-2]) for line in lines[-2:])
    assert -2.2 < out_of_fold < score < -1.7
