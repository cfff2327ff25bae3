from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mediclip.data import formats
from mediclip.data.formats import FORMATS, RASTER, SUFFIXES, format_of, read_image, read_mask, read_shape
from mediclip.errors import ImageError, MaskError


@pytest.mark.parametrize("format_name", ["PNG", "JPEG"])
def test_files_go_to_their_reader_by_content_whatever_they_are_called(tmp_path: Path, format_name: str):
    path = tmp_path / "no-extension"
    Image.new("L", (20, 10), 177).save(path, format=format_name)
    assert format_of(path, name="image 0") is RASTER
    np.testing.assert_array_equal(read_image(path, name="image 0"), np.full((10, 20), 177))
    assert read_mask(path, name="image 0").all()
    assert read_shape(path, name="image 0") == (10, 20)


def test_each_signature_belongs_to_one_format():
    for head in (b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff\xe0"):
        assert sum(f.matches(head) for f in FORMATS) == 1
    assert not any(f.matches(head) for f in FORMATS for head in (b"", b"\x89PNG", b"\xff\xd8", b"DICM"))


def test_extensions_are_lower_case_and_start_with_a_dot():
    assert frozenset({".png", ".jpg", ".jpeg"}) == SUFFIXES
    assert all(suffix == suffix.lower() and suffix.startswith(".") for suffix in SUFFIXES)


@pytest.mark.parametrize(
    ("read", "error"), [(read_image, ImageError), (read_mask, MaskError), (read_shape, ImageError)]
)
def test_an_unknown_kind_of_file_is_told_what_is_accepted(tmp_path: Path, read: Callable, error: type):
    (tmp_path / "a.png").write_bytes(b"no image")
    with pytest.raises(error, match=r"^Cannot use image 3: it must be a PNG or JPEG image"):
        read(tmp_path / "a.png", name="image 3")
    with pytest.raises(error, match=r"^Cannot use image 3: it must exist, but its file is missing"):
        read(tmp_path / "b.png", name="image 3")


def test_a_signature_of_dicom_lies_within_the_bytes_that_are_looked_at():
    assert formats.HEAD_BYTES >= 132
