"""Store a model of this release: python tests/models/make.py, at a release."""

import pickle
from pathlib import Path

import numpy as np
import skops.io

from skmdn import MDNRegressor
from skmdn._utils.persistence import STATE_VERSION
from skmdn.datasets import make_rotating_gaussians

X, y = make_rotating_gaussians(60, random_state=0)
mdn = MDNRegressor(
    2,
    n_estimators=8,
    portfolio=["trees_0.1", "nearest_0.1"],
    hidden_layer_sizes=(4,),
    max_iter=20,
    random_state=0,
)
mdn.fit(X, y, groups=np.arange(60) % 4)  # four networks hold out each row once
assert len(mdn.portfolio_weights_) == 2

stem = Path(__file__).parent / f"v{STATE_VERSION}"
stem.with_suffix(".pkl").write_bytes(pickle.dumps(mdn, protocol=4))
skops.io.dump(mdn, stem.with_suffix(".skops"))
np.savez(
    stem.with_suffix(".npz"),
    X=X,
    y=y,
    mean=mdn.predict(X),
    log_density=mdn.score_samples(X, y),
)
