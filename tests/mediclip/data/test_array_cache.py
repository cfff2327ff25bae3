"""Squares kept on disk are the ones that would be made, for this file and this preprocessing alone."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from mediclip.data.array_cache import ArrayCache
from mediclip.data.preprocess import Preprocess, load_images
from mediclip.data.samples import Sample
from mediclip.errors import ImageError, SettingsError
from tests.mediclip.data.dicom.conftest import CANARY, as_bytes, dataset

RAMP = np.arange(64 * 48, dtype=np.uint16).reshape(64, 48)


@pytest.fixture
def scan(tmp_path: Path) -> Path:
    """Write an MR image whose patient and file are called as the canary."""
    path = tmp_path / f"{CANARY}.dcm"
    path.write_bytes(as_bytes(dataset(RAMP, Modality="MR")))
    return path


@pytest.fixture
def cache(tmp_path: Path) -> ArrayCache:
    return ArrayCache(tmp_path / "squares")


def entries(tmp_path: Path) -> list[Path]:
    return sorted((tmp_path / "squares").glob("*.square"))


def marked(tmp_path: Path, cache: ArrayCache) -> None:
    """Write squares of ones in place of all entries, as this cache would: a hit then shows itself."""
    for path in entries(tmp_path):
        side = round(((path.stat().st_size - 32) / 4) ** 0.5)
        cache._write(path.stem, np.ones((side, side), dtype=np.float32))


def test_a_hit_is_equal_bit_by_bit(tmp_path: Path, scan: Path, cache: ArrayCache):
    plain = Preprocess(32).load_file(scan, name="image 0")
    for _ in range(2):
        np.testing.assert_array_equal(cache.load(scan, Preprocess(32), name="image 0"), plain)
    marked(tmp_path, cache)
    assert cache.load(scan, Preprocess(32), name="image 0").min() == 1
    again = ArrayCache(tmp_path / "squares").load(scan, Preprocess(32), name="image 0")
    assert (again.dtype, again.shape, again.min()) == (np.float32, (32, 32), 1)


def test_the_same_content_elsewhere_is_a_hit(tmp_path: Path, scan: Path, cache: ArrayCache):
    cache.load(scan, Preprocess(32), name="image 0")
    marked(tmp_path, cache)
    other = tmp_path / "other"
    other.write_bytes(scan.read_bytes())
    assert cache.load(other, Preprocess(32), name="image 0").min() == 1


@pytest.mark.parametrize("preprocess", [Preprocess(33), Preprocess(32, {"MR": "stored-range"})])
def test_another_size_or_policy_is_a_miss(
    tmp_path: Path, scan: Path, cache: ArrayCache, preprocess: Preprocess
):
    cache.load(scan, Preprocess(32), name="image 0")
    marked(tmp_path, cache)
    image = cache.load(scan, preprocess, name="image 0")
    np.testing.assert_array_equal(image, preprocess.load_file(scan, name="image 0"))
    assert len(entries(tmp_path)) == 2


def test_another_content_is_a_miss(tmp_path: Path, scan: Path, cache: ArrayCache):
    cache.load(scan, Preprocess(32), name="image 0")
    marked(tmp_path, cache)
    scan.write_bytes(as_bytes(dataset(RAMP[::-1], Modality="MR")))
    image = cache.load(scan, Preprocess(32), name="image 0")
    np.testing.assert_array_equal(image, Preprocess(32).load_file(scan, name="image 0"))


def test_each_frame_has_an_entry_of_its_own(tmp_path: Path, cache: ArrayCache):
    path = tmp_path / "two.dcm"
    frames = np.stack([RAMP, RAMP[::-1]])
    path.write_bytes(as_bytes(dataset(RAMP, Modality="MR", NumberOfFrames=2, PixelData=frames.tobytes())))
    first, second = (cache.load(path, Preprocess(32), name="image 0", frame=frame) for frame in (0, 1))
    assert not np.array_equal(first, second)
    assert len(entries(tmp_path)) == 2


@pytest.mark.parametrize("damage", ["bit", "cut", "empty", "renamed", "another key"])
def test_an_entry_that_is_not_as_it_was_written_is_made_again(
    tmp_path: Path, scan: Path, cache: ArrayCache, damage: str
):
    cache.load(scan, Preprocess(32), name="image 0")
    marked(tmp_path, cache)
    (path,) = entries(tmp_path)
    content = bytearray(path.read_bytes())
    if damage == "bit":
        content[-1] ^= 1
    elif damage == "cut":
        del content[-4:]
    elif damage == "empty":
        content.clear()
    elif damage == "renamed":
        ramp = tmp_path / "other.dcm"
        ramp.write_bytes(as_bytes(dataset(RAMP[:, ::-1], Modality="MR")))
        cache.load(ramp, Preprocess(32), name="image 1")
        (other,) = set(entries(tmp_path)) - {path}
        content = bytearray(other.read_bytes())
    else:
        strange = ArrayCache(tmp_path / "strange")
        strange.load(scan, Preprocess(32), name="image 0")
        content = bytearray(next((tmp_path / "strange").glob("*.square")).read_bytes())
    path.write_bytes(content)
    plain = Preprocess(32).load_file(scan, name="image 0")
    np.testing.assert_array_equal(cache.load(scan, Preprocess(32), name="image 0"), plain)
    np.testing.assert_array_equal(cache.load(scan, Preprocess(32), name="image 0"), plain)


def test_the_folder_names_nobody_and_is_its_owners_alone(tmp_path: Path, scan: Path, cache: ArrayCache):
    cache.load(scan, Preprocess(32), name="image 0")
    folder = tmp_path / "squares"
    assert folder.stat().st_mode & 0o777 == 0o700
    assert {path.stat().st_mode & 0o777 for path in folder.iterdir()} == {0o600}
    assert [len(path.stem) for path in entries(tmp_path)] == [32]
    for path in folder.iterdir():
        assert CANARY.encode() not in path.name.encode() + path.read_bytes()


def test_a_folder_that_others_can_look_into_or_that_cannot_be_made_is_refused(tmp_path: Path):
    (tmp_path / "open").mkdir(mode=0o755)
    with pytest.raises(SettingsError) as error:
        ArrayCache(tmp_path / "open")
    assert str(error.value) == (
        "The folder of a cache must be its owner's alone (mode 0700), but others can look into it; correct "
        "that or name another."
    )
    (tmp_path / "file").write_text("")
    with pytest.raises(SettingsError, match="must be writable, but it is not"):
        ArrayCache(tmp_path / "file" / "cache")
    with pytest.raises(SettingsError, match="'max_bytes' of a cache must be at least 1, but it is 0"):
        ArrayCache(tmp_path / "new", 0)


def test_the_ones_used_longest_ago_make_room(tmp_path: Path, write: Callable[..., Path]):
    size = 32 + 4 * 32 * 32
    cache = ArrayCache(tmp_path / "squares", max_bytes=10 * size)
    paths = [write(tmp_path / f"{i}.png", size=(40 + i, 30)) for i in range(12)]
    for path in paths[:10]:
        cache.load(path, Preprocess(32), name="image 0")
    first = min(entries(tmp_path), key=lambda entry: entry.stat().st_mtime_ns)
    cache.load(paths[0], Preprocess(32), name="image 0")
    for path in paths[10:]:
        cache.load(path, Preprocess(32), name="image 0")
    kept = entries(tmp_path)
    assert 9 <= len(kept) <= 10
    assert first in kept
    assert sum(path.stat().st_size for path in kept) <= 10 * size


def test_faults_are_those_of_the_file_and_leave_nothing(tmp_path: Path, cache: ArrayCache):
    (tmp_path / "a.dcm").write_bytes(b"none")
    for path in (tmp_path / "a.dcm", tmp_path / "gone.dcm"):
        with pytest.raises(ImageError, match=r"^Cannot use image 0: it must "):
            cache.load(path, Preprocess(32), name="image 0")
    assert entries(tmp_path) == []


def test_threads_share_a_cache_and_many_images_come_from_it(tmp_path: Path, scan: Path, cache: ArrayCache):
    samples = [Sample(i, scan, 0, "normal", "set") for i in range(6)]
    plain = load_images(samples, Preprocess(32))
    np.testing.assert_array_equal(load_images(samples, Preprocess(32), cache), plain)
    marked(tmp_path, cache)
    assert load_images(samples, Preprocess(32), cache).min() == 1
    with ThreadPoolExecutor(4) as threads:
        again = threads.map(lambda _: cache.load(scan, Preprocess(40), name="image 0"), range(8))
    assert len({image.tobytes() for image in again}) == 1


def test_a_full_disk_is_done_without(tmp_path: Path, scan: Path, cache: ArrayCache):
    (tmp_path / "squares").rename(tmp_path / "gone")
    plain = Preprocess(32).load_file(scan, name="image 0")
    np.testing.assert_array_equal(cache.load(scan, Preprocess(32), name="image 0"), plain)
