"""
One model on a Dask cluster
===========================

The rows stay on the workers that hold them. The workers train one model together, and
`fit` returns an ordinary estimator. Predictions are lazy, block by block, and are not
affected if a worker dies.

    python examples/fit_where_the_rows_lie.py
"""

import dask.array as da
from distributed import Client

import skmdn.dask
from skmdn import MDNRegressor
from skmdn.datasets import make_rotating_gaussians


def main():
    X, y = make_rotating_gaussians(4000, random_state=0)
    X, y = da.from_array(X, chunks=(500, 1)), da.from_array(y, chunks=(500, 2))
    mdn = MDNRegressor(n_estimators=4, max_iter=20, random_state=0)

    with Client(n_workers=2, threads_per_worker=1, dashboard_address=":0") as client:
        mdn = skmdn.dask.fit(mdn, X, y, client)
        mean = skmdn.dask.predict(mdn, X)
        log_density = skmdn.dask.score_samples(mdn, X, y)
        draws = skmdn.dask.sample(mdn, X, 10, random_state=0)
        print(f"{mean} and {draws} are lazy")
        error = (((y - mean) ** 2).mean() ** 0.5).compute()
        print(f"root mean squared error {error:.3f}")
        print(f"mean log-likelihood {log_density.mean().compute():.3f} nats")
        print(f"out of fold         {mdn.oof_score_:.3f} nats")


if __name__ == "__main__":  # worker processes import this file
    main()
