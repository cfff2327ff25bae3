import itertools

import numpy as np
import pytest
from flwr.app import ConfigRecord, Message, MetricRecord, RecordDict
from flwr.supercore.task_identity import TaskIdentity

from mediclip.errors import FederationError
from mediclip.model.trainables import Schema, TensorSpec
from server.admission import Update
from server.aggregation import (
    aggregate,
    make_strategy,
    mean_metrics,
    optimiser_state,
    restore_optimiser,
    to_record,
)
from simulation.engine import InProcessGrid

SCHEMA = Schema((TensorSpec("adapter.1.weight", (3, 2)), TensorSpec("prompt.normal.end", (4,))))
WEIGHTS = (8, 3, 5, 1, 2)


@pytest.fixture(autouse=True)
def _identity():
    TaskIdentity.task_id = TaskIdentity.run_id = TaskIdentity.node_id = 1


@pytest.fixture
def grid():
    grid = InProcessGrid(lambda message, _: message, ["a"], {}, parallel=1)
    yield grid
    grid.close()


def draw(rng):
    return {spec.name: rng.normal(size=spec.shape).astype(np.float32) for spec in SCHEMA.tensors}


def updates_of(tensors, **metrics):
    made = []
    for number, (values, weight) in enumerate(zip(tensors, WEIGHTS, strict=False)):
        content = RecordDict({"arrays": to_record(values), "metrics": MetricRecord({"num-examples": weight})})
        reply = Message(content, reply_to=Message(RecordDict(), number + 2, "train"))
        made.append(Update(f"site-{number}", reply, weight, weight, dict(metrics), 0.0))
    return made


def configured(strategy, current, grid, number=1):
    list(strategy.configure_train(number, to_record(current), ConfigRecord(), grid))
    return strategy


def stack(tensors, name):
    return np.stack([values[name].astype(np.float64) for values in tensors])


def trimmed_mean(values, share):
    cut = int(share * len(values))
    return np.sort(values, axis=0)[cut : len(values) - cut].mean(0)


REFERENCES = {
    "fedavg": lambda values: np.average(values, axis=0, weights=WEIGHTS),
    "fedprox": lambda values: np.average(values, axis=0, weights=WEIGHTS),
    "fedmedian": lambda values: np.median(values, axis=0),
    "fedtrimmedavg": lambda values: trimmed_mean(values, 0.2),
}


@pytest.mark.parametrize("name", REFERENCES)
def test_each_strategy_agrees_with_its_formula(name, grid):
    rng = np.random.default_rng(3)
    current, tensors = draw(rng), [draw(rng) for _ in WEIGHTS]
    strategy = configured(make_strategy(name, proximal_mu=0.1), current, grid)
    found = aggregate(strategy, 1, updates_of(tensors), SCHEMA)
    for spec in SCHEMA.tensors:
        assert found[spec.name].dtype == np.float32
        np.testing.assert_allclose(found[spec.name], REFERENCES[name](stack(tensors, spec.name)), rtol=2e-6)


def adam_step(current, mean, m, v, number, eta):
    delta = mean - current
    m, v = 0.9 * m + 0.1 * delta, 0.99 * v + 0.01 * delta**2
    rate = eta * np.sqrt(1 - 0.99 ** (number + 1)) / (1 - 0.9 ** (number + 1))
    return current + rate * m / (np.sqrt(v) + 1e-3), m, v


def test_fedadam_agrees_with_its_formula_over_rounds_and_stays_float32(grid):
    rng = np.random.default_rng(4)
    current = draw(rng)
    expected = {name: (value.astype(np.float64), 0.0, 0.0) for name, value in current.items()}
    strategy = make_strategy("fedadam", server_learning_rate=0.05)
    for number in (1, 2, 3):
        tensors = [draw(rng) for _ in WEIGHTS]
        configured(strategy, current, grid, number)
        current = aggregate(strategy, number, updates_of(tensors), SCHEMA)
        for name, (value, m, v) in expected.items():
            mean = np.average(stack(tensors, name), axis=0, weights=WEIGHTS)
            expected[name] = adam_step(value, mean, m, v, number, 0.05)
            assert current[name].dtype == np.float32
            np.testing.assert_allclose(current[name], expected[name][0], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", [*REFERENCES, "fedadam"])
def test_the_order_in_which_sites_answer_does_not_change_a_bit(name, grid):
    rng = np.random.default_rng(5)
    current, tensors = draw(rng), [draw(rng) for _ in WEIGHTS[:4]]
    found = set()
    for order in itertools.permutations(range(4)):
        strategy = configured(make_strategy(name), current, grid)
        updates = updates_of(tensors)
        result = aggregate(strategy, 1, [updates[i] for i in order], SCHEMA)
        found.add(b"".join(result[spec.name].tobytes() for spec in SCHEMA.tensors))
    assert len(found) == 1


@pytest.mark.parametrize("name", [*REFERENCES, "fedadam"])
def test_a_restored_optimiser_goes_on_as_if_nothing_had_happened(name, grid):
    rng = np.random.default_rng(6)
    current, first, second = draw(rng), [draw(rng)], [draw(rng)]
    whole = configured(make_strategy(name), current, grid)
    middle = aggregate(whole, 1, updates_of(first), SCHEMA)
    state = optimiser_state(whole)
    assert bool(state) == (name == "fedadam")
    resumed = make_strategy(name)
    restore_optimiser(resumed, state)
    results = [
        aggregate(configured(s, middle, grid, 2), 2, updates_of(second), SCHEMA) for s in (whole, resumed)
    ]
    assert all(np.array_equal(results[0][n], results[1][n]) for n in results[0])


def test_the_kept_state_is_a_copy(grid):
    rng = np.random.default_rng(7)
    strategy = configured(make_strategy("fedadam"), draw(rng), grid)
    aggregate(strategy, 1, updates_of([draw(rng)]), SCHEMA)
    before = optimiser_state(strategy)
    kept = {name: value.copy() for name, value in before.items()}
    aggregate(strategy, 2, updates_of([draw(rng)]), SCHEMA)
    assert all(np.array_equal(before[name], kept[name]) for name in kept)


def test_identical_updates_are_a_fixed_point_of_every_mean(grid):
    rng = np.random.default_rng(8)
    current, same = draw(rng), draw(rng)
    for name in REFERENCES:
        strategy = configured(make_strategy(name), current, grid)
        found = aggregate(strategy, 1, updates_of([same] * 5), SCHEMA)
        for spec in SCHEMA.tensors:
            np.testing.assert_allclose(found[spec.name], same[spec.name], rtol=1e-6)


def test_a_result_that_is_not_finite_is_an_error_and_no_model(grid):
    rng = np.random.default_rng(9)
    strategy = configured(make_strategy("fedadam", server_learning_rate=1e300), draw(rng), grid)
    with pytest.raises(FederationError, match="lower the server's learning rate"):
        aggregate(strategy, 1, updates_of([draw(rng)]), SCHEMA)


def test_a_round_without_updates_is_an_error(grid):
    strategy = configured(make_strategy("fedavg"), draw(np.random.default_rng(0)), grid)
    with pytest.raises(FederationError, match="at least one update"):
        aggregate(strategy, 1, [], SCHEMA)


def test_metrics_are_averaged_by_examples_over_the_sites_that_sent_them():
    updates = updates_of([draw(np.random.default_rng(0))] * 3)
    for update, value in zip(updates, (1.0, 2.0, 4.0), strict=True):
        update.metrics["train_loss"] = value
    updates[0].metrics["val_loss"] = 9.0
    means = mean_metrics(updates)
    assert means == {"train_loss": pytest.approx((8 + 6 + 20) / 16), "val_loss": 9.0}
    assert mean_metrics([]) == {}
