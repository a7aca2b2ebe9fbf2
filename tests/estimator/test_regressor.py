"""MDNRegressor: accuracy, consistency of predictions, and errors."""

import pickle
import warnings
import weakref
from functools import partial

import helpers
import numpy as np
import pytest
import torch
from helpers import linear_data, signed_scales, standardised
from numpy.testing import assert_allclose, assert_array_equal
from scipy import sparse
from sklearn import config_context
from sklearn.base import clone
from sklearn.exceptions import NotFittedError

from skmdn import MDNRegressor
from skmdn._mixture import draws
from skmdn._model import ConditionalModel
from skmdn.datasets import make_inverse_sine, make_rotating_gaussians
from skmdn.nn.covariance import COVARIANCE_TYPES

quick = partial(helpers.quick, n_estimators=2, hidden_layer_sizes=(16,), max_iter=20)


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


@pytest.mark.parametrize(
    "options",
    [
        {"n_estimators": 1},
        {"n_estimators": 16, "portfolio": ["linear", "bins", "plain"]},
    ],
)
def test_network_maps_standardised_rows(options):
    X, y = linear_data()
    y[:, 0] += (X[:, 1] > 0) * X[:, 2] ** 2
    mdn = quick(**options).fit(X, y)
    assert isinstance(mdn.network_, torch.nn.Module)
    X_scaled = torch.tensor(standardised(mdn, X))
    with torch.no_grad():
        parts = mdn.network_(X_scaled)
        log_weights, means, factors = (part.numpy() for part in parts)
    density = mdn.predict_density(X)
    assert_allclose(density.weights, np.exp(log_weights))
    assert_allclose(density.means, means * mdn.y_scale_ + mdn.y_mean_)
    assert_allclose(density.precision_factors, factors / signed_scales(mdn))


def test_predictions_do_not_depend_on_neighbours_or_memory():
    X, y = linear_data()
    mdn = quick().fit(X, y)
    with config_context(working_memory=1e-3):
        chunked = mdn.predict(X), mdn.score_samples(X, y), mdn.score_samples(X)
    assert_allclose(chunked[0], mdn.predict(X), rtol=1e-11)
    assert_allclose(chunked[1], mdn.score_samples(X, y), rtol=1e-10)
    assert_allclose(chunked[2], mdn.score_samples(X), rtol=1e-10)
    assert_allclose(mdn.predict(X[7:8]), mdn.predict(X)[7:8], rtol=1e-11)


@pytest.mark.parametrize(
    ("d", "covariance_type"), [(2, "full"), (17, "full"), (18, "low_rank")]
)
def test_samples_are_those_of_the_density_and_need_few_rows_at_once(
    d, covariance_type, monkeypatch
):
    X, y = linear_data(d=d)
    mdn = quick(covariance_type=covariance_type, max_iter=3).fit(X, y)
    monkeypatch.setattr(draws, "DRAWS_PER_BLOCK", 50)  # blocks and chunks differ
    references = []

    def watched(self, X, mixtures=ConditionalModel.mixtures):
        for mixture in mixtures(self, X):
            references.append(weakref.ref(mixture.precision_factors))
            alive = [ref() for ref in references if ref() is not None]
            # The one before is replaced only when this one has arrived.
            assert len(alive) <= 2
            del alive
            yield mixture
            del mixture

    with config_context(working_memory=0.05):
        expected = mdn.predict_density(X).sample(3, random_state=0)
        monkeypatch.setattr(ConditionalModel, "mixtures", watched)
        assert_array_equal(mdn.sample(X, 3, random_state=0), expected)
    assert len(references) > 3


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
    options = {"covariance_type": covariance_type, "dropout": 0.2}
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


# -- errors ----------------------------------------------------------------------


def nan_at(array):
    array = array.copy()
    array[0, 0] = np.nan
    return array


X, Y = linear_data()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: quick().fit(sparse.csr_array(nan_at(X)), Y), "Input X contains NaN"),
        (lambda: quick().fit(X, nan_at(Y)[:, :1]), "Input y contains NaN"),
        (lambda: quick().fit(X, np.where(Y > 0, np.inf, Y)), "infinity"),
        (lambda: quick().fit(X, Y[:-1]), "inconsistent numbers of samples"),
        (lambda: quick().fit(X, Y[..., None]), r"got \(80, 2, 1\)"),
        (lambda: quick().fit(X, np.array(["a"] * 80)), "y must hold numbers"),
        (lambda: quick().fit(X, Y, sample_weight=-np.ones(80)), "negative, got -1"),
        (lambda: quick().fit(X, Y, sample_weight=np.zeros(80)), "zero"),
        (lambda: quick().fit(X, Y, sample_weight=np.ones(3)), r"sample_weight.shape"),
        (lambda: quick().fit(X, Y, X_val=X), "given together, got only X_val"),
        (lambda: quick().fit(X, Y, y_val=Y), "given together, got only y_val"),
        (lambda: quick().fit(X, Y, sample_weight_val=[1]), "without X_val and y_val"),
        (lambda: quick().fit(X, Y, X_val=X[:0], y_val=Y[:0]), "0 sample"),
        (lambda: quick().fit(X, Y, X_val=X[:, :1], y_val=Y), "1 features, but"),
        (lambda: quick().fit(X, Y, X_val=X, y_val=Y[:, 0]), "y_val has 1 outputs"),
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
        (
            lambda: quick().fit(X, Y[:, :1]).score_samples(X, nan_at(Y)[:, :1]),
            "y contains NaN",
        ),
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
def test_unfitted_use_raises_not_fitted(call):
    with pytest.raises(NotFittedError, match="not fitted yet"):
        call(quick())


def test_too_few_rows_for_folds_warn_and_train_on_all():
    with pytest.warns(UserWarning, match="3 distinct rows are too few to hold any out"):
        mdn = quick(n_estimators=4).fit(X[:3], Y[:3])
    assert np.isfinite(mdn.score_samples(X, Y)).all()
    assert not hasattr(mdn, "oof_score_")


def test_a_missing_device_falls_back_to_the_cpu_with_a_warning():
    mdn = quick().fit(X, Y)
    expected = mdn.predict(X)
    mdn.set_params(device="cuda:99")
    with pytest.warns(UserWarning, match="'cuda:99' is not available"):
        assert_array_equal(mdn.predict(X), expected)


class ThreeNetworks(MDNRegressor):
    """Subclass with fewer parameters, and with a fitted attribute of its own."""

    def __init__(self, max_iter=3):
        super().__init__(2, n_estimators=3, max_iter=max_iter, random_state=0)

    def fit(self, X, y):
        self.mean_of_y_ = np.mean(y)
        return super().fit(X, y)


def test_subclasses_may_fix_parameters_and_add_attributes():
    X, y = helpers.linear_data()
    mdn = ThreeNetworks().fit(X, y).fit(X, y)
    assert mdn.network_.n_members == 3
    assert mdn.mean_of_y_ == np.mean(y)
    assert mdn.get_params() == {"max_iter": 3}
