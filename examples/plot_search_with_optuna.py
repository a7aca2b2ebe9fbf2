"""
Hyperparameter search with Optuna
=================================

Optuna proposes settings, and every fit provides its own score: `oof_score_` is the mean
log-likelihood of the rows under the networks that were not trained on them, so no
cross-validation is needed. The data are ten measurements of 442 patients and the
progression of their diabetes within a year.

The out-of-fold score of the best of twenty trials is 0.06 nats better than that of the
defaults. On the 111 test rows, which were evaluated once, the difference disappears:
the best of many noisy scores is optimistic, and a small data set cannot distinguish the
settings.
"""

import optuna
from matplotlib import pyplot as plt
from sklearn.datasets import load_diabetes
from sklearn.model_selection import train_test_split

from skmdn import MDNRegressor

X, y = load_diabetes(return_X_y=True)
X_train, X_test, y_train, y_test = train_test_split(X, y, random_state=0)


def build(trial):
    return MDNRegressor(
        trial.suggest_int("n_components", 1, 8),
        alpha=trial.suggest_float("alpha", 1e-3, 1.0, log=True),
        dropout=trial.suggest_float("dropout", 0.0, 0.3),
        learning_rate_init=trial.suggest_float(
            "learning_rate_init", 1e-3, 3e-2, log=True
        ),
        max_iter=60,
        random_state=0,
    )


def objective(trial):
    return build(trial).fit(X_train, y_train).oof_score_


# %%
# Twenty trials, and one evaluation of the best of them on the test rows.
optuna.logging.set_verbosity(optuna.logging.WARNING)
study = optuna.create_study(
    direction="maximize", sampler=optuna.samplers.TPESampler(seed=0)
)
study.optimize(objective, n_trials=20)

tuned = build(study.best_trial).fit(X_train, y_train)
default = MDNRegressor(random_state=0).fit(X_train, y_train)
for name, mdn in (("tuned", tuned), ("defaults", default)):
    print(
        f"{name}: out of fold {mdn.oof_score_:.3f} nats, "
        f"test {mdn.score(X_test, y_test):.3f} nats"
    )

# %%
# The out-of-fold score of each trial; higher is better.
figure, ax = plt.subplots(layout="constrained")
scores = [trial.value for trial in study.trials]
learning_rates = [trial.params["learning_rate_init"] for trial in study.trials]
alphas = [trial.params["alpha"] for trial in study.trials]
points = ax.scatter(alphas, scores, c=learning_rates, norm="log", cmap="viridis")
line = ax.axhline(default.oof_score_, color="#D55E00", label="defaults")
ax.set(
    xscale="log",
    xlabel="alpha (weight decay)",
    ylabel="out-of-fold log-likelihood (nats)",
)
legend = ax.legend(loc="lower right")
bar = figure.colorbar(points, label="learning_rate_init")
