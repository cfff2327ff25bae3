import logging
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.supercore.task_identity import TaskIdentity

from client.app import app
from client.service import registry
from mediclip.errors import ImageError
from mediclip.protocol import (
    ERROR_CODES,
    METRIC_NAMES,
    NUM_EXAMPLES,
    PRESENT_KEYS,
    ROLL_CALL_KEYS,
    SENTENCES,
    TRAIN_KEYS,
)
from mediclip.provenance import source_digest
from tests.packets import as_record, packed, unpacked
from tests.tiny import (
    SHOTS,
    largest_difference,
    tiny_recipe,
    tiny_request,
    tiny_schema,
    tiny_site,
    tiny_tensors,
)

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def _identity():
    TaskIdentity.task_id = TaskIdentity.run_id = TaskIdentity.node_id = 1


@pytest.fixture
def ask():
    """Serve a site and ask it through the real ClientApp."""
    served = []

    def ask(content, site, kind="train"):
        registry.withdraw("it")
        registry.serve("it", site)
        served.append("it")
        context = Context(1, 2, {"site": "it"}, RecordDict(), {})
        return app(Message(content, 2, kind), context)

    yield ask
    for name in served:
        registry.withdraw(name)


def config(**changes):
    values = {
        "server-round": 1,
        "seed": 7,
        "recipe": tiny_recipe().model_dump_json(),
        "local-steps": 2,
        "schema-digest": tiny_schema().digest(),
        "codec": "float32/1",
        "base": "",
        "answer-codec": "float32/1",
        "differences-follow": False,
    }
    values |= {key.replace("_", "-"): value for key, value in changes.items()}
    return ConfigRecord({key: value for key, value in values.items() if value is not None})


def training(arrays=None, **changes):
    record = packed(tiny_tensors()) if arrays is None else arrays
    return RecordDict({"arrays": record, "config": config(**changes)})


def question(**changes):
    asked = {
        "recipe": tiny_recipe().model_dump_json(),
        "schema-digest": tiny_schema().digest(),
        "codec": "two-bit/1",
    }
    return RecordDict({"config": ConfigRecord({**asked, **changes})})


class Broken:
    """A site whose exceptions quote what must not leave."""

    name = "north"
    text = "/scans/DOE^JANE^1961/slice.png"

    def __init__(self, error=RuntimeError):
        self.error = error

    def schema_digest(self, _):
        raise self.error(self.text)

    def fit(self, _):
        raise self.error(self.text)


def test_an_update_is_exactly_the_sites_own_answer(ask):
    reply = ask(training(), tiny_site(0))
    direct = tiny_site(0).fit(tiny_request())
    sent = unpacked(reply.content)
    assert list(sent) == list(direct.tensors)
    assert largest_difference(sent, direct.tensors) == 0
    assert dict(reply.content["metrics"]) == {NUM_EXAMPLES: SHOTS, **direct.metrics}
    assert set(reply.content) == {"arrays", "config", "metrics"}
    assert dict(reply.content["config"]) == {
        "codec": "float32/1",
        "schema-digest": tiny_schema().digest(),
        "base": "",
    }


def test_a_roll_call_names_site_tensors_and_code(ask):
    reply = ask(question(), tiny_site(0), "query.roll_call")
    assert set(reply.content) == {"config"}
    assert dict(reply.content["config"]) == {
        "site": "site-0",
        "schema-digest": tiny_schema().digest(),
        "source-digest": source_digest(),
        "codec": "two-bit/1",
        "error": "",
    }
    assert set(reply.content["config"]) == PRESENT_KEYS


def test_a_site_that_cannot_train_still_answers_the_roll_call_by_name_with_a_word(ask):
    card = ask(question(), tiny_site(0, taps=(1, 10)), "query.roll_call").content["config"]
    assert (card["site"], card["error"], card["schema-digest"], card["codec"]) == ("site-0", "taps", "", "")


@pytest.mark.parametrize("kind", ["train", "query.roll_call"])
@pytest.mark.parametrize(
    ("error", "word"), [(RuntimeError, "failed"), (OSError, "failed"), (SystemError, "failed")]
)
def test_the_text_of_an_exception_reaches_neither_the_message_nor_the_log(ask, caplog, kind, error, word):
    content = training() if kind == "train" else question()
    with caplog.at_level(logging.DEBUG):
        reply = ask(content, Broken(error), kind)
    if kind == "train":
        assert (reply.error.code, reply.error.reason) == (ERROR_CODES[word], SENTENCES[word])
    else:
        assert reply.content["config"]["error"] == word
    for text in (repr(reply), caplog.text):
        assert "DOE" not in text
        assert "/scans" not in text
    assert f"{error.__name__} at test_app.py" in caplog.text  # enough to find the fault at the site


def test_an_error_of_the_project_leaves_as_its_word_and_is_told_in_full_at_the_site(ask, caplog):
    class Blurred(Broken):
        text = "The test image 12 must be an image. It is empty; remove it."

    reply = ask(training(), Blurred(ImageError))
    assert (reply.error.code, reply.error.reason) == (ERROR_CODES["image"], SENTENCES["image"])
    assert "test image 12" in caplog.text


def test_a_site_never_sends_a_metric_that_the_protocol_does_not_know(ask):
    class Chatty:
        name = "chatty"

        def fit(self, request):
            reply = tiny_site(0).fit(request)
            return type(reply)(reply.tensors, reply.examples, {**reply.metrics, "patient_age": 61.0})

    numbers = ask(training(), Chatty()).content["metrics"]
    assert set(numbers) == {NUM_EXAMPLES, *METRIC_NAMES}


@pytest.mark.parametrize(
    ("content", "word"),
    [
        (lambda: training(server_round=0), "federation"),
        (lambda: training(server_round="1"), "federation"),
        (lambda: training(seed=-1), "federation"),
        (lambda: training(seed=True), "federation"),
        (lambda: training(local_steps=0), "federation"),
        (lambda: training(local_steps=2.0), "federation"),
        (lambda: training(recipe=None), "federation"),
        (lambda: training(schema_digest=None), "federation"),
        (lambda: training(proximal_mu=-0.1), "federation"),
        (lambda: training(proximal_mu=float("nan")), "federation"),
        (lambda: training(proximal_mu=1), "federation"),
        (lambda: training(codec=None), "federation"),
        (lambda: training(base=None), "federation"),
        (lambda: training(answer_codec=7), "federation"),
        (lambda: training(differences_follow=1), "federation"),
        (lambda: training(codec="pickle/1"), "schema"),
        (lambda: training(codec="two-bit/1"), "schema"),
        (lambda: training(answer_codec="two-bit/2"), "schema"),
        (lambda: training(base="0" * 64), "schema"),
        (lambda: training(run_this="rm"), "federation"),
        (lambda: RecordDict({"config": config()}), "federation"),
        (lambda: RecordDict({**training(), "metrics": MetricRecord({})}), "federation"),
        (RecordDict, "federation"),
        (lambda: training(recipe="no recipe"), "settings"),
        (lambda: training(schema_digest="other"), "schema"),
        (lambda: training(ArrayRecord({})), "federation"),
        (lambda: training(ArrayRecord({"x": Array(np.zeros(3, np.float32))})), "federation"),
        (lambda: training(ArrayRecord({**packed(tiny_tensors()), "x": Array(np.zeros(3))})), "federation"),
        (lambda: training(as_record(b"")), "schema"),
        (lambda: training(as_record(b"junk")), "schema"),
        (lambda: training(packed({"x": np.zeros(3, np.float32)})), "schema"),
        (lambda: training(packed({n: v.astype(float) for n, v in tiny_tensors().items()})), "schema"),
        (lambda: training(packed({n: v * np.nan for n, v in tiny_tensors().items()})), "schema"),
    ],
)
def test_a_request_that_is_not_as_agreed_is_answered_with_a_word(ask, content, word):
    reply = ask(content(), tiny_site(0))
    assert (reply.error.code, reply.error.reason) == (ERROR_CODES[word], SENTENCES[word])


def test_a_node_without_a_site_answers_with_a_word():
    reply = app(Message(training(), 2, "train"), Context(1, 2, {}, RecordDict(), {}))
    assert reply.error.code == ERROR_CODES["settings"]


def test_the_keys_that_are_used_here_are_those_of_the_protocol():
    assert set(config(proximal_mu=0.1)) == TRAIN_KEYS
    assert set(question()["config"]) == ROLL_CALL_KEYS


def test_asking_a_site_that_lives_elsewhere_loads_no_torch():
    code = """
import sys
from flwr.app import ConfigRecord, Context, Message, RecordDict
from flwr.supercore.task_identity import TaskIdentity
TaskIdentity.task_id = TaskIdentity.run_id = TaskIdentity.node_id = 1
from client.app import app
from client.service import registry
class Elsewhere:
    name = "north"
    def schema_digest(self, recipe): return "d"
registry.serve("north", Elsewhere())
content = RecordDict({"config": ConfigRecord({"recipe": "r", "schema-digest": "d", "codec": "float32/1"})})
reply = app(Message(content, 2, "query.roll_call"), Context(1, 2, {"site": "north"}, RecordDict(), {}))
assert reply.content["config"]["schema-digest"] == "d"
assert "torch" not in sys.modules
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
