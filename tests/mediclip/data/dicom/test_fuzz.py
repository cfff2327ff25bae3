"""A slice of ``tests/fuzz_dicom.py``, of which a run of 20,000 inputs takes some minutes."""

from pathlib import Path

from mediclip.data.dicom.pool import DecoderPool
from tests.fuzz_dicom import fuzz


def test_damaged_real_files_give_a_picture_or_one_sentence(tmp_path: Path):
    pool = DecoderPool(workers=1, time_limit_s=5)
    counts = fuzz(600, 7, tmp_path, pool=pool)
    pool.close()
    assert counts.total() == 600
    assert counts["read"] > 100
    assert len(counts) >= 6
