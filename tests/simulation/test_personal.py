"""Parts of the model that stay at their sites: they train, survive restarts, and are in no message."""

from dataclasses import replace

import numpy as np
import pytest

from client.policy import Policy
from client.service.audit import AuditLog
from client.service.guard import GuardedSite
from client.service.own_part import own_part
from client.service.rounds import RoundStore, private_part
from client.service.simulated import SimulatedSite
from mediclip.errors import CheckpointError, SchemaError, SettingsError
from mediclip.exchange.packet import from_packet
from mediclip.model.network import MediClip
from mediclip.model.trainables import initial_trainables, shared_schema
from simulation.engine import run_in_process
from simulation.plan import SITES_FOLDER
from tests.tiny import (
    fit,
    largest_difference,
    question_of,
    tiny_backbone,
    tiny_plan,
    tiny_recipe,
    tiny_request,
    tiny_schema,
    tiny_site,
)

GROUPS = ("normal_prompts", "last_adapter")
OWN = "trained/"


def recipe_with(groups):
    return tiny_recipe().model_copy(update={"private": groups})


def own_names(groups):
    travels = {spec.name for spec in shared_schema(tiny_schema(), groups).tensors}
    return [spec.name for spec in tiny_schema().tensors if spec.name not in travels]


def personal_plan(out, groups=GROUPS, **changes):
    return replace(
        tiny_plan(out, strategy="personal", **changes),
        recipe=recipe_with(groups),
        schema=shared_schema(tiny_schema(), groups),
    )


def personal_request(number=1, groups=GROUPS, **changes):
    schema = shared_schema(tiny_schema(), groups)
    return tiny_request(
        number,
        **{
            "tensors": initial_trainables(schema, 7),
            "recipe": recipe_with(groups).model_dump_json(),
            "schema_digest": schema.digest(),
            **changes,
        },
    )


def kept_by_sites(out, number):
    """Private tensors that the sites of a run kept after a round, in no order."""
    files = sorted((out / SITES_FOLDER).glob(f"*/*/round-{number:06d}.safetensors"))
    return [private_part(path) for path in files]


LAST = max(tiny_backbone().default_taps())
PARTS = {
    "adapters": {f"adapter.{t}.{p}" for t in tiny_backbone().default_taps() for p in ("weight", "bias")},
    "last_adapter": {f"adapter.{LAST}.weight", f"adapter.{LAST}.bias"},
    "prompts": {"prompt.normal.end", "prompt.abnormal.end"},
    "normal_prompts": {"prompt.normal.end"},
    "abnormal_prompts": {"prompt.abnormal.end"},
}


@pytest.mark.parametrize("group", PARTS)
def test_a_group_is_exactly_these_tensors(group):
    assert set(own_names((group,))) == PARTS[group]


def test_what_travels_keeps_its_order_and_nothing_private_is_the_whole_schema():
    travels = [spec.name for spec in shared_schema(tiny_schema(), GROUPS).tensors]
    assert travels == [spec.name for spec in tiny_schema().tensors if spec.name in travels]
    assert shared_schema(tiny_schema(), ()) == tiny_schema()


@pytest.mark.parametrize("groups", [("adapters", "prompts"), tuple(PARTS)])
def test_a_recipe_that_leaves_nothing_to_share_is_refused(groups):
    with pytest.raises(SettingsError, match="at least one trained tensor"):
        MediClip(tiny_backbone(), recipe_with(groups))


def test_private_tensors_are_in_no_message_neither_by_name_nor_by_value(tmp_path):
    messages = []
    plan = personal_plan(tmp_path, rounds=3, safeguard=True)
    run_in_process(plan, [tiny_site(n) for n in range(3)], on_message=messages.append)
    arrays = [a for m in messages for record in m.content.array_records.values() for a in record.values()]
    assert len(arrays) == 3 * (2 * 3 + 1)  # three rounds both ways, and the end
    assert {from_packet(array.data)[0] for array in arrays} == {shared_schema(tiny_schema(), GROUPS)}
    kept = [state for number in (1, 2, 3) for state in kept_by_sites(tmp_path, number)]
    assert len(kept) == 9
    sent = b"".join(array.data for array in arrays)
    for state in kept:
        assert {name.removeprefix(OWN) for name in state} == set(own_names(GROUPS))
        for value in state.values():
            assert value.tobytes()[:64] not in sent


def test_private_tensors_train_and_differ_from_site_to_site(tmp_path):
    run_in_process(personal_plan(tmp_path, rounds=2), [tiny_site(n) for n in range(2)])
    start = initial_trainables(tiny_schema(), 7)
    first, second = kept_by_sites(tmp_path, 2)
    for name in own_names(GROUPS):
        assert np.abs(first[OWN + name] - start[name]).max() > 0
        assert np.abs(first[OWN + name] - second[OWN + name]).max() > 0


def test_with_one_site_nothing_is_lost_by_keeping_a_part(tmp_path):
    # The limiting case: the mean of one site is that site, whatever travels.
    whole = run_in_process(tiny_plan(tmp_path / "whole", rounds=3), [tiny_site(0)])
    parted = run_in_process(personal_plan(tmp_path / "parted", rounds=3), [tiny_site(0)])
    (kept,) = kept_by_sites(tmp_path / "parted", 3)
    together = parted.tensors | {name.removeprefix(OWN): value for name, value in kept.items()}
    # The server's differences in float64 and their rounding are all that may separate them.
    assert largest_difference(together, whole.tensors) < 1e-6


def test_nothing_private_is_plain_averaging(tmp_path):
    plain = run_in_process(tiny_plan(tmp_path / "plain"), [tiny_site(n) for n in range(2)])
    named = run_in_process(
        tiny_plan(tmp_path / "named", strategy="personal"), [tiny_site(n) for n in range(2)]
    )
    assert largest_difference(plain.tensors, named.tensors) == 0


@pytest.mark.parametrize("codec", ["float32", "two-bit"])
@pytest.mark.parametrize("strategy", ["personal", "fedmedian"])
def test_a_run_made_in_two_parts_is_the_run_made_at_once(tmp_path, codec, strategy):
    def run(name, rounds, *, resume=False):
        plan = personal_plan(tmp_path / name, rounds=rounds, codec=codec, resume=resume)
        return run_in_process(replace(plan, strategy=strategy), [tiny_site(n) for n in range(2)])

    whole = run("whole", 4)
    run("parts", 2)
    parts = run("parts", 4, resume=True)  # of sites that were opened anew
    assert largest_difference(whole.tensors, parts.tensors) == 0
    for here, there in zip(
        kept_by_sites(tmp_path / "whole", 4), kept_by_sites(tmp_path / "parts", 4), strict=True
    ):
        assert largest_difference(here, there) == 0


def guarded(folder):
    return GuardedSite(
        tiny_site(0), Policy(), RoundStore(folder / "rounds"), AuditLog(folder / "audit.jsonl"), source="a"
    )


def test_a_daemon_repeats_a_round_and_goes_on_from_the_same_private_part(tmp_path):
    undisturbed, other = guarded(tmp_path / "a"), guarded(tmp_path / "b")
    wanted = [fit(undisturbed, personal_request(n), "f") for n in (1, 2, 3)]
    for number in (1, 2, 2):
        fit(other, personal_request(number), "f")
    repeated = fit(guarded(tmp_path / "b"), personal_request(2), "f")
    assert largest_difference(repeated.tensors, wanted[1].tensors) == 0
    after_restart = fit(guarded(tmp_path / "b"), personal_request(3), "f")
    assert largest_difference(after_restart.tensors, wanted[2].tensors) == 0
    assert largest_difference(wanted[2].tensors, tiny_site(0).fit(personal_request(3)).tensors), (
        "the private part has no influence"
    )


def test_an_answer_of_the_daemon_and_of_the_simulation_are_the_same(tmp_path):
    deployed, simulated = guarded(tmp_path / "a"), SimulatedSite(tiny_site(0), tmp_path / "b")
    in_memory = SimulatedSite(tiny_site(0))
    for number in (1, 2, 3):
        request = personal_request(number)
        answers = [fit(deployed, request, "f"), fit(simulated, request), fit(in_memory, request)]
        for other in answers[1:]:
            assert largest_difference(answers[0].tensors, other.tensors) == 0


def test_a_server_that_asks_for_a_private_tensor_is_refused():
    whole = replace(
        personal_request(), tensors=initial_trainables(tiny_schema(), 7), schema_digest=tiny_schema().digest()
    )
    with pytest.raises(SchemaError, match="must have the server's tensors"):
        tiny_site(0).fit(whole)


def test_a_private_part_of_another_form_is_refused_and_not_used():
    (name, *_) = own_names(GROUPS)
    with pytest.raises(CheckpointError, match="must fit its model"):
        tiny_site(0).fit_from(personal_request(), {OWN + name: np.zeros(3, np.float32)})


def test_a_site_that_agreed_to_a_recipe_takes_it_with_more_privacy_and_not_with_less():
    keeping, giving = recipe_with(("normal_prompts",)), recipe_with(())
    taken = tiny_site(0, recipe=giving).fit(personal_request(groups=("normal_prompts",)))
    assert set(taken.tensors) == {s.name for s in shared_schema(tiny_schema(), ("normal_prompts",)).tensors}
    with pytest.raises(SettingsError, match="agree on one"):
        tiny_site(0, recipe=keeping).fit(tiny_request())


def test_own_part_and_shared_part_are_all_there_is():
    network = MediClip(tiny_backbone(), recipe_with(GROUPS)).initialise(3)
    own = {name.removeprefix(OWN) for name in own_part(network)}
    assert own.isdisjoint(s.name for s in network.shared.tensors)
    assert own | {s.name for s in network.shared.tensors} == set(network.trainables())


def test_the_parcel_of_an_answer_says_what_travels():
    answer = SimulatedSite(tiny_site(0)).answer(question_of(personal_request()))
    assert [s.name for s in answer.parcel.schema.tensors] == list(answer.parcel.tensors)
    assert not set(answer.parcel.tensors) & set(own_names(GROUPS))
