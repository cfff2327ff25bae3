import itertools

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.serverapp.strategy import FedAdam, FedAvg, FedMedian, FedTrimmedAvg, MultiKrum
from flwr.supercore.task_identity import TaskIdentity

from mediclip.errors import FederationError
from mediclip.model.trainables import Schema, TensorSpec
from server.admission import Limits, Receipt, Update
from server.aggregation import Aggregator, derived_server_rate, mean_metrics
from server.difference import Difference
from server.settings import RoundSettings
from simulation.engine import InProcessGrid

SCHEMA = Schema((TensorSpec("adapter.1.weight", (3, 2)), TensorSpec("prompt.normal.end", (4,))))
WEIGHTS = (8, 3, 5, 1, 2, 9)
LIMITS = Limits(max_norm=100.0, max_examples=64)
STRATEGIES = RoundSettings.model_fields["strategy"].annotation.__args__
COMMON = {"min_train_nodes": 1, "min_available_nodes": 1, "weighted_by_key": "num-examples"}


def draw(rng, scale=1.0):
    return {spec.name: rng.normal(0, scale, spec.shape).astype(np.float32) for spec in SCHEMA.tensors}


def updates_of(tensors, base, **metrics):
    return [
        Update(Receipt(f"site-{n}", w, w, dict(metrics), 0.0), Difference(SCHEMA, values, base))
        for n, (values, w) in enumerate(zip(tensors, WEIGHTS, strict=False))
    ]


def aggregator(name, folder, **changes):
    settings = RoundSettings(strategy=name, **changes)
    return Aggregator(settings, SCHEMA, LIMITS, len(WEIGHTS), folder, settings.server_learning_rate or 1e-2)


def stepped(made, current, updates, number=1):
    with made.round() as round_:
        for update in updates:
            round_.add(update)
        return made.step(number, current, round_)


def flowers(strategy, number, current, tensors):
    """What Flower's own strategy makes of the same replies."""
    TaskIdentity.task_id = TaskIdentity.run_id = TaskIdentity.node_id = 1
    grid = InProcessGrid(lambda message, _: message, ["a"], {}, parallel=1)
    record = ArrayRecord({name: Array(value) for name, value in current.items()})
    list(strategy.configure_train(number, record, ConfigRecord(), grid))
    grid.close()
    replies = [
        Message(
            RecordDict(
                {
                    "arrays": ArrayRecord({name: Array(value) for name, value in values.items()}),
                    "metrics": MetricRecord({"num-examples": weight}),
                }
            ),
            reply_to=Message(RecordDict(), place + 2, "train"),
        )
        for place, (values, weight) in enumerate(zip(tensors, WEIGHTS, strict=False))
    ]
    arrays, _ = strategy.aggregate_train(number, replies)
    return {name: arrays[name].numpy() for name in current}


FLOWERS = {
    "fedavg": lambda: FedAvg(**COMMON),
    "fedprox": lambda: FedAvg(**COMMON),  # the pull acts at the sites
    "personal": lambda: FedAvg(**COMMON),  # what is private is at the sites
    "clustered": lambda: FedAvg(**COMMON),  # of all sites, and of those of a cluster
    "fedadam": lambda: FedAdam(**COMMON, eta=0.05),
    "fedmedian": lambda: FedMedian(**COMMON),
    "fedtrimmedavg": lambda: FedTrimmedAvg(**COMMON, beta=0.2),
    "multikrum": lambda: MultiKrum(**COMMON, num_malicious_nodes=1, num_nodes_to_select=5),
}


def test_there_is_a_reference_for_every_strategy():
    assert set(FLOWERS) == set(STRATEGIES)


@pytest.mark.parametrize("name", STRATEGIES)
@pytest.mark.parametrize("seed", range(5))
def test_three_rounds_of_each_strategy_give_flowers_numbers(name, seed, tmp_path):
    rng = np.random.default_rng(seed)
    current = draw(rng)
    ours = aggregator(name, tmp_path, server_learning_rate=0.05)
    reference = FLOWERS[name]()
    for number in (1, 2, 3):
        tensors = [
            {n: v + d for (n, v), d in zip(current.items(), draw(rng).values(), strict=True)} for _ in WEIGHTS
        ]
        expected = flowers(reference, number, current, tensors)
        current = stepped(ours, current, updates_of(tensors, current), number)
        for spec in SCHEMA.tensors:
            assert current[spec.name].dtype == np.float32
            np.testing.assert_allclose(current[spec.name], expected[spec.name], rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("name", STRATEGIES)
def test_the_order_in_which_sites_answer_does_not_change_a_bit(name, tmp_path):
    rng = np.random.default_rng(5)
    current, tensors = draw(rng), [draw(rng) for _ in WEIGHTS[:5]]
    updates = updates_of(tensors, current)
    found = set()
    for order in itertools.permutations(range(5)):
        result = stepped(aggregator(name, tmp_path), current, [updates[i] for i in order])
        found.add(b"".join(result[spec.name].tobytes() for spec in SCHEMA.tensors))
    assert len(found) == 1


@pytest.mark.parametrize("name", STRATEGIES)
def test_a_restored_optimiser_goes_on_as_if_nothing_had_happened(name, tmp_path):
    rng = np.random.default_rng(6)
    current, first, second = draw(rng), [draw(rng)], [draw(rng)]
    whole = aggregator(name, tmp_path)
    middle = stepped(whole, current, updates_of(first, current))
    kept = dict(whole.moments)
    assert bool(kept) == (name == "fedadam")
    before = {moment: value.copy() for moment, value in kept.items()}
    resumed = aggregator(name, tmp_path)
    resumed.moments = dict(kept)
    results = [stepped(a, middle, updates_of(second, middle), 2) for a in (whole, resumed)]
    assert all(np.array_equal(results[0][n], results[1][n]) for n in results[0])
    assert all(np.array_equal(kept[moment], before[moment]) for moment in kept)


@pytest.mark.parametrize("name", sorted(set(STRATEGIES) - {"fedadam"}))
def test_identical_updates_are_a_fixed_point(name, tmp_path):
    rng = np.random.default_rng(8)
    current, same = draw(rng), draw(rng)
    found = stepped(aggregator(name, tmp_path), current, updates_of([same] * 5, current))
    for spec in SCHEMA.tensors:
        np.testing.assert_allclose(found[spec.name], same[spec.name], rtol=1e-6)


@pytest.mark.parametrize("name", ["fedmedian", "fedtrimmedavg", "multikrum"])
@pytest.mark.parametrize("factor", [-1.0, -10.0, 30.0])
def test_one_hostile_of_six_leaves_the_result_close_to_that_without_it(name, factor, tmp_path):
    # Sites that agree on a direction and differ by noise; the sixth sends it turned around or scaled.
    rng = np.random.default_rng(9)
    current, way = draw(rng), draw(rng, 0.01)
    honest = [{n: current[n] + way[n] + draw(rng, 0.003)[n] for n in way} for _ in range(5)]
    hostile = {n: current[n] + np.float32(factor) * way[n] for n in way}

    def off(strategy, tensors):
        result = stepped(aggregator(strategy, tmp_path), current, updates_of(tensors, current))
        return np.concatenate([(result[n] - current[n] - way[n]).ravel() for n in way])

    reach = np.linalg.norm(np.concatenate([value.ravel() for value in way.values()]))
    without = off(name, honest)
    assert np.linalg.norm(off(name, [*honest, hostile]) - without) < 0.25 * reach
    assert np.linalg.norm(off("fedavg", [*honest, hostile]) - off("fedavg", honest)) > 0.25 * reach


def test_a_result_that_is_not_finite_is_an_error_and_no_model(tmp_path):
    rng = np.random.default_rng(9)
    current = draw(rng)
    made = aggregator("fedadam", tmp_path, server_learning_rate=1e300)
    with pytest.raises(FederationError, match="lower the server's learning rate"):
        stepped(made, current, updates_of([draw(rng)], current))


def test_nothing_is_left_in_the_folder_of_a_robust_round(tmp_path):
    rng = np.random.default_rng(0)
    current = draw(rng)
    stepped(aggregator("fedmedian", tmp_path), current, updates_of([draw(rng)], current))
    assert list(tmp_path.iterdir()) == []


def test_the_derived_rate_is_a_quarter_of_what_adam_reaches_in_a_round():
    assert derived_server_rate(1e-3, 20) == pytest.approx(0.005)


def test_metrics_are_averaged_by_examples_over_the_sites_that_sent_them():
    receipts = [
        Receipt(f"s{n}", w, w, {"train_loss": v}, 0.0)
        for n, (w, v) in enumerate(((8, 1.0), (3, 2.0), (5, 4.0)))
    ]
    receipts[0].metrics["val_loss"] = 9.0
    assert mean_metrics(receipts) == {"train_loss": pytest.approx((8 + 6 + 20) / 16), "val_loss": 9.0}
    assert mean_metrics([]) == {}
