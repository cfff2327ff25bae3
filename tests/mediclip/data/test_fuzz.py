"""A slice of ``tests/fuzz_images.py``, of which a run of 20,000 inputs takes some minutes."""

from pathlib import Path

from mediclip.data.pool import DecoderPool
from tests.fuzz_images import fuzz


def test_damaged_real_files_give_a_picture_or_one_sentence(tmp_path: Path):
    pool = DecoderPool(workers=1, time_limit_s=5)
    counts = fuzz(900, 7, tmp_path, pool)
    pool.close()
    assert [found.total() for found in counts.values()] == [150] * 6
    for found in counts.values():
        assert found["read"] > 15
        assert len(found) >= 3
