"""
A search on several workers
===========================

scikit-learn's searches run with any backend of joblib: in processes on this machine, or
on the workers of a Dask cluster. The results are equal to those of a serial search to
the last bit. Rows are sent to each worker once, and each worker uses only its share of
the threads.

    python examples/search_on_workers.py
"""

import joblib
from distributed import Client
from sklearn.model_selection import GridSearchCV

from skmdn import MDNRegressor
from skmdn.datasets import load_geyser


def main():
    X, y = load_geyser(return_X_y=True)
    search = GridSearchCV(
        MDNRegressor(n_estimators=4, max_iter=20, random_state=0),
        {"n_components": [1, 2, 5], "reg_covar": [1e-6, 1e-3]},
        cv=3,
    )

    with joblib.parallel_config("loky", n_jobs=2):
        search.fit(X, y)
    print(f"processes: {search.best_params_}, {search.best_score_:.6f} nats")

    # Client("tcp://...") connects to workers on other machines.
    with (
        Client(n_workers=2, threads_per_worker=1, dashboard_address=":0"),
        joblib.parallel_config("dask", scatter=[X, y]),
    ):
        search.fit(X, y)
    print(f"Dask:      {search.best_params_}, {search.best_score_:.6f} nats")


if __name__ == "__main__":  # worker processes import this file
    main()
