import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mediclip.data.manifest import open_dataset
from mediclip.data.preprocess import Preprocess
from mediclip.errors import ManifestError, SettingsError
from mediclip.rng import generator
from simulation.phantom import ORGANS, draw_phantom, draw_scanner, finding_names, write_phantom_set

SMALL = {"train_normal": 3, "test_normal": 2, "test_abnormal": 4, "size": 64}


def digests(directory: Path) -> dict[str, str]:
    files = (f for f in directory.rglob("*") if f.is_file())
    return {f.relative_to(directory).as_posix(): hashlib.sha256(f.read_bytes()).hexdigest() for f in files}


@pytest.mark.parametrize("organ", ORGANS)
def test_the_projects_loader_reads_a_phantom_set_as_it_was_drawn(organ: str, tmp_path: Path):
    scanner = draw_scanner(1, "site-1")
    dataset = open_dataset(write_phantom_set(tmp_path / "set", organ, seed=5, scanner=scanner, **SMALL))
    assert [s.label for s in dataset.train] == [0, 0, 0]
    assert [s.label for s in dataset.test] == [0, 0, 1, 1, 1, 1]
    preprocess = Preprocess(image_size=64)
    for position, sample in enumerate(dataset.test):
        split, index = ("test", position) if position < 2 else ("abnormal", position - 2)
        finding = None if position < 2 else finding_names(organ)[index % len(finding_names(organ))]
        rng = generator(5, "phantom", organ, split, index)
        drawn = draw_phantom(organ, rng, size=64, finding=finding, scanner=scanner)
        assert np.abs(preprocess.load_image(sample) - drawn.image).max() <= 0.5 / 255 + 1e-6
        assert np.array_equal(preprocess.load_mask(sample), drawn.mask)


def test_the_sample_lists_have_the_published_keys(tmp_path: Path):
    write_phantom_set(tmp_path, "breast", seed=1, **SMALL)
    train, test = (
        [json.loads(line) for line in (tmp_path / "samples" / f"{split}.json").read_text().splitlines()]
        for split in ("train", "test")
    )
    assert train[0] == {
        "filename": "train/normal/breast_0000.png",
        "label": 0,
        "label_name": "normal",
        "clsname": "normal",
    }
    assert test[3] == {
        "filename": "test/abnormal/breast_0001.png",
        "label": 1,
        "label_name": "abnormal",
        "clsname": "cyst",
        "mask": "test/ground_true/breast_0001.png",
    }
    mask = np.asarray(Image.open(tmp_path / "images" / test[3]["mask"]))
    assert (mask.dtype, set(np.unique(mask))) == (np.uint8, {0, 255})


@pytest.mark.shared
def test_the_sample_lists_have_the_keys_of_a_real_set(tmp_path: Path, shared: Path):
    write_phantom_set(tmp_path, "breast", seed=1, **SMALL)

    def keys(directory: Path) -> dict[int, set[str]]:
        lines = (directory / "samples" / "test.json").read_text().splitlines()
        return {entry["label"]: set(entry) for entry in map(json.loads, lines)}

    assert keys(tmp_path) == keys(shared / "data" / "busi")


def test_a_set_is_the_same_byte_for_byte_for_the_same_seed_only(tmp_path: Path):
    first, again, other = (
        digests(write_phantom_set(tmp_path / name, "brain", seed=seed, **SMALL))
        for name, seed in (("a", 1), ("b", 1), ("c", 2))
    )
    assert first == again
    assert first.keys() == other.keys()
    assert not {f for f in first if f.endswith(".png") and first[f] == other[f]}
    images = [digest for name, digest in first.items() if name.endswith(".png")]
    assert len(set(images)) == len(images)


def test_a_larger_set_begins_with_the_images_of_a_smaller_one(tmp_path: Path):
    small = digests(write_phantom_set(tmp_path / "a", "chest", seed=1, **SMALL))
    more = {"train_normal": 5, "test_normal": 4, "test_abnormal": 6, "size": 64}
    large = digests(write_phantom_set(tmp_path / "b", "chest", seed=1, **more))
    assert {name: d for name, d in small.items() if name.endswith(".png")}.items() <= large.items()


def test_a_set_without_abnormal_images_is_written(tmp_path: Path):
    write_phantom_set(tmp_path, "chest", seed=1, train_normal=2, test_normal=1, test_abnormal=0, size=64)
    assert len(open_dataset(tmp_path).test) == 1


def test_a_folder_that_holds_something_is_left_untouched(tmp_path: Path):
    (tmp_path / "mine.txt").write_text("keep")
    with pytest.raises(ManifestError) as error:
        write_phantom_set(tmp_path, "chest", seed=1, **SMALL)
    assert str(error.value) == (
        "A phantom set must go into an empty or a new folder. Remove what is in it or name another."
    )
    assert digests(tmp_path).keys() == {"mine.txt"}


def test_nothing_is_written_for_settings_out_of_range(tmp_path: Path):
    for change in ({"size": 8}, {"train_normal": -1}, {"test_abnormal": -2}):
        with pytest.raises(
            SettingsError, match=r"^(The 'size' of a phantom|'\w+' of a phantom set) must be "
        ):
            write_phantom_set(tmp_path / "set", "chest", seed=1, **{**SMALL, **change})
    with pytest.raises(SettingsError, match="must be one of chest, brain, breast"):
        write_phantom_set(tmp_path / "set", "knee", seed=1, **SMALL)
    assert not (tmp_path / "set").exists()
