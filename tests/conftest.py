"""Fixtures that many tests share."""

import os
import uuid
from pathlib import Path

import pytest

from mediclip.data.pool import shared_pool
from tests.leftovers import MARK, end_leftovers

SHARED = Path(os.environ.get("MEDICLIP_SHARED", Path(__file__).resolve().parents[2] / "shared"))


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out, in plain sight, what needs the real images where they are not."""
    if (SHARED / "data").is_dir():
        return
    needing = [item for item in items if item.get_closest_marker("shared")]
    if needing:
        config.hook.pytest_deselected(items=needing)
        items[:] = [item for item in items if not item.get_closest_marker("shared")]


def pytest_report_header() -> str:
    """Say whether the real images are at hand."""
    there = (SHARED / "data").is_dir()
    return f"real images and weights: {'found' if there else 'absent, tests marked `shared` are left out'}"


@pytest.fixture(scope="session")
def shared() -> Path:
    """Give the folder of real images, weights and golden numbers."""
    return SHARED


@pytest.fixture(scope="session", autouse=True)
def _no_process_is_left():
    """Fail a session whose tests leave a process running that they started."""
    mark = os.environ[MARK] = uuid.uuid4().hex
    yield
    shared_pool().close()  # its workers stay for as long as this process would
    left = end_leftovers(mark, patience_s=20.0)
    assert not left, "tests must end what they start; left: " + "; ".join(left)
