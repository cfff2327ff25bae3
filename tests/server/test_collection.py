"""A round in which a site is silent, by the real ClientApp and a grid in this process."""

import threading

import pytest
from flwr.app import ConfigRecord

from client.app import app as client_app
from client.service import registry
from mediclip.exchange.codecs import FLOAT32
from mediclip.provenance import source_digest
from server.aggregation import Aggregator
from server.app import limits_for
from server.collection import Collector
from server.downlink import Downlink
from server.roster import NO_ANSWER, Roster
from simulation.engine import InProcessGrid, _identify
from tests.tiny import tiny_plan, tiny_recipe, tiny_schema, tiny_site, tiny_tensors

NAMES = ["site-0", "site-1", "site-2"]


@pytest.fixture
def stop():
    stop = threading.Event()
    yield stop
    stop.set()


@pytest.fixture
def ask(tmp_path, stop):
    """Give a function that asks three sites, one of them silent, with a timeout that no test waits for."""
    _identify()
    for number, name in enumerate(NAMES):
        registry.serve(name, tiny_site(number))

    def client(message, context):
        if context.node_config["site"] == "site-1" and message.metadata.message_type == "train":
            stop.wait(1000)
        return client_app(message, context)

    grid = InProcessGrid(client, NAMES, {}, parallel=3)
    settings = tiny_plan(tmp_path, quorum=2, round_timeout_s=1000.0).prepare(3)
    recipe, schema = tiny_recipe(), tiny_schema()
    limits = limits_for(settings, recipe, schema)
    question = ConfigRecord(
        {"recipe": recipe.model_dump_json(), "schema-digest": schema.digest(), "codec": FLOAT32.name}
    )
    roster, downlink = Roster(question, source_digest()), Downlink(FLOAT32, schema, tiny_tensors())
    collector = Collector(grid, settings, schema, recipe, limits, roster, downlink)

    def collect(number):
        aggregator = Aggregator(settings, schema, limits, 3, tmp_path, 0.01)
        outgoing = downlink.prepare(tiny_tensors())
        with aggregator.round() as updates:
            return collector.collect(number, lambda _: outgoing, updates)

    yield collector, collect
    grid.close()
    for name in NAMES:
        registry.withdraw(name)


def test_a_site_that_was_silent_does_not_hold_up_the_next_round_until_the_timeout(ask):
    collector, collect = ask
    collector.late.add("site-1")
    for number in (1, 2):
        collected = collect(number)
        assert sorted(collected.receipts) == ["site-0", "site-2"]
        assert collected.refused == {"site-1": NO_ANSWER}
        assert collector.late == {"site-1"}


def test_a_site_that_was_silent_and_answers_with_the_others_is_late_no_more(ask, stop):
    collector, collect = ask
    collector.late.add("site-1")
    stop.set()
    collected = collect(1)
    assert sorted(collected.receipts) == NAMES
    assert collected.refused == {}
    assert collector.late == set()


def test_a_site_that_was_never_silent_has_all_the_time_there_is(ask, stop):
    collector, collect = ask
    collector.late.add("site-0")
    threading.Timer(8.0, stop.set).start()  # longer than the moment that a late site has
    assert sorted(collect(1).receipts) == NAMES
