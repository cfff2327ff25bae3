import numpy as np
import pytest
from hypothesis import given, strategies as st
from scipy.stats import beta, betabinom, binomtest

from mediclip.errors import CheckpointError, DataError, SettingsError
from mediclip.evaluation.calibration import Calibration, realised, share_interval

FINITE = st.floats(-1e6, 1e6)


def made(scores):
    return Calibration.of(scores, model="m", preprocess="p")


@given(scores=st.lists(FINITE, min_size=1, max_size=40), asked=st.lists(FINITE, min_size=1, max_size=10))
def test_a_p_value_counts_the_normals_at_or_above_a_score(scores, asked):
    calibration = made(scores)
    wanted = [(1 + sum(s >= a for s in scores)) / (len(scores) + 1) for a in asked]
    np.testing.assert_allclose(calibration.p_values(asked), wanted)
    assert min(wanted) >= calibration.least_p


@given(
    scores=st.lists(FINITE, min_size=1, max_size=60),
    score=FINITE,
    level=st.sampled_from([0.01, 0.05, 0.1, 0.5]),
)
def test_a_decision_is_that_of_the_p_value_and_of_the_threshold(scores, score, level):
    calibration = made(scores)
    p, threshold = calibration.p_values([score])[0], calibration.threshold(level)
    decision = calibration.decide(score, level)
    assert (decision == "abnormal") == (p <= level + 1e-12)
    assert (decision == "abnormal") == (threshold is not None and score > threshold)
    assert (decision == "uncertain") == (decision != "abnormal" and score > max(scores))


@pytest.mark.parametrize(
    ("n", "level", "can"), [(18, 0.05, False), (19, 0.05, True), (98, 0.01, False), (99, 0.01, True)]
)
def test_nothing_is_called_abnormal_with_fewer_normals_than_the_level_needs(n, level, can):
    calibration = made(np.arange(n))
    assert calibration.decide(1e9, level) == ("abnormal" if can else "uncertain")
    assert calibration.decide(-1.0, level) == "normal"
    assert (calibration.threshold(level) is not None) == can
    assert (calibration.rate_interval(level) == (0.0, 0.0)) != can


def test_with_99_normals_the_rate_at_5_percent_lies_in_2_to_9_percent():
    low, high = made(np.arange(99)).rate_interval(0.05)
    assert (round(low, 2), round(high, 2)) == (0.02, 0.09)


@pytest.mark.parametrize(("n", "level"), [(19, 0.05), (48, 0.05), (99, 0.05), (48, 0.2)])
def test_normals_are_called_abnormal_as_often_as_promised_and_the_rates_spread_as_stated(n, level):
    rng = np.random.default_rng(0)
    rank, rates = made(np.arange(n)).rank(level), []
    for _ in range(2000):
        threshold = made(rng.exponential(size=n)).threshold(level)
        rates.append(np.exp(-threshold))  # the true rate of an exponential score above it
    assert np.mean(rates) <= level + 4 * np.std(rates) / 2000**0.5
    assert np.mean(rates) == pytest.approx(rank / (n + 1), abs=4 * np.std(rates) / 2000**0.5)
    low, high = made(np.arange(n)).rate_interval(level)
    inside = np.mean([low <= rate <= high for rate in rates])
    assert inside == pytest.approx(0.9, abs=0.03)
    assert np.std(rates) == pytest.approx(beta.std(rank, n + 1 - rank), rel=0.1)


def test_on_a_finite_test_set_false_alarms_are_beta_binomial():
    rng, n, tested = np.random.default_rng(1), 48, 100
    counts = []
    for _ in range(1500):
        scores = rng.normal(size=n + tested)
        result = realised(made(scores[:n]), np.zeros(tested), scores[n:], 0.05)
        counts.append(round(result.rate * tested))
    law = betabinom(tested, 2, n - 1)
    assert np.mean(counts) == pytest.approx(law.mean(), abs=4 * law.std() / 1500**0.5)
    assert np.std(counts) == pytest.approx(law.std(), rel=0.1)


def test_what_was_decided_is_counted_by_hand():
    calibration = made(np.arange(1, 20))  # 19 normals, so that only what exceeds 19 is abnormal at 5 %
    result = realised(calibration, [0, 0, 0, 1, 1, 1], [1, 2, 20, 3, 21, 22], 0.05)
    assert result.rate == pytest.approx(1 / 3)
    assert result.sensitivity == pytest.approx(2 / 3)
    assert result.f1 == pytest.approx(2 * 2 / (2 * 2 + 1 + 1))
    assert result.uncertain == 0
    assert realised(made(np.arange(5)), [0, 1], [9, 9]).uncertain == 2
    assert realised(calibration, [1], [3]).rate is None
    assert realised(calibration, [0], [3]).f1 is None


@given(total=st.integers(1, 200), data=st.data())
def test_the_interval_of_a_share_is_scipys_exact_one(total, data):
    count = data.draw(st.integers(0, total))
    wanted = binomtest(count, total).proportion_ci(0.95, method="exact")
    np.testing.assert_allclose(share_interval(count, total), (wanted.low, wanted.high), atol=1e-9)


def test_it_holds_for_its_own_model_and_preprocessing_alone():
    calibration = Calibration.restore(made([2.0, 1.0]).facts())
    assert calibration.scores == (1.0, 2.0)
    assert calibration.holds_for(model="m", preprocess="p")
    assert not calibration.holds_for(model="other", preprocess="p")
    assert not calibration.holds_for(model="m", preprocess="other")


@pytest.mark.parametrize("scores", [[], [float("nan")], [[1.0]]])
def test_scores_that_cannot_calibrate_are_refused(scores):
    with pytest.raises(DataError, match="A calibration must have at least 1 normal image"):
        made(scores)


@pytest.mark.parametrize("level", [0, 1, -0.1, float("nan")])
def test_a_level_outside_the_unit_interval_is_refused(level):
    with pytest.raises(SettingsError, match=r"must lie in \(0, 1\)"):
        made([1.0]).decide(0.0, level)


@pytest.mark.parametrize("values", [{}, {"scores": "x", "model": "", "preprocess": ""}])
def test_a_stored_calibration_of_another_form_is_refused(values):
    with pytest.raises(CheckpointError, match="calibrate again"):
        Calibration.restore(values)
