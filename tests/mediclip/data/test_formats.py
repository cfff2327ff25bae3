import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pydicom.data import get_testdata_file

from mediclip.data import formats
from mediclip.data.formats import (
    DICOM,
    FORMATS,
    RASTER,
    SUFFIXES,
    format_of,
    read_image,
    read_mask,
    read_shape,
)
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
    heads = {
        b"\x89PNG\r\n\x1a\n": "",
        b"\xff\xd8\xff\xe0": "",
        b"II*\0": "",
        b"MM\0*": "",
        bytes(128) + b"DICM": "",
        b"\x08\x00\x05\x00CS": "",
        b"\x00\x08\x00\x05CS": ".dcm",
        b"anything": ".dcm",
        bytes(344) + b"n+1\0": ".nii",
        b"\x5c\x01\0\0n+2\0": ".nii",
        b"\x1f\x8b": ".nii.gz",
    }
    for head, suffix in heads.items():
        assert sum(f.matches(head, suffix) for f in FORMATS) == 1, head
    for head in (b"", b"\x89PNG", b"\xff\xd8", b"DICM", b"\x1f\x8b"):
        assert not any(f.matches(head, "") for f in FORMATS)
    assert not any(f.matches(b"\x08\x00\x05\x00CS", ".txt") for f in FORMATS)


def test_extensions_are_lower_case_and_start_with_a_dot():
    assert (
        frozenset({".png", ".jpg", ".jpeg", ".tif", ".tiff", ".dcm", ".dicom", ".nii", ".nii.gz"}) == SUFFIXES
    )
    assert all(suffix == suffix.lower() and suffix.startswith(".") for suffix in SUFFIXES)


@pytest.mark.parametrize(
    ("read", "error"), [(read_image, ImageError), (read_mask, MaskError), (read_shape, ImageError)]
)
def test_an_unknown_kind_of_file_is_told_what_is_accepted(tmp_path: Path, read: Callable, error: type):
    (tmp_path / "a.png").write_bytes(b"no image")
    with pytest.raises(
        error, match=r"^Cannot use image 3: it must be a PNG, JPEG, TIFF, DICOM or NIfTI image"
    ):
        read(tmp_path / "a.png", name="image 3")
    with pytest.raises(error, match=r"^Cannot use image 3: it must exist, but its file is missing"):
        read(tmp_path / "b.png", name="image 3")


def test_a_signature_of_dicom_lies_within_the_bytes_that_are_looked_at():
    assert formats.HEAD_BYTES >= 132


def test_the_readers_of_medical_formats_are_imported_when_a_file_needs_them():
    code = "import sys, mediclip.data.formats; sys.exit('pydicom' in sys.modules or 'nibabel' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize("name", ["CT_small.dcm", "MR_small.dcm"])
def test_a_dicom_file_whose_preamble_is_a_tiff_header_is_dicom(name: str):
    path = Path(get_testdata_file(name, download=False))
    head = path.read_bytes()[:132]
    assert head.startswith(b"II*\0")
    assert head.endswith(b"DICM")
    assert format_of(path, name="image 0") is DICOM
    assert read_image(path, name="image 0").shape == read_shape(path, name="image 0")
