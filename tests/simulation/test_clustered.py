"""Clusters in a whole run: who trains which model, what is the floor, and what a site gets in the end."""

from dataclasses import replace

import numpy as np
import pytest
from flwr.app import Message, MetricRecord, RecordDict

from client.app import app as client_app
from client.policy import Policy
from client.service.audit import AuditLog, read
from client.service.guard import GuardedSite
from client.service.rounds import RoundStore
from mediclip.errors import PolicyError, SettingsError
from mediclip.protocol import ARRAYS, CONFIG, DESCRIPTOR, METRICS
from server.app import CHECKPOINT
from server.checkpointing import load_round
from server.conclusion import CONCLUSION
from simulation.ended_runs import read_models
from simulation.engine import run_in_process
from tests.tiny import (
    SHOTS,
    largest_difference,
    tiny_plan,
    tiny_recipe,
    tiny_scans,
    tiny_schema,
    tiny_site,
)

BRIGHT, DARK = (0, 1), (2, 3)


def sites(numbers=(*BRIGHT, *DARK)):
    """Sites of two organs: blobs that are bright, and their negatives with an edge."""
    return [
        tiny_site(n, scans=None if n in BRIGHT else np.float32(1) - tiny_scans(n) ** np.float32(4))
        for n in numbers
    ]


def plan(out, **changes):
    return tiny_plan(out, **{"strategy": "clustered", "rounds": 3, **changes})


def state_of(found):
    return load_round(found.out / CHECKPOINT, found.schema, found.identity)


def names(numbers):
    return {f"site-{number}" for number in numbers}


def test_each_cluster_is_the_federation_of_its_sites_alone(tmp_path):
    together = plan(tmp_path / "together")
    run_in_process(together, sites())
    models = read_models(together.out, sorted(names((*BRIGHT, *DARK))))
    for number, members in enumerate((BRIGHT, DARK)):
        alone = run_in_process(tiny_plan(tmp_path / str(number), rounds=3), sites(members))
        for name in names(members):
            assert largest_difference(models[name].delivered, alone.tensors) < 1e-6
            assert models[name].conclusion["kept"] == "cluster"


def test_the_model_of_all_sites_is_the_mean_of_the_clusters(tmp_path):
    # Updates are averaged wherever they start from, and all start from one model.
    found = plan(tmp_path)
    result = run_in_process(found, sites())
    first, second = state_of(found).models.values()
    mean = {name: (value + second[name]) / 2 for name, value in first.items()}
    assert largest_difference(result.tensors, mean) < 1e-6


def test_before_clusters_part_all_train_one_model(tmp_path):
    one = run_in_process(tiny_plan(tmp_path / "one", rounds=2), sites())
    late = plan(tmp_path / "late", rounds=2, cluster_after=2)
    assert largest_difference(run_in_process(late, sites()).tensors, one.tensors) == 0
    assert state_of(late).models == {}
    parted = plan(tmp_path / "parted", rounds=3, cluster_after=2)
    run_in_process(parted, sites())
    assert len(state_of(parted).models) == 2


def test_a_cluster_below_the_floor_trains_and_gets_the_model_of_all_sites(tmp_path):
    found = plan(tmp_path, min_sites=3)
    result = run_in_process(found, sites((0, 1, 4, 2)))
    assert state_of(found).models == {}
    models = read_models(found.out, sorted(names((0, 1, 4, 2))))
    for ended in models.values():
        assert largest_difference(ended.delivered, result.tensors) == 0
        assert ended.conclusion["kept"] == "global"
    assert [row["has_model"] for row in result.history[-1]["clusters"]] == [False, False]


def test_a_site_alone_in_its_cluster_trains_with_all(tmp_path):
    found = plan(tmp_path)
    result = run_in_process(found, sites((0, 1, 2)))
    models = read_models(found.out, ["site-0", "site-1", "site-2"])
    assert [models[name].conclusion["kept"] for name in sorted(models)] == ["cluster", "cluster", "global"]
    assert largest_difference(models["site-2"].delivered, result.tensors) == 0


@pytest.mark.parametrize("cluster_after", [0, 1])
def test_a_run_made_in_two_parts_is_the_run_made_at_once(tmp_path, cluster_after):
    whole, parts = (plan(tmp_path / n, rounds=4, cluster_after=cluster_after) for n in ("whole", "parts"))
    run_in_process(whole, sites())
    run_in_process(replace(parts, rounds=2), sites())
    (parts.out / CONCLUSION).unlink()
    run_in_process(replace(parts, resume=True), sites())
    one, other = state_of(whole), state_of(parts)
    assert one.clusters == other.clusters
    assert largest_difference(one.tensors, other.tensors) == 0
    for number in one.models:
        assert largest_difference(one.models[number], other.models[number]) == 0


def test_a_new_site_gets_the_model_of_its_cluster_without_training(tmp_path):
    found = plan(tmp_path)
    run_in_process(found, sites())
    sent = []
    run_in_process(
        replace(found, resume=True), sites((*BRIGHT, *DARK, 4)), on_message=lambda m: sent.append(m.metadata)
    )
    assert not [meta for meta in sent if meta.message_type == "train"]
    new = read_models(found.out, ["site-4"])["site-4"]
    assert new.conclusion["kept"] in {"cluster", "global"}
    assert new.conclusion["kept"] == "cluster"
    models = state_of(found).models
    assert min(largest_difference(new.delivered, model) for model in models.values()) == 0


def without_descriptor(name):
    """A ClientApp whose site of that name keeps its descriptor to itself."""

    def client(message, context):
        if message.metadata.message_type.endswith(DESCRIPTOR) and context.node_config["site"] == name:
            raise PolicyError("no", reason=DESCRIPTOR)  # noqa: EM101
        return client_app(message, context)

    return client


def forging(values, name="site-3"):
    """A ClientApp whose site of that name sends other numbers as its descriptor."""

    def client(message, context):
        if message.metadata.message_type.endswith(DESCRIPTOR) and context.node_config["site"] == name:
            return Message(RecordDict({METRICS: MetricRecord({DESCRIPTOR: values})}), reply_to=message)
        return client_app(message, context)

    return client


@pytest.mark.parametrize(
    ("client", "reason"),
    [
        (without_descriptor("site-3"), "site-failed"),
        (forging([2.0, 0.0]), "values"),
        (forging([float("nan")] * 4), "values"),
        (forging([1.0]), "values"),
        (forging([0.01] * 10_000), "values"),
        (forging(1.0), "values"),
    ],
)
def test_a_site_without_a_usable_descriptor_trains_the_model_of_all_sites(tmp_path, client, reason):
    found = plan(tmp_path, rounds=1)
    result = run_in_process(found, sites(), client=client)
    assert result.history[0]["undescribed"] == [{"site": "site-3", "reason": reason}]
    assert {row["site"] for row in result.history[0]["sites"]} == names((*BRIGHT, *DARK))
    models = read_models(found.out, sorted(names((*BRIGHT, *DARK))))
    assert largest_difference(models["site-3"].delivered, result.tensors) == 0


def test_only_clustered_runs_ask_for_descriptors_and_each_site_once(tmp_path):
    for strategy, count in (("fedavg", 0), ("clustered", 4)):
        kinds = []
        run_in_process(
            plan(tmp_path / strategy, strategy=strategy),
            sites(),
            on_message=lambda m, kinds=kinds: kinds.append(
                (m.metadata.message_type, bool(m.metadata.reply_to_message_id))
            ),
        )
        asked = [is_reply for kind, is_reply in kinds if kind.endswith(DESCRIPTOR) and not is_reply]
        assert len(asked) == count


def test_a_descriptor_leaves_as_these_numbers_and_nothing_else(tmp_path):
    replies = []

    def note(message):
        if message.metadata.message_type.endswith(DESCRIPTOR):
            replies.append(message.content)

    run_in_process(plan(tmp_path, rounds=1), sites(), on_message=note)
    assert {frozenset(content) for content in replies} == {frozenset({CONFIG}), frozenset({METRICS})}
    for content in replies:
        assert ARRAYS not in content
        if METRICS in content:
            (values,) = content[METRICS].values()
            assert np.linalg.norm(values) == pytest.approx(1, abs=1e-4)


def guarded(folder, **rules):
    site = tiny_site(0)
    return GuardedSite(
        site, Policy(**rules), RoundStore(folder / "r"), AuditLog(folder / "a.jsonl"), source="a"
    )


@pytest.mark.parametrize(
    "rules",
    [{}, {"shares_descriptor": True, "is_private": True}, {"shares_descriptor": True, "federation": "other"},
     {"shares_descriptor": True, "min_images": SHOTS + 1}],
)  # fmt: skip
def test_a_descriptor_leaves_only_where_the_policy_allows_it(tmp_path, rules):
    with pytest.raises(PolicyError) as refused:
        guarded(tmp_path, **rules).descriptor(tiny_recipe().model_dump_json(), "f")
    (line,) = read(tmp_path / "a.jsonl")
    assert (line["event"], line["code"], line["asked"]) == ("refused", refused.value.code, DESCRIPTOR)
    if not rules or rules.get("is_private"):
        assert refused.value.code == "policy-descriptor"


def test_a_descriptor_that_left_is_in_the_audit_log(tmp_path):
    values = guarded(tmp_path, shares_descriptor=True).descriptor(tiny_recipe().model_dump_json(), "f")
    (line,) = read(tmp_path / "a.jsonl")
    assert (line["event"], line["numbers"]) == ("described", len(values))


def test_clusters_and_differences_exclude_each_other(tmp_path):
    with pytest.raises(SettingsError, match="needs codec 'float32'"):
        plan(tmp_path, codec="int8").prepare(4)


def test_a_cluster_that_lost_a_site_waits_and_the_others_go_on(tmp_path):
    def failing(message, context):
        number = message.content.config_records[CONFIG].get("server-round", 0)
        if (
            message.metadata.message_type == "train"
            and number > 1
            and context.node_config["site"] == "site-3"
        ):
            raise RuntimeError
        return client_app(message, context)

    found = plan(tmp_path, quorum=3)
    run_in_process(found, sites(), client=failing)
    one = plan(tmp_path / "one", rounds=1)
    run_in_process(one, sites())
    after, before = state_of(found), state_of(one)
    cluster = after.clusters["members"]["site-3"]
    assert largest_difference(after.models[cluster], before.models[cluster]) == 0
    (other,) = set(after.models) - {cluster}
    assert largest_difference(after.models[other], before.models[other]) > 0


def test_the_checkpoint_of_a_run_without_clusters_says_nothing_of_them(tmp_path):
    found = tiny_plan(tmp_path, rounds=1)
    run_in_process(found, sites((0, 1)))
    state = load_round(found.out / CHECKPOINT, tiny_schema(), found.identity)
    assert (dict(state.models), dict(state.clusters)) == ({}, {})
