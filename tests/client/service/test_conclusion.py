"""The end of a run at a site: what it compares, what it keeps, and what of that leaves."""

import json
import stat
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, strategies as st

from client.policy import Policy
from client.service.audit import AuditLog, read
from client.service.bench import Bench
from client.service.conclusion import CANDIDATES, MODEL, FinalRequest, Mark, choose
from client.service.exam import Exam
from client.service.fit import FinalQuestion
from client.service.guard import GuardedSite
from client.service.material import Material
from client.service.own_part import with_own_part
from client.service.remote import RemoteSite
from client.service.rounds import RoundStore
from client.service.site import Site
from mediclip.errors import FederationError, PolicyError, SchemaError
from mediclip.model.network import MediClip
from mediclip.protocol import FINAL_METRIC_NAMES, METRIC_NAMES
from mediclip.training.checkpoint import load_model
from mediclip.training.private import own_tensors, stored_memory
from tests.kits import FEDERATION, daemon, make_kit
from tests.tiny import (
    SHOTS,
    largest_difference,
    question_of,
    tiny_backbone,
    tiny_recipe,
    tiny_request,
    tiny_scans,
    tiny_tensors,
)

ROUNDS = 3
ALL = Policy(metrics=frozenset((*METRIC_NAMES, *FINAL_METRIC_NAMES)))


def site_with(held_out=None, **options):
    further = None if held_out is None else lambda: held_out
    return Site("site-0", lambda _: Material(tiny_backbone(), tiny_scans(0), held_out=further), **options)


def final_request(tensors=None, *, safeguard=True, **changes):
    last = tiny_request(ROUNDS, tensors=tiny_tensors(5) if tensors is None else tensors, **changes)
    return FinalRequest(last, "global", safeguard)


def final_question(tensors=None, *, safeguard=True, origin="global", **changes):
    return FinalQuestion(
        question_of(final_request(tensors, **changes).last), origin=origin, safeguard=safeguard
    )


scores = st.floats(0, 1)


@given(st.dictionaries(st.sampled_from(CANDIDATES), st.builds(Mark, scores, scores), min_size=1))
def test_the_kept_model_is_nowhere_worse_than_another_and_of_equal_ones_the_first(marks):
    kept = choose(marks)
    assert all(marks[kept].score >= mark.score for mark in marks.values())
    equal = [name for name in marks if marks[name].score == marks[kept].score]
    assert kept == min(equal, key=CANDIDATES.index)


def test_candidates_are_the_delivered_model_one_more_round_of_it_and_the_site_alone(tmp_path):
    site, request = site_with(), final_request()
    site.conclude(request, {}, tmp_path)
    written = {path.stem: load_model(path).tensors for path in tmp_path.glob("*.safetensors")}
    assert set(written) == {"global", "tuned", "local", "model"}
    assert largest_difference(written["global"], tiny_tensors(5)) == 0
    # The independent reference: the rounds that an undisturbed site would train.
    tuned = site_with().fit(replace(request.last, number=ROUNDS + 1)).tensors
    alone = tiny_request(1, local_steps=ROUNDS * request.last.local_steps, tensors=tiny_tensors(7))
    assert largest_difference(written["tuned"], tuned) == 0
    assert largest_difference(written["local"], site_with().fit(alone).tensors) == 0


def test_what_is_kept_is_the_best_of_what_was_compared(tmp_path):
    found = site_with(tiny_scans(9)).conclude(final_request(), {}, tmp_path)
    assert set(found.marks) == {"global", "tuned", "local"}
    assert found.kept == choose(found.marks)
    assert found.marks[found.kept].score >= found.marks["local"].score
    file = load_model(tmp_path / MODEL)
    kept = load_model(tmp_path / f"{found.kept}.safetensors").tensors
    assert largest_difference(file.tensors, kept) == 0
    assert file.private_facts["conclusion"] == json.loads(json.dumps(found.facts()))
    assert stored_memory(file) is not None


def test_a_delivered_model_that_finds_nothing_is_not_kept():
    # Zeros make every token alike: the text map is flat, and the site's own models can only be better.
    recipe = tiny_recipe().model_copy(update={"memory": None})
    dead = {name: np.zeros_like(value) for name, value in tiny_tensors().items()}
    request = final_request(dead, recipe=recipe.model_dump_json(), local_steps=8)
    found = site_with(tiny_scans(9)).conclude(request, {}, None)
    assert found.marks["global"].image == 0.5
    assert found.kept != "global"


def test_without_a_safeguard_nothing_is_compared_and_the_delivered_model_is_kept(tmp_path):
    found = site_with().conclude(final_request(safeguard=False), {}, tmp_path)
    assert (found.kept, dict(found.marks), found.basis) == ("global", {}, None)
    assert found.metrics() == {}
    assert {path.name for path in tmp_path.iterdir()} == {"global.safetensors", MODEL}


def test_a_site_with_an_own_part_keeps_a_whole_model_and_says_what_is_its_own(tmp_path):
    recipe = tiny_recipe().model_copy(update={"private": ("normal_prompts",)})
    network = MediClip(tiny_backbone(), recipe)
    shared = {spec.name: tiny_tensors(5)[spec.name] for spec in network.shared.tensors}
    request = final_request(
        shared, recipe=recipe.model_dump_json(), schema_digest=network.shared.digest(), safeguard=False
    )
    _, private = site_with().fit_from(request.last, {})
    assert site_with().conclude(request, private, tmp_path).kept == "personal"
    file = load_model(tmp_path / MODEL)
    assert largest_difference(file.tensors, with_own_part(network, request.last, private)) == 0
    assert own_tensors(file) == ("prompt.normal.end",)


def exam(held_out, seed=7, stream=("site", "site-0")):
    network = MediClip(tiny_backbone(), tiny_recipe()).initialise(1)
    material = Material(
        tiny_backbone(), tiny_scans(0), held_out=None if held_out is None else lambda: held_out
    )
    return Exam(network, material, seed=seed, stream=stream), network


@pytest.mark.parametrize(
    ("held_out", "basis", "images"),
    [
        (None, "copies", SHOTS),
        (tiny_scans(9)[:3], "copies", SHOTS),
        (tiny_scans(9), "held-out", SHOTS),
        (np.concatenate([tiny_scans(9), tiny_scans(8)]), "held-out", 2 * SHOTS),
    ],
)
def test_models_are_compared_on_held_out_images_where_there_are_enough(held_out, basis, images):
    found, _ = exam(held_out)
    assert (found.basis, found.images) == (basis, images)


def test_an_exam_is_the_same_for_all_models_and_another_for_another_seed_or_site():
    held_out = tiny_scans(9)
    first, network = exam(held_out)
    again, _ = exam(held_out)
    assert first.mark(network) == first.mark(network) == again.mark(network)
    others = [exam(held_out, seed=8)[0], exam(held_out, stream=("site", "x"))[0], exam(tiny_scans(8))[0]]
    assert all(other.mark(network) != first.mark(network) for other in others)


def test_an_exam_is_not_what_training_sees(monkeypatch):
    # Not one image that a model was trained or validated on in its rounds is among those of the exam.
    seen, network = [], MediClip(tiny_backbone(), tiny_recipe())
    plain = MediClip.tokens

    def noting(self, images):
        seen[-1].update(image.numpy().tobytes() for image in images)
        return plain(self, images)

    monkeypatch.setattr(MediClip, "tokens", noting)
    network.initialise(1)
    material = Material(tiny_backbone(), tiny_scans(0), held_out=lambda: tiny_scans(9))
    seen.append(set())
    Bench(network, material, ("site", "site-0")).train(tiny_request())
    seen.append(set())
    Exam(network, material, seed=7, stream=("site", "site-0"))
    assert seen[0]
    assert seen[1]
    assert not seen[0] & seen[1]


@pytest.fixture
def guarded(tmp_path):
    def guarded(policy=ALL, site=None):
        return GuardedSite(
            site or site_with(),
            policy,
            RoundStore(tmp_path / "rounds"),
            AuditLog(tmp_path / "audit.jsonl"),
            models=tmp_path / "models",
            source="a",
        )

    return guarded


def test_nothing_of_the_choice_leaves_unless_the_policy_names_it(guarded, tmp_path):
    usual = Policy(metrics=frozenset(METRIC_NAMES))
    for policy in (
        usual,
        replace(ALL, min_metric_images=SHOTS + 1),
        replace(ALL, is_private=True),
        Policy(metrics=frozenset()),
    ):
        assert guarded(policy).conclude(final_question(), "f") == {}
    assert set(guarded().conclude(final_question(), "f")) == set(FINAL_METRIC_NAMES)
    lines = read(tmp_path / "audit.jsonl")
    assert {line["event"] for line in lines} == {"concluded"}
    assert [bool(line["metrics"]) for line in lines] == [False] * 4 + [True]


def test_a_run_is_concluded_once_and_repeated_after_a_restart(guarded, tmp_path):
    first = guarded().conclude(final_question(), "f")
    files = {path: path.stat().st_mtime_ns for path in (tmp_path / "models").rglob("*.safetensors")}
    assert guarded().conclude(final_question(), "f") == first
    assert {path: path.stat().st_mtime_ns for path in files} == files
    assert [line["is_repeated"] for line in read(tmp_path / "audit.jsonl")] == [False, True]
    guarded().conclude(final_question(tiny_tensors(6)), "f")
    assert read(tmp_path / "audit.jsonl")[-1]["is_repeated"] is False


@pytest.mark.parametrize(
    ("policy", "change", "error"),
    [
        (Policy(federation="other"), {}, PolicyError),
        (Policy(max_rounds=ROUNDS - 1), {}, PolicyError),
        (Policy(min_images=SHOTS + 1), {}, PolicyError),
        (Policy(max_model_norm=1e-3), {}, PolicyError),
        (Policy(), {"origin": "elsewhere"}, FederationError),
        (Policy(), {"schema_digest": "x", "tensors": {"a": np.zeros(2, np.float32)}}, SchemaError),
    ],
)
def test_an_end_outside_the_policy_is_refused_and_logged_and_nothing_is_written(
    guarded, tmp_path, policy, change, error
):
    with pytest.raises(error):
        guarded(policy).conclude(final_question(**change), "f")
    (line,) = read(tmp_path / "audit.jsonl")
    assert line["event"] in {"refused", "failed"}
    assert not (tmp_path / "models").exists()


@pytest.mark.slow
def test_a_real_daemon_takes_a_model_in_and_status_says_which_it_kept(tmp_path):
    kit = make_kit(tmp_path, metrics=[*METRIC_NAMES, *FINAL_METRIC_NAMES])
    with daemon(kit):
        site = RemoteSite(kit.socket, FEDERATION)
        first, again = (site.conclude(final_question()) for _ in range(2))
        site.close()
    assert first == again
    assert set(first) == set(FINAL_METRIC_NAMES)
    (model,) = kit.models.rglob(MODEL)
    assert stat.S_IMODE(model.parent.stat().st_mode) & 0o077 == 0
    last = read(kit.audit)[-1]
    assert (last["kept"], last["is_repeated"]) == (load_model(model).facts["method"], True)
