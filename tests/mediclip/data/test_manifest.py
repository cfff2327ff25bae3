import os
from collections.abc import Callable
from pathlib import Path

import pytest

from mediclip.data.manifest import open_dataset
from mediclip.errors import ManifestError


def test_a_set_is_called_by_its_folder_unless_it_is_given_a_name(
    plain_set: Path, monkeypatch: pytest.MonkeyPatch
):
    assert open_dataset(plain_set).name == "plain"
    assert open_dataset(plain_set, "ward-3").name == "ward-3"
    assert {s.set_name for s in open_dataset(plain_set, "ward-3").test} == {"ward-3"}
    monkeypatch.chdir(plain_set)
    assert open_dataset(Path()).name == "plain"


def test_a_missing_folder_is_told(tmp_path: Path):
    with pytest.raises(ManifestError, match=r"^The data folder of 'absent' must exist, but it does not;"):
        open_dataset(tmp_path / "absent")


def test_a_folder_without_a_layout_and_one_with_two_are_refused(
    tmp_path: Path, write: Callable, write_lists: Callable
):
    with pytest.raises(
        ManifestError, match=r"must have either .* or .*, but it has none of them; arrange it"
    ):
        open_dataset(tmp_path)
    entry = {"filename": "a.png", "label": 0}
    root = write_lists([entry], [{"filename": "b.png", "label": 0}])
    assert len(open_dataset(root).train) == 1
    write(root / "normal" / "n.png")
    said = r"must have either .* or .*, but it has both folders; keep one of them"
    with pytest.raises(ManifestError, match=said):
        open_dataset(root)


def test_a_folder_that_cannot_be_gone_through_is_told_without_a_path(tmp_path: Path):
    folder = tmp_path / "normal"
    folder.mkdir()
    # Folders nested so deep that the operating system refuses their path, as it would a forbidden one.
    here = os.open(folder, os.O_RDONLY)
    for _ in range(20):
        os.mkdir("Doe" * 80, dir_fd=here)
        deeper = os.open("Doe" * 80, os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = deeper
    os.close(here)
    with pytest.raises(ManifestError) as caught:
        open_dataset(tmp_path, "set")
    assert str(caught.value) == (
        "The data folder of 'set' must be readable, but it is not (File name too long); "
        "give this user the right to read all of it."
    )
