"""Pictures beside those of DCMTK, which shares no code with pydicom: the same greys to the last of 8 bits."""

import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pydicom
import pytest
from numpy.typing import NDArray
from PIL import Image

from mediclip.data.dicom import read_dicom
from tests.mediclip.data.dicom.conftest import dataset

ROOT = Path(pydicom.__file__).parent / "data/test_files"
# dcm2pnm cuts to whole greys, by way of a table whose entries are cut too.
TOLERANCE = 1.25 / 255


def rendered(path: Path, folder: Path, *options: str) -> NDArray[np.float64]:
    """Let dcm2pnm draw a file."""
    out = folder / "rendered.pnm"
    subprocess.run(["dcm2pnm", "-q", *options, path, out], check=True)
    return np.asarray(Image.open(out).convert("L")) / 255


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("CT_small.dcm", ["+Ww", "40", "400"]),
        ("dicomdirtests/98892003/MR1/4919", []),
        ("dicomdirtests/77654033/CR1/6154", ["+Wi", "1"]),
        ("SC_rgb_small_odd.dcm", []),
        ("SC_rgb_small_odd_big_endian.dcm", []),
        ("SC_rgb_rle.dcm", []),
        ("SC_rgb_rle_2frame.dcm", []),
        ("image_dfl.dcm", []),
        ("examples_rgb_color.dcm", []),
        ("MR_small.dcm", None),
        ("MR_small_RLE.dcm", None),
        ("MR_small_bigendian.dcm", None),
        ("MR_small_implicit.dcm", None),
    ],
)
def test_pictures_are_those_of_dcm2pnm(tmp_path: Path, name: str, options: list[str] | None):
    image = read_dicom(ROOT / name, name="image 0")
    if options is None or "MR1" in name:  # the window that the percentiles of MR amount to
        header = pydicom.dcmread(ROOT / name)
        values = header.pixel_array.astype(float)
        low, high = np.percentile(values[values > values.min()], [0.5, 99.5])
        # In dcm2pnm as in the standard, a window ends half a grey before its nominal edge.
        options = ["+Ww", f"{(low + high + 1) / 2}", f"{high - low + 1}"]
    np.testing.assert_allclose(image, rendered(ROOT / name, tmp_path, *options), atol=TOLERANCE)


@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
@pytest.mark.parametrize("function", ["LINEAR", "SIGMOID"])
@pytest.mark.parametrize("kind", [np.int16, np.uint16])
def test_windows_are_those_of_dcm2pnm(
    tmp_path: Path, write: Callable[..., Path], photometric: str, function: str, kind: type
):
    signed = kind is np.int16
    pixels = np.arange(-2000, 2096).reshape(64, 64) + (0 if signed else 2000)
    made = dataset(
        pixels.astype(kind),
        Modality="CR",
        PhotometricInterpretation=photometric,
        BitsStored=12 if not signed else 16,
        RescaleSlope=1.5,
        RescaleIntercept=-300,
        RescaleType="US",
        WindowCenter=500,
        WindowWidth=1700,
        VOILUTFunction=function,
    )
    path = write(made)
    np.testing.assert_allclose(
        read_dicom(path, name="image 0"), rendered(path, tmp_path, "+Wi", "1"), atol=TOLERANCE
    )
