"""What is relied on of Flower's way to fetch a reply, so that another version of Flower fails here."""

import importlib
import inspect

import pytest

from server import waits


@pytest.fixture
def grid():
    """Flower's module with its own function, which a ServerApp of another test may have replaced."""
    grid = importlib.import_module(waits.GRID)
    before = grid.pull_objects
    grid.pull_objects = getattr(before, "func", before)
    yield grid
    grid.pull_objects = before


def test_flowers_grid_fetches_replies_by_the_function_that_is_replaced(grid):
    pulls = importlib.import_module(waits.PULLS)
    assert grid.pull_objects is pulls.pull_objects
    assert inspect.getsource(grid).count("pull_objects(") == 1
    parameter = inspect.signature(pulls.pull_objects).parameters["initial_backoff"]
    assert parameter.default > waits.FIRST_LOOK_S


def test_an_object_that_is_not_there_yet_is_looked_for_again(grid):
    pulls = importlib.import_module(waits.PULLS)
    waits.look_sooner()
    asked = []

    def fetch(name):
        asked.append(name)
        if len(asked) < 4:
            raise pulls.ObjectUnavailableError(name)
        return b"content"

    assert grid.pull_objects(object_ids=["one"], pull_object_fn=fetch) == {"one": b"content"}
    assert grid.pull_objects.keywords == {"initial_backoff": waits.FIRST_LOOK_S}
