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

import numpy as np
import pytest

from mediclip.data.dicom import read_dicom
from mediclip.data.dicom.pool import DecoderPool
from mediclip.data.preprocess import Preprocess, load_images
from mediclip.data.samples import Sample
from mediclip.errors import DecodeError, InvalidHeaderError, NotDicomError, SettingsError

Write = Callable[..., Path]


@pytest.fixture
def pool() -> Iterator[DecoderPool]:
    made = DecoderPool(workers=1)
    yield made
    made.close()


def test_pictures_are_the_same_and_one_process_serves_many_files(pool: DecoderPool, write: Write):
    path = write(Modality="MR")
    for _ in range(3):
        np.testing.assert_array_equal(pool.read(path, name="image 0"), read_dicom(path, name="image 0"))
    assert len(pool._idle) == 1


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


def test_a_worker_has_a_limit_of_memory_and_leaves_no_core_file(pool: DecoderPool, write: Write):
    pool.read(write(Modality="MR"), name="image 0")
    limits = Path(f"/proc/{pool._idle[0]._process.pid}/limits").read_text()
    rows = {line[:26].strip(): line[26:].split()[0] for line in limits.splitlines()}
    assert int(rows["Max address space"]) == 3 * 2**30
    assert rows["Max core file size"] == "0"


def test_threads_share_a_pool(write: Write):
    pool = DecoderPool(workers=2)
    path = write(Modality="MR")
    expected = read_dicom(path, name="image 0")
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


def test_no_worker_outlives_its_program(write: Write):
    code = (
        "import sys; from pathlib import Path; from mediclip.data.dicom.pool import shared_pool;"
        "pool = shared_pool(); pool.read(Path(sys.argv[1]), name='x'); print(pool._idle[0]._process.pid)"
    )
    ran = subprocess.run(
        [sys.executable, "-c", code, write(Modality="MR")], capture_output=True, text=True, check=True
    )
    with pytest.raises(ProcessLookupError):
        os.kill(int(ran.stdout), 0)
