"""Processes that decode: same pictures, same faults, and an end to whatever takes too long."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import nibabel
import numpy as np
import pytest
from PIL import Image
from pydicom.dataset import Dataset

from mediclip.data import formats
from mediclip.data.pool import DecoderPool
from mediclip.data.preprocess import Preprocess, load_images
from mediclip.data.samples import Sample
from mediclip.errors import DecodeError, InvalidHeaderError, MaskError, NotDicomError, SettingsError
from tests.mediclip.data.dicom.conftest import as_bytes, dataset

Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Write a DICOM image of given attributes, or bytes as they are."""

    def make(pixels: np.ndarray | bytes | None = None, **attributes: object) -> Path:
        path = tmp_path / "scan.dcm"
        path.write_bytes(pixels if isinstance(pixels, bytes) else as_bytes(dataset(pixels, **attributes)))
        return path

    return make


@pytest.fixture
def pool() -> Iterator[DecoderPool]:
    made = DecoderPool(workers=1)
    yield made
    made.close()


def test_pictures_are_the_same_and_one_process_serves_many_files(pool: DecoderPool, write: Write):
    path = write(Modality="MR")
    for _ in range(3):
        expected = formats.read_image(path, name="image 0")
        np.testing.assert_array_equal(pool.read(path, name="image 0"), expected)
    assert len(pool._idle) == 1


def test_a_worker_that_was_prepared_is_the_one_that_reads(pool: DecoderPool, write: Write):
    pool.prepare()
    pool.prepare()
    (prepared,) = pool._idle
    pool.read(write(Modality="MR"), name="image 0")
    assert pool._idle == [prepared]


def saved(path: Path, *, depth: type[np.unsignedinteger]) -> Path:
    levels = np.arange(12 * 9, dtype=depth).reshape(12, 9) * depth(2)
    if path.suffix == ".gz":
        nibabel.save(nibabel.Nifti1Image(levels[..., None].astype(np.int16), np.eye(4)), path)
    else:
        Image.fromarray(levels).save(path)
    return path


@pytest.mark.parametrize("name", ["a.png", "a.tif", "a.jpg", "a.nii.gz"])
def test_every_format_is_opened_in_a_worker_and_gives_what_it_gives_here(
    pool: DecoderPool, tmp_path: Path, name: str
):
    for depth in (np.uint8, np.uint16):
        if depth is np.uint16 and name == "a.jpg":
            continue
        path = saved(tmp_path / name, depth=depth)
        for here, there in ((formats.read_image, pool.read), (formats.read_mask, pool.read_mask)):
            expected, found = here(path, name="image 0"), there(path, name="image 0")
            np.testing.assert_array_equal(found, expected, strict=True)
        assert pool.read_shape(path, name="image 0") == formats.read_shape(path, name="image 0")
        assert pool.read_box(path, name="image 0") is None


def test_what_ultrasound_is_cut_to_comes_back(pool: DecoderPool, write: Write):
    region = Dataset()
    region.RegionSpatialFormat = region.RegionDataType = 1
    region.RegionLocationMinX0, region.RegionLocationMinY0 = 3, 0
    region.RegionLocationMaxX1, region.RegionLocationMaxY1 = 12, 8
    path = write(
        np.arange(200, dtype=np.uint8).reshape(10, 20), Modality="US", SequenceOfUltrasoundRegions=[region]
    )
    assert pool.read_box(path, name="image 0") == (0, 3, 9, 10) == formats.read_box(path, name="image 0")
    assert pool.read(path, name="image 0").shape == (9, 10)
    assert pool.read_shape(path, name="image 0") == (10, 20)


def test_a_mask_has_its_own_error(pool: DecoderPool, tmp_path: Path):
    (tmp_path / "a.png").write_bytes(b"none")
    with pytest.raises(MaskError, match=r"^Cannot use the mask of image 3: it must be a PNG, "):
        pool.read_mask(tmp_path / "a.png", name="the mask of image 3")
    pool.read_shape(saved(tmp_path / "b.png", depth=np.uint8), name="image 0")
    worker = pool._idle[0]._process
    os.kill(worker.pid, signal.SIGSTOP)
    threading.Timer(0.2, os.kill, (worker.pid, signal.SIGKILL)).start()
    with pytest.raises(MaskError, match=r"but its decoder crashed; convert it"):
        pool.read_mask(tmp_path / "b.png", name="the mask of image 3")


def test_faults_come_back_as_what_they_are(pool: DecoderPool, write: Write):
    with pytest.raises(InvalidHeaderError, match=r"^Cannot use image 3: it must have Rows as") as caught:
        pool.read(write(Rows=None), name="image 3")
    assert caught.value.keyword == "Rows"
    with pytest.raises(NotDicomError):
        pool.read(write(b"none"), name="image 3")
    with pytest.raises(SettingsError):
        pool.read(write(), name="image 3", frame=7)
    assert len(pool._idle) == 1


def test_a_worker_that_takes_too_long_is_ended_and_replaced(pool: DecoderPool, write: Write):
    path = write(Modality="MR")
    pool.read(path, name="image 0")
    worker = pool._idle[0]._process
    os.kill(worker.pid, signal.SIGSTOP)
    pool._time_limit_s = 0.3
    begin = time.perf_counter()
    with pytest.raises(DecodeError, match=r"^Cannot use image 0: .* it took longer than 0.3 s; convert"):
        pool.read(path, name="image 0")
    assert time.perf_counter() - begin < 25  # not the 30 s that the pool was made with
    assert worker.poll() is not None
    pool._time_limit_s = 30
    assert pool.read(path, name="image 0").shape == (3, 4)


def test_a_worker_that_crashes_is_replaced(pool: DecoderPool, write: Write):
    path = write(Modality="MR")
    pool.read(path, name="image 0")
    worker = pool._idle[0]._process
    os.kill(worker.pid, signal.SIGSTOP)
    threading.Timer(0.2, os.kill, (worker.pid, signal.SIGKILL)).start()
    with pytest.raises(DecodeError, match=r"but its decoder crashed; convert it"):
        pool.read(path, name="image 0")
    assert pool.read(path, name="image 0").shape == (3, 4)


def test_a_worker_that_died_while_it_was_idle_is_replaced_unnoticed(pool: DecoderPool, write: Write):
    path = write(Modality="MR")
    pool.read(path, name="image 0")
    dead = pool._idle[0]._process
    dead.kill()
    dead.wait()
    assert pool.read(path, name="image 0").shape == (3, 4)
    assert pool._idle[0].pid != dead.pid


def test_a_worker_has_a_limit_of_memory_and_leaves_no_core_file(pool: DecoderPool, write: Write):
    pool.read(write(Modality="MR"), name="image 0")
    limits = Path(f"/proc/{pool._idle[0].pid}/limits").read_text()
    rows = {line[:26].strip(): line[26:].split()[0] for line in limits.splitlines()}
    assert int(rows["Max address space"]) == 3 * 2**30
    assert rows["Max core file size"] == "0"


def test_threads_share_a_pool(write: Write):
    pool = DecoderPool(workers=2)
    path = write(Modality="MR")
    expected = formats.read_image(path, name="image 0")
    with ThreadPoolExecutor(6) as threads:
        for image in threads.map(lambda _: pool.read(path, name="image 0"), range(30)):
            np.testing.assert_array_equal(image, expected)
    assert 1 <= len(pool._idle) <= 2
    pool.close()


def test_many_images_are_read_in_workers_and_give_what_one_by_one_gives(write: Write):
    path = write(np.arange(64 * 64, dtype=np.uint16).reshape(64, 64), Modality="MR")
    samples = [Sample(i, path, 0, "normal", "set") for i in range(4)]
    preprocess = Preprocess(32)
    together = load_images(samples, preprocess)
    for sample, image in zip(samples, together, strict=True):
        np.testing.assert_array_equal(image, preprocess.load_image(sample))


@pytest.fixture
def several(tmp_path: Path) -> list[tuple[Path, str, int | None]]:
    """Write six different images."""
    files: list[tuple[Path, str, int | None]] = []
    for number in range(6):
        path = tmp_path / f"{number}.dcm"
        path.write_bytes(as_bytes(dataset(np.arange(90, dtype=np.uint16).reshape(9, 10) ** (number + 1))))
        files.append((path, f"image {number}", None))
    return files


def test_several_files_in_one_go_give_what_one_by_one_gives(
    pool: DecoderPool, several: list[tuple[Path, str, int | None]]
):
    for side in (32, 1024):  # the second fills a pipe many times over
        expected = [pool.read_squares([file], side=side)[0] for file in several]
        np.testing.assert_array_equal(pool.read_squares(several, side=side), expected)
    assert len(pool._idle) == 1
    assert len({square.tobytes() for square in expected}) == 6


def test_the_first_of_several_files_that_cannot_be_used_is_named(
    pool: DecoderPool, several: list[tuple[Path, str, int | None]]
):
    expected = pool.read_squares(several[:1], side=32)[0]
    for number in (2, 3, 5):
        several[number][0].write_bytes(b"none")
    with pytest.raises(NotDicomError, match=r"^Cannot use image 2: "):
        pool.read_squares(several, side=32)
    # No answer to a question that was already asked is left over.
    np.testing.assert_array_equal(pool.read_squares(several[:1], side=32)[0], expected)
    assert len(pool._idle) == 1


def test_a_worker_that_crashes_at_one_of_several_files_is_replaced(
    pool: DecoderPool, several: list[tuple[Path, str, int | None]]
):
    pool.read_squares(several, side=32)
    worker = pool._idle[0].pid
    os.kill(worker, signal.SIGSTOP)
    threading.Timer(0.2, os.kill, (worker, signal.SIGKILL)).start()
    with pytest.raises(DecodeError, match=r"^Cannot use image 0: .* but its decoder crashed; convert it"):
        pool.read_squares(several, side=32)
    assert len(pool.read_squares(several, side=32)) == 6
    assert pool._idle[0].pid != worker


def test_no_worker_outlives_its_program(write: Write):
    code = (
        "import sys; from pathlib import Path; from mediclip.data.pool import shared_pool;"
        "pool = shared_pool(); pool.read(Path(sys.argv[1]), name='x'); print(pool._idle[0].pid)"
    )
    ran = subprocess.run(
        [sys.executable, "-c", code, write(Modality="MR")], capture_output=True, text=True, check=True
    )
    with pytest.raises(ProcessLookupError):
        os.kill(int(ran.stdout), 0)
