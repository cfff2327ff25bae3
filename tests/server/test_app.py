import json
import logging

import pytest
from flwr.app import Context, RecordDict
from flwr.supercore.task_identity import TaskIdentity

from client.app import app as client_app
from client.service import registry
from mediclip.errors import CheckpointError, MediClipError, QuorumError, SettingsError
from mediclip.model.trainables import initial_trainables
from mediclip.provenance import source_digest
from mediclip.training.checkpoint import load_tensors
from server.app import CHECKPOINT, FINAL, HISTORY, OUTCOME, app, federate
from server.history import History
from simulation.engine import InProcessGrid
from tests.packets import unpacked
from tests.tiny import largest_difference, tiny_plan, tiny_schema, tiny_site

NAMES = ["site-0", "site-1"]


@pytest.fixture
def grid():
    TaskIdentity.task_id = TaskIdentity.run_id = TaskIdentity.node_id = 1
    for number, name in enumerate(NAMES):
        registry.serve(name, tiny_site(number))
    grid = InProcessGrid(client_app, NAMES, {}, parallel=1)
    yield grid
    grid.close()
    for name in NAMES:
        registry.withdraw(name)


def outcome(out):
    return json.loads((out / OUTCOME).read_text())


def start(grid, settings):
    run_config = settings.to_run_config()
    app(grid, Context(1, 1, {}, RecordDict(), run_config))


def test_a_run_leaves_checkpoint_history_final_tensors_and_outcome(grid, tmp_path):
    settings = tiny_plan(tmp_path).prepare(2)
    start(grid, settings)
    entries = History(tmp_path / HISTORY).read()
    assert [entry["round"] for entry in entries] == [1, 2]
    assert [site["site"] for site in entries[0]["sites"]] == NAMES
    assert entries[0]["refused"] == []
    assert entries[0]["attempts"] == 1
    final, facts = load_tensors(tmp_path / FINAL)
    checkpoint, _ = load_tensors(tmp_path / CHECKPOINT)
    assert facts["round"] == 2
    assert facts["source"] == source_digest()
    assert {f"trainable/{spec.name}" for spec in tiny_schema().tensors} == set(final)
    assert largest_difference(final, checkpoint) == 0
    assert outcome(tmp_path) == {"status": "finished"}


def test_bytes_in_the_history_are_those_of_the_tensors_and_little_more(grid, tmp_path):
    start(grid, tiny_plan(tmp_path).prepare(2))
    tensors = 2 * 4 * tiny_schema().size()
    for entry in History(tmp_path / HISTORY).read():
        assert tensors < entry["bytes_up"] < tensors + 2 * 2048
        assert tensors < entry["bytes_down"] < tensors + 2 * 4096


def test_the_run_starts_from_the_values_that_schema_and_seed_give(grid, tmp_path):
    seen = []
    grid._on_message = lambda m: seen.append(m) if m.metadata.message_type == "train" else None
    start(grid, tiny_plan(tmp_path, rounds=1, seed=11).prepare(2))
    sent = unpacked(seen[0].content)
    assert largest_difference(sent, initial_trainables(tiny_schema(), 11)) == 0


def test_a_second_answer_of_a_site_does_not_count(grid, tmp_path):
    class Echoing(InProcessGrid):
        def pull_messages(self, message_ids):
            replies = super().pull_messages(message_ids)
            return [*replies, *replies]

    plain = federate(grid, tiny_plan(tmp_path / "a").prepare(2))
    echoing = Echoing(client_app, NAMES, {}, parallel=1)
    doubled = federate(echoing, tiny_plan(tmp_path / "b").prepare(2))
    echoing.close()
    assert largest_difference(plain, doubled) == 0


def test_a_failed_run_says_why_in_its_outcome_and_raises(grid, tmp_path):
    registry.withdraw("site-1")
    with pytest.raises(QuorumError, match=r"at least 2 sites. Round 1 had 1 after 1 attempts \(node-3: "):
        start(grid, tiny_plan(tmp_path).prepare(2))
    found = outcome(tmp_path)
    assert (found["status"], found["code"]) == ("failed", "quorum")
    assert "Round 1 had 1" in found["message"]
    (entry,) = History(tmp_path / HISTORY).read()
    assert entry["failed"] == "quorum"
    assert entry["refused"] == [{"site": "node-3", "reason": "site-settings"}]


def test_an_unforeseen_failure_is_an_outcome_without_its_text(grid, tmp_path):
    def broken(_):
        raise RuntimeError("/scans/DOE^JANE")  # noqa: EM101

    grid._on_message = broken
    with pytest.raises(RuntimeError):
        start(grid, tiny_plan(tmp_path).prepare(2))
    assert outcome(tmp_path)["message"] == "The server stopped: RuntimeError."


def files_of(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


def test_a_folder_with_a_run_is_left_as_it_is_unless_that_run_is_resumed(grid, tmp_path):
    settings = tiny_plan(tmp_path, rounds=1).prepare(2)
    start(grid, settings)
    before = files_of(tmp_path)
    with pytest.raises(CheckpointError, match="resume that run or choose another folder"):
        start(grid, settings)
    for change, words in (
        ({}, "must hold no earlier run"),
        ({"resume": True, "seed": 8}, "same seed"),
        ({"resume": True, "strategy": "fedadam"}, "same strategy"),
        ({"resume": True, "local_steps": 3}, "same local steps"),
    ):
        with pytest.raises(CheckpointError, match=words):
            tiny_plan(tmp_path, rounds=1, **change).prepare(2)
    assert files_of(tmp_path) == before


def test_a_damaged_checkpoint_is_not_resumed(grid, tmp_path):
    settings = tiny_plan(tmp_path, rounds=1, resume=True).prepare(2)
    start(grid, settings)
    content = (tmp_path / CHECKPOINT).read_bytes()
    (tmp_path / CHECKPOINT).write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(CheckpointError):
        start(grid, settings)


@pytest.mark.parametrize("name", ["schema_file", "recipe_file"])
@pytest.mark.parametrize("content", [None, "no JSON", "[1]"])
def test_a_schema_or_recipe_that_cannot_be_read_is_one_sentence(grid, tmp_path, name, content):
    settings = tiny_plan(tmp_path).prepare(2)
    path = getattr(settings, name)
    path.unlink() if content is None else path.write_text(content)
    with pytest.raises(MediClipError, match=r"must|key"):
        start(grid, settings)
    assert outcome(tmp_path)["status"] == "failed"
    assert not (tmp_path / CHECKPOINT).exists()


def test_a_run_config_that_is_incomplete_is_refused_before_anything_is_written(grid, tmp_path):
    with pytest.raises(SettingsError, match="'schema_file'"):
        app(grid, Context(1, 1, {}, RecordDict(), {"out": str(tmp_path / "new"), "sites": 2}))
    assert not (tmp_path / "new").exists()


def test_a_refused_site_is_logged_by_name_and_reason(grid, tmp_path, caplog):
    with caplog.at_level(logging.WARNING), pytest.raises(QuorumError):
        federate(grid, tiny_plan(tmp_path, rounds=1, max_update_norm=1e-6).prepare(2))
    assert "the update of site-0 does not count (norm)" in caplog.text
