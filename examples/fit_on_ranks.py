"""
One model on several processes
==============================

Every rank passes its own rows to `fit`, and all ranks end with the same networks. If
one rank dies, the others raise an error at once; run the same command again to resume
from the checkpoint.

    torchrun --nproc-per-node=2 examples/fit_on_ranks.py
"""

import tempfile
from pathlib import Path

import torch.distributed as dist

from skmdn import MDNRegressor
from skmdn.callbacks import Checkpoint
from skmdn.datasets import make_rotating_gaussians

dist.init_process_group("gloo")  # "nccl" if each rank has a GPU
rank, size = dist.get_rank(), dist.get_world_size()

# In a real application each rank reads its own files.
X, y = make_rotating_gaussians(3000, random_state=0)
X, y = X[rank::size], y[rank::size]

checkpoint = Checkpoint(Path(tempfile.gettempdir()) / "fit_on_ranks.npz")
mdn = MDNRegressor(n_estimators=4, max_iter=20, random_state=0)
mdn.set_callbacks(checkpoint).fit(X, y)

X_test, y_test, truth = make_rotating_gaussians(
    1000, random_state=1, return_density=True
)
print(
    f"rank {rank}: {len(X)} rows, {mdn.score(X_test, y_test):.6f} nats, "
    f"the true density {truth.logpdf(y_test).mean():.3f}"
)
dist.destroy_process_group()
