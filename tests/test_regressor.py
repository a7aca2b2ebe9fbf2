"""MDNRegressor: what it learns, and how it behaves."""

import pickle
import warnings

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from scipy import sparse
from scipy.stats import multivariate_normal
from sklearn.base import clone
from sklearn.datasets import make_regression
from sklearn.exceptions import NotFittedError
from sklearn.metrics import r2_score

from skmdn import MDNRegressor, MixtureDensity, _validation
from skmdn._covariance import COVARIANCE_TYPES
from skmdn._schedule import auto_batch_size, auto_max_iter, auto_n_components
from skmdn.datasets import make_inverse_sine, make_rotating_gaussians
from skmdn.nn import mixture_nll


def quick(**parameters):
    options = {
        "n_components": 2,
        "n_estimators": 2,
        "hidden_layer_sizes": (16,),
        "max_iter": 20,
        "random_state": 0,
        "device": "cpu",
    }
    return MDNRegressor(**options | parameters)


def linear_data(n=80, d=2, seed=0):
    rng = np.random.RandomState(seed)
    X = rng.normal(size=(n, 3))
    y = X @ rng.normal(size=(3, d)) + 0.3 * rng.normal(size=(n, d))
    return X, y


# -- it learns -------------------------------------------------------------------


def test_inverse_sine_reaches_the_true_nll():
    X, y = make_inverse_sine(4000, random_state=0)
    X_test, y_test, truth = make_inverse_sine(5000, random_state=1, return_density=True)
    mdn = MDNRegressor(n_estimators=4, max_iter=60, random_state=0).fit(X, y)
    gap = truth.logpdf(y_test).mean() - mdn.score(X_test, y_test)
    assert -0.01 < gap < 0.05


def test_bishop_s_own_uniform_noise_is_approached():
    def draw(n, seed):
        rng = np.random.RandomState(seed)
        t = rng.uniform(size=n)
        x = t + 0.3 * np.sin(2 * np.pi * t) + rng.uniform(-0.1, 0.1, size=n)
        return x[:, None], t

    X, y = draw(4000, 0)
    X_test, y_test = draw(4000, 1)
    # p(t given x) is uniform over the t whose noise-free x lies within 0.1.
    grid = np.linspace(0, 1, 20_001)
    centres = grid + 0.3 * np.sin(2 * np.pi * grid)
    mass = (np.abs(centres - X_test) < 0.1).mean(axis=1)
    mdn = MDNRegressor(n_estimators=4, max_iter=60, random_state=0).fit(X, y)
    gap = -np.log(mass).mean() - mdn.score(X_test, y_test)
    # A mixture of Gaussians can only approach the edges of uniform pieces.
    assert 0 < gap < 0.15


def test_full_covariance_is_learnt():
    X, y = make_rotating_gaussians(2000, random_state=0)
    X_test, y_test, truth = make_rotating_gaussians(
        3000, random_state=1, return_density=True
    )
    scores = {
        kind: MDNRegressor(
            2, covariance_type=kind, n_estimators=4, max_iter=40, random_state=0
        )
        .fit(X, y)
        .score(X_test, y_test)
        for kind in ("full", "diag")
    }
    true_score = truth.logpdf(y_test).mean()
    assert true_score - 0.15 < scores["full"] < true_score + 0.01
    assert scores["full"] > scores["diag"] + 0.3


def test_low_rank_covariance_finds_common_factors():
    """Twelve outputs that share two factors: no diagonal can hold them."""
    rng = np.random.RandomState(0)
    X = rng.uniform(-1, 1, size=(3000, 1))
    loadings = rng.normal(size=(2, 12))
    noise = rng.normal(size=(3000, 2)) @ loadings + 0.2 * rng.normal(size=(3000, 12))
    y = X @ rng.normal(size=(1, 12)) + noise
    truth = multivariate_normal(cov=loadings.T @ loadings + 0.04 * np.eye(12))
    true_score = truth.logpdf(noise[2000:]).mean()
    scores = {
        kind: MDNRegressor(
            1, covariance_type=kind, rank=2, n_estimators=2, max_iter=40, random_state=0
        )
        .fit(X[:2000], y[:2000])
        .score(X[2000:], y[2000:])
        for kind in ("low_rank", "diag")
    }
    assert true_score - 0.5 < scores["low_rank"] < true_score + 0.01
    assert scores["low_rank"] > scores["diag"] + 5


def test_full_covariance_beats_diagonal_on_real_data(load_split):
    # Measured 0.7 nats. Where x tells nearly everything, as on enb, many diagonal
    # components do as well (0.02 +- 0.03 nats over ten splits).
    X, y, X_test, y_test = load_split("multi/abalone_weights.npz")
    scores = {
        kind: MDNRegressor(covariance_type=kind, random_state=0)
        .fit(X, y)
        .score(X_test, y_test)
        for kind in ("full", "diag")
    }
    assert scores["full"] > scores["diag"] + 0.4, scores


def test_r2_is_high_where_the_poor_score_tag_skips_the_check():
    X, y = make_regression(
        200, 10, n_informative=1, bias=5.0, noise=20, random_state=42
    )
    y = (y - y.mean()) / y.std()
    mdn = MDNRegressor(n_estimators=4, max_iter=50, random_state=0).fit(X, y)
    assert r2_score(y, mdn.predict(X)) > 0.5


def test_single_gaussian_equals_linear_regression():
    rng = np.random.RandomState(0)
    X = rng.normal(size=(2000, 2))
    y = 3 + X @ [1.0, -2.0] + 0.5 * rng.normal(size=2000)
    mdn = quick(
        n_components=1,
        n_estimators=4,
        embedding=None,
        hidden_layer_sizes=(),
        alpha=0.0,
        max_iter=100,
    ).fit(X, y)
    mean, std = mdn.predict(X, return_std=True)
    assert_allclose(mean, 3 + X @ [1.0, -2.0], atol=0.15)
    assert_allclose(std, 0.5, atol=0.06)


# -- predictions agree with each other -------------------------------------------


@pytest.mark.parametrize("d", [1, 2])
def test_predictions_are_those_of_the_density(d):
    X, y = linear_data(d=d)
    mdn = quick().fit(X, y)
    density = mdn.predict_density(X)
    assert density.n_components == 4
    assert_allclose(mdn.predict(X), density.mean())
    assert_allclose(mdn.predict(X, return_std=True)[1], density.std())
    assert_allclose(mdn.predict(X, return_cov=True)[1], density.cov())
    assert_allclose(mdn.score_samples(X, y), density.logpdf(y))
    assert_allclose(mdn.predict_density(X, y), density.pdf(y))
    assert_allclose(mdn.score_samples(X), -density.entropy())
    assert_array_equal(mdn.sample(X, 3, random_state=0), density.sample(3, 0))
    assert_allclose(mdn.score(X, y), density.logpdf(y).mean())
    weights = np.arange(len(y))
    expected = np.average(density.logpdf(y), weights=weights)
    assert_allclose(mdn.score(X, y, sample_weight=weights), expected)


def test_one_dimensional_y_drops_the_output_axis():
    X, y = linear_data(d=1)
    flat, column = quick().fit(X, y[:, 0]), quick().fit(X, y)
    assert flat.predict(X).shape == (80,)
    assert flat.sample(X, 5).shape == (80, 5)
    assert flat.predict_density(X).mean().shape == (80,)
    assert flat.predict(X, return_cov=True)[1].shape == (80,)
    assert column.predict(X).shape == (80, 1)
    assert column.sample(X, 5).shape == (80, 5, 1)
    assert_array_equal(flat.predict(X), column.predict(X)[:, 0])
    assert_array_equal(flat.score_samples(X, y), column.score_samples(X, y[:, 0]))


def test_network_maps_standardised_rows():
    X, y = linear_data()
    mdn = quick(n_estimators=1).fit(X, y)
    assert isinstance(mdn.network_, torch.nn.Module)
    X_scaled = torch.tensor((X - mdn.X_mean_) / mdn.X_scale_)
    with torch.no_grad():
        _, means, factors = (part[0].numpy() for part in mdn.network_(X_scaled))
    density = mdn.predict_density(X)
    assert_allclose(density.means, means * mdn.y_scale_ + mdn.y_mean_)
    assert_allclose(density.precision_factors, factors / signed_scales(mdn))


def signed_scales(mdn):
    """What factors are divided by: a negative scale also turns its row round."""
    return np.sign(mdn.y_scale_)[:, None] * mdn.y_scale_


def test_predictions_do_not_depend_on_neighbours_or_memory():
    import sklearn

    X, y = linear_data()
    mdn = quick().fit(X, y)
    with sklearn.config_context(working_memory=1e-3):
        chunked = mdn.predict(X), mdn.score_samples(X, y), mdn.score_samples(X)
    assert_allclose(chunked[0], mdn.predict(X), rtol=1e-11)
    assert_allclose(chunked[1], mdn.score_samples(X, y), rtol=1e-10)
    assert_allclose(chunked[2], mdn.score_samples(X), rtol=1e-10)
    assert_allclose(mdn.predict(X[7:8]), mdn.predict(X)[7:8], rtol=1e-11)


# -- folds and validation --------------------------------------------------------


def test_out_of_fold_densities_come_from_networks_that_did_not_see_the_row():
    X, y = linear_data()
    mdn = quick(n_estimators=4).fit(X, y)
    X_scaled = torch.tensor((X - mdn.X_mean_) / mdn.X_scale_)
    with torch.no_grad():
        parts = [part.numpy() for part in mdn.network_(X_scaled)]
    members = [
        MixtureDensity(
            np.exp(log_weights),
            means * mdn.y_scale_ + mdn.y_mean_,
            factors / signed_scales(mdn),
        ).logpdf(y)
        for log_weights, means, factors in zip(*parts, strict=True)
    ]
    # Each row's value is that of exactly one network, and each network has a fold.
    matches = np.isclose(mdn.oof_log_density_, members, rtol=1e-9)
    assert_array_equal(matches.sum(axis=0), np.ones(80))
    assert_array_equal(matches.sum(axis=1), np.full(4, 20))
    assert_allclose(mdn.oof_score_, mdn.oof_log_density_.mean())
    # The networks stopped on the very rows they held out.
    assert_allclose(mdn.best_validation_score_, mdn.oof_score_, rtol=1e-4)


def test_networks_that_share_a_fold_are_pooled(monkeypatch):
    # Otherwise the networks end sharper than those of one fold should be.
    monkeypatch.setattr(_validation, "extrapolate", lambda alone, pooled, *_: pooled)
    X, y = linear_data()
    mdn = quick(n_estimators=11).fit(X, y)
    X_scaled = torch.tensor((X - mdn.X_mean_) / mdn.X_scale_)
    y_scaled = torch.tensor((y - mdn.y_mean_) / mdn.y_scale_)
    with torch.no_grad():
        densities = (-mixture_nll(*mdn.network_(X_scaled), y_scaled)).exp().numpy()
    densities /= np.abs(mdn.y_scale_.prod())
    folds = [densities[fold::8].mean(axis=0) for fold in range(8)]
    matches = np.isclose(np.exp(mdn.oof_log_density_), folds, rtol=1e-9)
    assert_array_equal(matches.sum(axis=0), np.ones(80))
    assert_array_equal(matches.sum(axis=1), np.full(8, 10))
    assert_allclose(mdn.best_validation_score_, mdn.oof_score_, rtol=1e-4)


def test_out_of_fold_of_weightless_rows_is_the_pooled_density():
    X, y = linear_data()
    weight = np.ones(80)
    weight[:10] = 0
    mdn = quick(n_estimators=4).fit(X, y, sample_weight=weight)
    expected = mdn.score_samples(X[:10], y[:10])
    assert_allclose(mdn.oof_log_density_[:10], expected, rtol=1e-9)
    assert_allclose(mdn.oof_score_, mdn.oof_log_density_[10:].mean())


def test_rows_of_no_weight_do_not_count_whatever_they_hold():
    X, y = linear_data(d=1)
    y, weight = y[:, 0].copy(), np.ones(80)
    y[0], weight[0] = 1e200, 0.0
    mdn = quick(n_estimators=4).fit(X, y, sample_weight=weight)
    assert mdn.oof_log_density_[0] == -np.inf
    assert_allclose(mdn.oof_score_, mdn.oof_log_density_[1:].mean())
    assert_allclose(mdn.score(X, y, weight), mdn.score(X[1:], y[1:]))


def test_folds_predict_the_score_of_new_rows():
    X, y = make_inverse_sine(1000, random_state=0)
    X_test, y_test = make_inverse_sine(5000, random_state=1)
    mdn = MDNRegressor(n_estimators=4, max_iter=40, random_state=0).fit(X, y)
    assert abs(mdn.oof_score_ - mdn.score(X_test, y_test)) < 0.1


def test_no_out_of_fold_attributes_without_folds():
    X, y = linear_data()
    folds = quick(n_estimators=4)
    assert hasattr(folds.fit(X, y), "oof_score_")
    assert not hasattr(folds.fit(X, y, X_val=X, y_val=y), "oof_score_")
    assert not hasattr(quick(n_estimators=3).fit(X, y), "oof_score_")
    without = quick(n_estimators=4, early_stopping=False).fit(X, y)
    assert not hasattr(without, "oof_score_")
    assert not hasattr(without, "validation_scores_")


def test_given_validation_rows_are_those_that_count():
    X, y = linear_data()
    X_val, y_val = linear_data(40, seed=1)
    weight = np.arange(40.0)
    mdn = quick(n_estimators=1).fit(
        X, y, X_val=X_val, y_val=y_val, sample_weight_val=weight
    )
    expected = mdn.score(X_val, y_val, sample_weight=weight)
    assert_allclose(mdn.best_validation_score_, expected, rtol=1e-5)


def test_curves_are_in_nats_of_the_unit_of_y():
    X, y = linear_data()
    mdn = quick(n_estimators=3, max_iter=7).fit(X, 1000 * y)
    assert mdn.n_iter_ == 7
    assert mdn.loss_curve_.shape == mdn.validation_scores_.shape == (7,)
    unscaled = quick(n_estimators=3, max_iter=7).fit(X, y)
    shift = 2 * np.log(1000)
    assert_allclose(mdn.loss_curve_, unscaled.loss_curve_ + shift, rtol=1e-3)
    assert mdn.best_validation_score_ == mdn.validation_scores_.max()


# -- equivariance, weights, seeds ------------------------------------------------


@pytest.mark.parametrize("covariance_type", COVARIANCE_TYPES)
@pytest.mark.parametrize(
    ("scale", "shift"),
    [(1e-6, 1e-5), (1e6, -1e6), (-3.0, 5.0), ([np.pi, -1e-9], [1.0, 1e-8])],
)
def test_affine_maps_of_y_shift_the_log_density(covariance_type, scale, shift):
    X, y = make_rotating_gaussians(80, random_state=0)
    options = {"n_estimators": 4, "covariance_type": covariance_type}
    plain = quick(**options).fit(X, y)
    scale, shift = np.broadcast_to(scale, 2), np.broadcast_to(shift, 2)
    mapped_y = scale * y + shift
    mapped = quick(**options).fit(X, mapped_y)
    shifted = plain.score_samples(X, y) - np.log(np.abs(scale)).sum()
    assert_allclose(mapped.score_samples(X, mapped_y), shifted, atol=1e-8)
    assert_allclose(mapped.oof_score_, shifted_oof(plain, scale), atol=1e-8)
    mean, cov = plain.predict(X, return_cov=True)
    mapped_mean, mapped_cov = mapped.predict(X, return_cov=True)
    assert_allclose(mapped_mean, scale * mean + shift, rtol=1e-8)
    assert_allclose(mapped_cov, np.outer(scale, scale) * cov, rtol=1e-8)
    density = mapped.predict_density(X)
    diagonal = np.diagonal(density.precision_factors, axis1=-2, axis2=-1)
    assert (diagonal > 0).all()
    assert_allclose(density.logpdf(mapped_y), mapped.score_samples(X, mapped_y))


def shifted_oof(plain, scale):
    return plain.oof_score_ - np.log(np.abs(scale)).sum()


def test_shuffled_outputs_give_shuffled_answers_in_distribution():
    X, y = make_rotating_gaussians(300, random_state=0)
    y = np.column_stack([y, X[:, 0] + y[:, 0] ** 2])
    order = [2, 0, 1]

    def answers(seed, order):
        mdn = quick(random_state=seed, n_estimators=4).fit(X, y[:, order])
        back = np.argsort(order)
        mean, cov = mdn.predict(X[:20], return_cov=True)
        parts = mean[:, back], cov[:, back][:, :, back], [mdn.score(X, y[:, order])]
        return np.concatenate([np.ravel(part) for part in parts])

    plain = np.stack([answers(seed, [0, 1, 2]) for seed in range(8)])
    shuffled = np.stack([answers(seed, order) for seed in range(8, 16)])
    error = np.sqrt((plain.var(axis=0, ddof=1) + shuffled.var(axis=0, ddof=1)) / 8)
    z = (plain.mean(axis=0) - shuffled.mean(axis=0)) / error
    assert np.sqrt(np.mean(z**2)) < 1.5
    assert abs(z[-1]) < 3


def test_scale_of_X_is_irrelevant():
    X, y = linear_data()
    whole = {"n_components": 1, "early_stopping": False, "batch_size": 80}
    plain, scaled = quick(**whole).fit(X, y), quick(**whole).fit(1e3 * X, y)
    assert_allclose(scaled.predict(1e3 * X), plain.predict(X), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("n_estimators", [2, 4])
@pytest.mark.parametrize("make", [sparse.csr_matrix, sparse.csc_array])
def test_sparse_rows_are_those_of_the_dense_array(make, n_estimators):
    X, y = linear_data()
    X[X < 0.3] = 0.0
    weight = np.arange(len(y)) % 3
    dense = quick(n_estimators=n_estimators).fit(X, y, weight)
    thin = quick(n_estimators=n_estimators).fit(make(X), y, weight)
    assert_array_equal(thin.score_samples(make(X), y), dense.score_samples(X, y))
    assert_array_equal(thin.predict(make(X)), dense.predict(X))
    if n_estimators == 4:
        assert_array_equal(thin.oof_log_density_, dense.oof_log_density_)


def test_narrow_floats_are_read_as_they_are():
    X, y = linear_data()
    X = X.astype(np.float32)
    wide, narrow = quick().fit(X.astype(np.float64), y), quick().fit(X, y)
    assert_array_equal(narrow.predict(X), wide.predict(X))


def test_weights_are_repetitions_whatever_the_order():
    X, y = linear_data()
    rng = np.random.RandomState(0)
    weight = rng.randint(4, size=80)
    weighted = quick(n_estimators=4).fit(X, y, sample_weight=weight)
    repeats = rng.permutation(np.repeat(np.arange(80), weight))
    repeated = quick(n_estimators=4).fit(X[repeats], y[repeats])
    assert_array_equal(weighted.predict(X), repeated.predict(X))
    assert_allclose(weighted.oof_score_, repeated.oof_score_, rtol=1e-12)


@pytest.mark.parametrize("covariance_type", COVARIANCE_TYPES)
def test_same_seed_same_bits(covariance_type):
    X, y = linear_data()
    options = {"covariance_type": covariance_type, "dropout": 0.2, "input_noise": 0.1}
    first, second = quick(**options).fit(X, y), quick(**options).fit(X, y)
    other = quick(**options | {"random_state": 1}).fit(X, y)
    assert_array_equal(first.predict(X), second.predict(X))
    assert not np.array_equal(first.predict(X), other.predict(X))


def test_without_a_seed_fits_differ():
    X, y = linear_data()
    first, second = (quick(random_state=None, max_iter=2).fit(X, y) for _ in range(2))
    assert not np.array_equal(first.predict(X), second.predict(X))


def test_random_state_instance_is_advanced():
    X, y = linear_data()
    rng = np.random.RandomState(0)
    first = quick(random_state=rng, max_iter=2).fit(X, y)
    second = quick(random_state=rng, max_iter=2).fit(X, y)
    assert not np.array_equal(first.predict(X), second.predict(X))


def test_fit_and_sample_leave_warning_filters_alone():
    # The guard of all tests cannot watch them: torch adds some at lazy imports.
    X, y = linear_data()
    mdn = quick(max_iter=2).fit(X, y)  # imports are done
    before = list(warnings.filters)
    mdn.fit(X, y).sample(X)
    assert list(warnings.filters) == before


# -- continuing ------------------------------------------------------------------


def test_warm_start_continues_with_the_scaling_and_the_folds():
    X, y = linear_data()
    mdn = quick(n_estimators=4, warm_start=True, random_state=None, max_iter=10)
    first = mdn.fit(X, y).best_validation_score_
    mean = mdn.y_mean_
    second = mdn.fit(X, y).best_validation_score_
    # The folds are the same and the start counts as a candidate.
    assert second >= first - 1e-6
    assert mdn.y_mean_ is mean
    mdn.set_params(n_components=5)
    with pytest.raises(ValueError, match=r"another n_components.*warm_start=False"):
        mdn.fit(X, y)


def test_partial_fit_learns_in_pieces():
    X, y = make_inverse_sine(2000, random_state=0)
    mdn = MDNRegressor(n_estimators=2, random_state=0)
    for _ in range(4):
        for piece in np.array_split(np.arange(2000), 4):
            mdn.partial_fit(X[piece], y[piece])
    assert mdn.n_iter_ == 16
    assert mdn.loss_curve_.shape == (16,)
    assert not hasattr(mdn, "validation_scores_")
    X_test, y_test, truth = make_inverse_sine(2000, random_state=1, return_density=True)
    assert mdn.score(X_test, y_test) > truth.logpdf(y_test).mean() - 0.5


def test_partial_fit_continues_a_fit_and_survives_pickling():
    X, y = linear_data()
    mdn = quick(n_estimators=4).fit(X, y)
    mdn.partial_fit(X, y)
    assert not hasattr(mdn, "oof_score_")
    restored = pickle.loads(pickle.dumps(mdn))
    mdn.partial_fit(X, y)
    restored.partial_fit(X, y)
    assert_array_equal(mdn.predict(X), restored.predict(X))


def test_partial_fit_checks_the_width_of_y():
    X, y = linear_data()
    mdn = quick().partial_fit(X, y)
    with pytest.raises(
        ValueError, match=r"y has 1 outputs, but MDNRegressor .* with 2"
    ):
        mdn.partial_fit(X, y[:, 0])


# -- scikit-learn's manners ------------------------------------------------------


def test_clone_and_set_params():
    mdn = quick(n_components=7)
    assert clone(mdn).get_params() == mdn.get_params()
    X, y = linear_data()
    parameters = mdn.get_params()
    mdn.fit(X, y)
    assert mdn.get_params() == parameters
    assert not hasattr(clone(mdn), "network_")
    assert mdn.set_params(n_components=3).n_components == 3


def test_names_of_data_frames_are_kept_and_checked():
    pd = pytest.importorskip("pandas")
    X, y = linear_data()
    frame = pd.DataFrame(X, columns=["a", "b", "c"])
    targets = pd.DataFrame(y, columns=["north", "east"])
    mdn = quick().fit(frame, targets)
    assert_array_equal(mdn.feature_names_in_, ["a", "b", "c"])
    assert mdn.output_names_ == ("north", "east")
    density = mdn.predict_density(frame)
    assert_allclose(density.marginal("east").mean(), density.mean()[:, 1])
    assert_allclose(mdn.predict(frame), quick().fit(X, y).predict(X))
    with pytest.raises(ValueError, match="feature names"):
        mdn.predict(frame[["c", "b", "a"]])
    named = quick().fit(frame, targets["east"])
    assert named.output_names_ == ("east",)
    assert named.predict(frame).shape == (80,)
    assert not hasattr(named.fit(X, y), "output_names_")


def test_polars_frames_are_taken():
    pl = pytest.importorskip("polars")
    X, y = linear_data()
    frame = pl.DataFrame(X, schema=["a", "b", "c"])
    targets = pl.DataFrame(y, schema=["north", "east"])
    mdn = quick().fit(frame, targets)
    assert mdn.output_names_ == ("north", "east")
    assert_allclose(mdn.predict(frame), quick().fit(X, y).predict(X))


def test_verbose_prints_each_epoch(capsys):
    X, y = linear_data()
    quick(verbose=True, max_iter=3).fit(X, y)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 3
    assert lines[0].startswith("Iteration 1, loss = ")
    assert "validation score = " in lines[0]


# -- hard data -------------------------------------------------------------------


@pytest.mark.parametrize("covariance_type", COVARIANCE_TYPES)
@pytest.mark.parametrize(
    "spoil",
    [
        lambda X, y: (X, np.full_like(y, 3.0)),
        lambda X, y: (np.repeat(X[:4], 20, axis=0), np.repeat(y[:4], 20, axis=0)),
        lambda X, y: (X[:6], y[:6]),
        lambda X, y: (X, 1e-6 * y),
        lambda X, y: (X, 1e6 * y),
        lambda X, y: (1e3 * X, y),
        lambda X, y: (X, np.round(y)),
        lambda X, y: (np.hstack([X, np.ones((80, 1)), X]), y),
        lambda X, y: (X, y + 1e9),
    ],
    ids=[
        "constant y",
        "duplicate rows",
        "n < K",
        "tiny y",
        "huge y",
        "huge X",
        "tied y",
        "constant and duplicate columns",
        "offset y",
    ],
)
def test_hard_data_give_a_finite_sensible_fit(covariance_type, spoil):
    X, y = spoil(*linear_data())
    mdn = quick(n_components=8, n_estimators=4, covariance_type=covariance_type)
    mdn.fit(X, y)
    assert np.isfinite(mdn.score_samples(X, y)).all()
    assert np.isfinite(mdn.score_samples(X)).all()
    mean, std = mdn.predict(X, return_std=True)
    # A constant target has no scale of its own; ours is then one.
    span = np.where(np.ptp(y, axis=0) > 0, np.ptp(y, axis=0), 0.1)
    assert (np.abs(mean - y.mean(axis=0)) < 2 * span).all()
    assert (std > 0).all()
    assert (std < 2 * span).all()


def test_far_outside_the_density_is_wide_and_near_the_targets():
    rng = np.random.RandomState(0)
    X = rng.uniform(-1, 1, size=(400, 1))
    y = np.sin(3 * X[:, 0]) + 0.05 * rng.normal(size=400)
    mdn = MDNRegressor(max_iter=60, random_state=0).fit(X, y)
    far = mdn.predict_density([[1e2], [-1e2], [1e6], [-1e6]])
    inside = mdn.predict_density(X)
    assert (far.std() > 5 * np.median(inside.std())).all()
    assert (far.std() > 0.5 * y.std()).all()
    assert (np.abs(far.mean() - y.mean()) < 3 * y.std()).all()
    # Confident nonsense would cost hundreds of nats more than ignoring X does.
    unconditional = 0.5 * np.log(2 * np.pi * np.e * y.var())
    assert (-far.logpdf(y[:, None]).mean(axis=0) < unconditional + 3).all()


def test_constant_and_binary_columns_are_no_trouble():
    rng = np.random.RandomState(0)
    flag = rng.randint(2, size=400)
    X = np.column_stack([np.full(400, 7.0), flag, rng.normal(size=400)])
    y = 3.0 * flag + X[:, 2] + 0.1 * rng.normal(size=400)
    mdn = MDNRegressor(n_estimators=4, max_iter=60, random_state=0).fit(X, y)
    assert mdn.oof_score_ > -0.5 * np.log(2 * np.pi * np.e * 0.1**2) - 0.3


def test_targets_with_few_values_warn_with_the_remedy():
    X, y = linear_data(400, d=1)
    classes = np.round(y[:, 0])
    n_values = len(np.unique(classes))
    with pytest.warns(
        UserWarning, match=f"y has only {n_values} distinct values in 400"
    ):
        quick(max_iter=2).fit(X, classes)
    two = np.column_stack([y[:, 0], 0.5 * classes])
    floor = 0.5**2 / 12 / two[:, 1].var()
    message = f"in output 1.*CRPS.*noise of width 0.5, or set reg_covar={floor:.2g}"
    with pytest.warns(UserWarning, match=message):
        quick(max_iter=2).fit(X, two)
    # The remedy is one: the suite turns warnings into errors.
    quick(max_iter=2, reg_covar=float(f"{floor:.2g}")).fit(X, two)


def test_automatic_schedule_follows_the_number_of_rows():
    schedules = {
        n: (auto_batch_size(n), auto_max_iter(n, auto_batch_size(n)))
        for n in (10, 1000, 10_000, 1_000_000)
    }
    # 3000 steps, but from 20 to 400 epochs.
    assert schedules == {
        10: (32, 400),
        1000: (32, 94),
        10_000: (256, 75),
        1_000_000: (512, 20),
    }


def test_automatic_number_of_components_follows_the_rows():
    numbers = {n: auto_n_components(n) for n in (10, 10_000, 20_000, 1_000_000)}
    assert numbers == {10: 5, 10_000: 5, 20_000: 10, 1_000_000: 16}
    X, y = linear_data()
    mdn = quick(n_components="auto", warm_start=True, max_iter=2).fit(X, y)
    assert mdn.n_components_ == 5
    assert mdn.predict_density(X[:1]).weights.shape == (1, 2 * 5)
    mdn.fit(X, y)
    with pytest.raises(ValueError, match="with another n_components"):
        mdn.set_params(n_components=3).fit(X, y)


def test_density_integrates_to_one_after_fitting_in_extreme_units():
    X, y = linear_data(d=1)
    for scale in (1e-6, 1e6):
        mdn = quick().fit(X, scale * y[:, 0])
        grid = scale * np.linspace(-60, 60, 100_001)
        pdf = mdn.predict_density(X[:3]).pdf(grid[:, None])
        assert_allclose(pdf.sum(axis=0) * (grid[1] - grid[0]), 1, rtol=1e-3)


# -- errors ----------------------------------------------------------------------


def nan_at(array):
    array = array.copy()
    array[0, 0] = np.nan
    return array


X, Y = linear_data()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: quick().fit(nan_at(X), Y), "Input X contains NaN"),
        (lambda: quick().fit(X, nan_at(Y)), "Input y contains NaN"),
        (lambda: quick().fit(X, np.where(Y > 0, np.inf, Y)), "infinity"),
        (lambda: quick().fit(X, Y[:-1]), "inconsistent numbers of samples"),
        (lambda: quick().fit(X, Y[..., None]), "dim 3"),
        (lambda: quick().fit(X, np.array(["a"] * 80)), "y must hold numbers"),
        (lambda: quick().fit(X, Y, sample_weight=-np.ones(80)), "negative, got -1"),
        (lambda: quick().fit(X, Y, sample_weight=np.zeros(80)), "zero"),
        (lambda: quick().fit(X, Y, sample_weight=np.ones(3)), r"sample_weight.shape"),
        (lambda: quick().fit(X, Y, X_val=X), "given together, got only X_val"),
        (lambda: quick().fit(X, Y, y_val=Y), "given together, got only y_val"),
        (lambda: quick().fit(X, Y, sample_weight_val=[1]), "without X_val and y_val"),
        (lambda: quick().fit(X, Y, X_val=X[:0], y_val=Y[:0]), "0 sample"),
        (lambda: quick().fit(X, Y, X_val=X[:, :1], y_val=Y), "1 features, but"),
        (lambda: quick().fit(X, Y, X_val=X, y_val=Y[:, 0]), "y has 1 outputs"),
        (
            lambda: quick(early_stopping=False).fit(X, Y, X_val=X, y_val=Y),
            "early_stopping=False does not use them",
        ),
        (lambda: quick(n_components=0).fit(X, Y), "'n_components'.* Got 0 instead"),
        (lambda: quick(n_estimators=-1).fit(X, Y), "'n_estimators'.* Got -1 instead"),
        (lambda: quick(covariance_type="fool").fit(X, Y), "covariance_type.*'fool'"),
        (lambda: quick(activation="sigmoid").fit(X, Y), "activation.*'sigmoid'"),
        (lambda: quick(hidden_layer_sizes=(8, -1)).fit(X, Y), r"positive .*\(8, -1\)"),
        (lambda: quick(dropout=1.0).fit(X, Y), "'dropout'.* Got 1.0 instead"),
        (lambda: quick(warmup_iter=20).fit(X, Y), "smaller than max_iter=20, got"),
        (lambda: quick(device="cuda:99").fit(X, Y), "'cuda:99' is not available"),
        (lambda: quick(device="abacus").fit(X, Y), "got device='abacus'"),
        (lambda: quick().fit(X, Y).predict(X[:, :2]), "2 features, but"),
        (lambda: quick().fit(X, Y).score_samples(X, Y[:, :1]), "y has 1 outputs"),
        (lambda: quick().fit(X, Y).score_samples(X, Y[:5]), "inconsistent numbers"),
        (lambda: quick().fit(X, Y).score_samples(X, nan_at(Y)), "y contains NaN"),
        (lambda: quick().fit(X, Y).score(X, Y, -np.ones(80)), "negative, got -1"),
        (lambda: quick().fit(X, Y).predict(X, True, True), "At most one of return_std"),
        (lambda: quick().fit(X, Y).sample(X, 0), "n_samples .* got 0"),
    ],
)
def test_bad_input_names_the_argument_and_what_came(call, message):
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.parametrize(
    "call",
    [
        lambda m: m.predict(X),
        lambda m: m.predict_density(X),
        lambda m: m.sample(X),
        lambda m: m.score_samples(X, Y),
        lambda m: m.score_samples(X),
        lambda m: m.score(X, Y),
    ],
)
def test_unfitted_use_says_so(call):
    with pytest.raises(NotFittedError, match="not fitted yet"):
        call(quick())


def test_too_few_rows_for_folds_warn_and_train_on_all():
    with pytest.warns(UserWarning, match="3 distinct rows are too few to hold any out"):
        mdn = quick(n_estimators=4).fit(X[:3], Y[:3])
    assert np.isfinite(mdn.score_samples(X, Y)).all()
    assert not hasattr(mdn, "oof_score_")


def test_a_device_that_is_gone_predicts_on_the_cpu_with_a_warning():
    mdn = quick().fit(X, Y)
    expected = mdn.predict(X)
    mdn.set_params(device="cuda:99")
    with pytest.warns(UserWarning, match="'cuda:99' is not available"):
        assert_array_equal(mdn.predict(X), expected)
