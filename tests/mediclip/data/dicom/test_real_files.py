"""Every file with pixels of pydicom's test data and of the shared ones: what it gives, or why it is refused.

The means were computed once with ``reference.py``: pydicom's own decoding and plain NumPy.
"""

from contextlib import suppress
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom import dcmread

from mediclip.data.dicom import iter_frames, read_dicom, read_header
from mediclip.errors import (
    DecodeError,
    DecoderMissingError,
    DegenerateImageError,
    ImageError,
    InvalidHeaderError,
    TruncatedError,
)
from tests.mediclip.data.dicom.reference import reference

CHEST = "1.2.276.0.7230010.3.1.4.8323329.6904.1517875201.850819.dcm"
ROOT = Path(pydicom.__file__).parent / "data"
# File below pydicom's data folder: frames, height, width and mean; or the class of the error.
TABLE: dict[str, tuple[int, int, int, float] | type[ImageError]] = {
    "charset_files/chrArab.dcm": (1, 32, 32, 0.5429),
    "charset_files/chrFren.dcm": (1, 32, 32, 0.5429),
    "charset_files/chrFrenMulti.dcm": (1, 32, 32, 0.5429),
    "charset_files/chrGerm.dcm": (1, 32, 32, 0.5429),
    "charset_files/chrGreek.dcm": (1, 32, 32, 0.5429),
    "charset_files/chrH31.dcm": (1, 32, 32, 0.5429),
    "charset_files/chrH32.dcm": (1, 32, 32, 0.5429),
    "charset_files/chrHbrw.dcm": (1, 32, 32, 0.5429),
    "charset_files/chrI2.dcm": (1, 32, 32, 0.5429),
    "charset_files/chrRuss.dcm": (1, 32, 32, 0.5429),
    "charset_files/chrX1.dcm": (1, 32, 32, 0.5429),
    "charset_files/chrX2.dcm": (1, 32, 32, 0.5429),
    "test_files/693_J2KI.dcm": (1, 512, 512, 0.1851),
    "test_files/CT_small.dcm": (1, 128, 128, 0.3973),
    "test_files/ExplVR_BigEnd.dcm": (1, 60, 80, 0.8723),
    "test_files/GDCMJ2K_TextGBR.dcm": (1, 400, 400, 0.4903),
    "test_files/J2K_pixelrep_mismatch.dcm": (1, 512, 512, 0.2429),
    "test_files/JPEG-lossy.dcm": DecoderMissingError,
    "test_files/JPEG2000-embedded-sequence-delimiter.dcm": DecodeError,
    "test_files/JPEG2000.dcm": (1, 1024, 256, 0.1939),
    "test_files/JPEGLSNearLossless_08.dcm": (1, 45, 10, 0.2179),
    "test_files/JPEGLSNearLossless_16.dcm": (1, 50, 10, 0.1833),
    "test_files/JPGExtended.dcm": DecoderMissingError,
    "test_files/MR_small.dcm": (1, 64, 64, 0.2187),
    "test_files/MR_small_RLE.dcm": (1, 64, 64, 0.2187),
    "test_files/MR_small_bigendian.dcm": (1, 64, 64, 0.2187),
    "test_files/MR_small_expb.dcm": (1, 64, 64, 0.2187),
    "test_files/MR_small_implicit.dcm": (1, 64, 64, 0.2187),
    "test_files/MR_small_jp2klossless.dcm": (1, 64, 64, 0.2187),
    "test_files/MR_small_jpeg_ls_lossless.dcm": (1, 64, 64, 0.2187),
    "test_files/MR_small_padded.dcm": (1, 64, 64, 0.2187),
    "test_files/MR_truncated.dcm": TruncatedError,
    "test_files/SC_jpeg_no_color_transform.dcm": (1, 256, 256, 0.9568),
    "test_files/SC_jpeg_no_color_transform_2.dcm": (1, 256, 256, 0.9630),
    "test_files/SC_rgb_dcmtk_+eb+cr.dcm": (1, 100, 100, 0.5009),
    "test_files/SC_rgb_dcmtk_+eb+cy+n1.dcm": (1, 100, 100, 0.5005),
    "test_files/SC_rgb_dcmtk_+eb+cy+n2.dcm": (1, 100, 100, 0.5008),
    "test_files/SC_rgb_dcmtk_+eb+cy+np.dcm": (1, 100, 100, 0.5005),
    "test_files/SC_rgb_dcmtk_+eb+cy+s2.dcm": (1, 100, 100, 0.5008),
    "test_files/SC_rgb_dcmtk_+eb+cy+s4.dcm": (1, 100, 100, 0.5008),
    "test_files/SC_rgb_gdcm_KY.dcm": (1, 100, 100, 0.5008),
    "test_files/SC_rgb_jls_lossy_line.dcm": (1, 100, 100, 0.5020),
    "test_files/SC_rgb_jls_lossy_sample.dcm": (1, 100, 100, 0.5020),
    "test_files/SC_rgb_jpeg.dcm": (1, 256, 256, 0.9568),
    "test_files/SC_rgb_jpeg_app14_dcmd.dcm": (1, 256, 256, 0.9630),
    "test_files/SC_rgb_jpeg_dcmd.dcm": (1, 256, 256, 0.9568),
    "test_files/SC_rgb_jpeg_dcmtk.dcm": (1, 100, 100, 0.5008),
    "test_files/SC_rgb_jpeg_gdcm.dcm": (1, 100, 100, 0.5008),
    "test_files/SC_rgb_jpeg_lossy_gdcm.dcm": (1, 100, 100, 0.5001),
    "test_files/SC_rgb_rle.dcm": (1, 100, 100, 0.5008),
    "test_files/SC_rgb_rle_16bit.dcm": (1, 100, 100, 0.5008),
    "test_files/SC_rgb_rle_16bit_2frame.dcm": (2, 100, 100, 0.5008),
    "test_files/SC_rgb_rle_2frame.dcm": (2, 100, 100, 0.5008),
    "test_files/SC_rgb_rle_32bit.dcm": (1, 100, 100, 0.5008),
    "test_files/SC_rgb_rle_32bit_2frame.dcm": (2, 100, 100, 0.5008),
    "test_files/SC_rgb_small_odd.dcm": (1, 3, 3, 0.5050),
    "test_files/SC_rgb_small_odd_big_endian.dcm": (1, 3, 3, 0.5050),
    "test_files/SC_rgb_small_odd_jpeg.dcm": (1, 3, 3, 0.5047),
    "test_files/SC_ybr_full_422_uncompressed.dcm": (1, 100, 100, 0.5008),
    "test_files/badVR.dcm": InvalidHeaderError,
    "test_files/dicomdirtests/77654033/CR1/6154": (1, 16, 16, 0.3833),
    "test_files/dicomdirtests/77654033/CR2/6247": (1, 16, 16, 0.6182),
    "test_files/dicomdirtests/77654033/CR3/6278": (1, 16, 16, 0.4147),
    "test_files/dicomdirtests/77654033/CT2/17106": (1, 16, 16, 0.0351),
    "test_files/dicomdirtests/77654033/CT2/17136": (1, 16, 16, 0.9997),
    "test_files/dicomdirtests/77654033/CT2/17166": DegenerateImageError,
    "test_files/dicomdirtests/77654033/CT2/17196": DegenerateImageError,
    "test_files/dicomdirtests/98892001/CT2N/6293": (1, 16, 16, 0.9993),
    "test_files/dicomdirtests/98892001/CT2N/6924": (1, 16, 16, 0.7016),
    "test_files/dicomdirtests/98892001/CT5N/2062": (1, 16, 16, 0.1729),
    "test_files/dicomdirtests/98892001/CT5N/2392": (1, 16, 16, 0.2612),
    "test_files/dicomdirtests/98892001/CT5N/2693": (1, 16, 16, 0.3453),
    "test_files/dicomdirtests/98892001/CT5N/3023": (1, 16, 16, 0.3053),
    "test_files/dicomdirtests/98892001/CT5N/3353": (1, 16, 16, 0.2282),
    "test_files/dicomdirtests/98892003/MR1/15820": (1, 16, 16, 0.5128),
    "test_files/dicomdirtests/98892003/MR1/4919": (1, 16, 16, 0.7276),
    "test_files/dicomdirtests/98892003/MR1/5641": (1, 16, 16, 0.6414),
    "test_files/dicomdirtests/98892003/MR2/15970": (1, 16, 16, 0.5797),
    "test_files/dicomdirtests/98892003/MR2/4950": (1, 16, 16, 0.7508),
    "test_files/dicomdirtests/98892003/MR2/4981": (1, 16, 16, 0.7784),
    "test_files/dicomdirtests/98892003/MR2/5011": (1, 16, 16, 0.5769),
    "test_files/dicomdirtests/98892003/MR2/6273": (1, 16, 16, 0.7565),
    "test_files/dicomdirtests/98892003/MR2/6605": (1, 16, 16, 0.5916),
    "test_files/dicomdirtests/98892003/MR2/6935": (1, 16, 16, 0.5623),
    "test_files/dicomdirtests/98892003/MR700/4467": (1, 16, 16, 0.4106),
    "test_files/dicomdirtests/98892003/MR700/4528": (1, 16, 16, 0.1189),
    "test_files/dicomdirtests/98892003/MR700/4558": (1, 16, 16, 0.3412),
    "test_files/dicomdirtests/98892003/MR700/4588": (1, 16, 16, 0.2641),
    "test_files/dicomdirtests/98892003/MR700/4618": (1, 16, 16, 0.5528),
    "test_files/dicomdirtests/98892003/MR700/4648": (1, 16, 16, 0.1949),
    "test_files/dicomdirtests/98892003/MR700/4678": (1, 16, 16, 0.2795),
    "test_files/examples_jpeg2k.dcm": (1, 480, 640, 0.1396),
    "test_files/examples_overlay.dcm": (1, 300, 484, 0.2490),
    "test_files/examples_palette.dcm": (1, 290, 680, 0.0358),
    "test_files/examples_rgb_color.dcm": (1, 240, 320, 0.1386),
    "test_files/examples_ybr_color.dcm": (30, 209, 236, 0.0513),
    "test_files/image_dfl.dcm": (1, 512, 512, 0.4985),
    "test_files/liver_1frame.dcm": (1, 512, 512, 0.1382),
    "test_files/liver_expb_1frame.dcm": (1, 512, 512, 0.1382),
    "test_files/meta_missing_tsyntax.dcm": InvalidHeaderError,
    "test_files/nested_priv_SQ.dcm": InvalidHeaderError,
    "test_files/rtdose.dcm": (15, 10, 10, 0.4733),
    "test_files/rtdose_1frame.dcm": (1, 10, 10, 0.4733),
    "test_files/rtdose_expb.dcm": (15, 10, 10, 0.4733),
    "test_files/rtdose_expb_1frame.dcm": (1, 10, 10, 0.4733),
    "test_files/rtdose_rle.dcm": (15, 10, 10, 0.4733),
    "test_files/rtdose_rle_1frame.dcm": (1, 10, 10, 0.4733),
}
SHARED: dict[str, tuple[int, int, int, float]] = {
    "brain_t1/N2D_0097.dcm": (1, 384, 274, 0.0957),
    "brain_t1/N2D_0105.dcm": (1, 384, 274, 0.0993),
    "brain_t1/N2D_0113.dcm": (1, 384, 274, 0.1019),
    "brain_t1/N2D_0121.dcm": (1, 384, 274, 0.1195),
    "brain_t1/N2D_0129.dcm": (1, 384, 274, 0.1242),
    "brain_t1/N2D_0137.dcm": (1, 384, 274, 0.1280),
    "brain_t1/N2D_0145.dcm": (1, 384, 274, 0.1443),
    "brain_t1/N2D_0153.dcm": (1, 384, 274, 0.1422),
    "brain_t1/N2D_0161.dcm": (1, 384, 274, 0.1385),
    "brain_t1/N2D_0169.dcm": (1, 384, 274, 0.1310),
    "brain_t1/N2D_0177.dcm": (1, 384, 274, 0.1440),
    "brain_t1/N2D_0185.dcm": (1, 384, 274, 0.1647),
    "brain_t1/N2D_0193.dcm": (1, 384, 274, 0.1923),
    "brain_t1/N2D_0201.dcm": (1, 384, 274, 0.2093),
    "brain_t1/N2D_0209.dcm": (1, 384, 274, 0.2177),
    "brain_t1/N2D_0217.dcm": (1, 384, 274, 0.2419),
    "brain_t1/N2D_0225.dcm": (1, 384, 274, 0.2481),
    "brain_t1/N2D_0233.dcm": (1, 384, 274, 0.2654),
    "brain_t1/N2D_0241.dcm": (1, 384, 274, 0.2746),
    "brain_t1/N2D_0249.dcm": (1, 384, 274, 0.2767),
    "brain_t1/N2D_0257.dcm": (1, 384, 274, 0.2738),
    "brain_t1/N2D_0265.dcm": (1, 384, 274, 0.2794),
    "brain_t1/N2D_0273.dcm": (1, 384, 274, 0.2784),
    "brain_t1/N2D_0281.dcm": (1, 384, 274, 0.2632),
    "mixed/highdicom/dx_image.dcm": (1, 169, 211, 0.3497),
    "mixed/pydicom/CT_small.dcm": (1, 128, 128, 0.3973),
    "mixed/pydicom/MR_small.dcm": (1, 64, 64, 0.2187),
    "mixed/pydicom/examples_jpeg2k.dcm": (1, 480, 640, 0.1396),
    "mixed/pydicom/examples_overlay.dcm": (1, 300, 484, 0.2490),
    "mixed/pydicom-data/MR2_J2KI.dcm": (1, 1024, 1024, 0.1552),
    "mixed/pydicom-data/MR2_UNCR.dcm": (1, 1024, 1024, 0.1545),
    "mixed/pydicom-data/RG1_J2KI.dcm": (1, 1955, 1841, 0.7536),
    "mixed/pydicom-data/RG3_J2KI.dcm": (1, 1760, 1760, 0.6961),
    "mixed/pydicom-data/RG3_J2KR.dcm": (1, 1760, 1760, 0.6961),
    "mixed/pydicom-data/US1_J2KR.dcm": (1, 480, 640, 0.1396),
    "mixed/pydicom-data/US1_UNCR.dcm": (1, 480, 640, 0.1396),
    "mixed/pydicom-data/emri_small.dcm": (10, 64, 64, 0.3932),
    f"mixed/torchxrayvision/{CHEST}": (
        1,
        1024,
        1024,
        0.6290,
    ),
    "mixed/torchxrayvision/Fake_MONOHR1.dcm": (1, 1024, 1024, 0.3710),
}
# By hand from dcmdump: RegionLocationMinY0, MinX0, and the sizes up to MaxY1 and MaxX1, clamped to the frame.
BOXES: dict[str, tuple[int, int, int, int]] = {
    "examples_palette.dcm": (60, 120, 290, 680),
    "examples_ybr_color.dcm": (31, 84, 209, 236),
}
# Decoders other than the chosen one round chroma otherwise.
TOLERANCE = 2 / 255
PIXELS = {"PixelData", "FloatPixelData", "DoubleFloatPixelData"}


def check(path: Path, expected: tuple[int, int, int, float]) -> None:
    """Hold a file against its line of the table and against the reference."""
    frames, height, width, mean = expected
    header = read_header(path, name="image 0")
    image = read_dicom(path, name="image 0")
    assert header.frames == frames
    assert image.shape == (height, width)
    assert image.dtype == np.float32
    assert image.mean() == pytest.approx(mean, abs=1e-3)
    top, left, rows, columns = BOXES.get(path.name, (0, 0, header.rows, header.columns))
    np.testing.assert_allclose(
        image, reference(path)[top : top + rows, left : left + columns], atol=TOLERANCE
    )


@pytest.mark.parametrize("name", TABLE)
def test_each_real_file_is_decoded_or_refused_for_its_own_reason(name: str):
    expected = TABLE[name]
    if isinstance(expected, tuple):
        check(ROOT / name, expected)
    else:
        with pytest.raises(ImageError) as caught:
            read_dicom(ROOT / name, name="image 0")
        assert type(caught.value) is expected


@pytest.mark.shared
@pytest.mark.parametrize("name", SHARED)
def test_each_shared_file_is_decoded(shared: Path, name: str):
    check(shared / "data/dicom" / name, SHARED[name])


@pytest.mark.shared
def test_no_shared_file_is_forgotten(shared: Path):
    root = shared / "data/dicom"
    assert {path.relative_to(root).as_posix() for path in root.rglob("*.dcm")} == SHARED.keys()


@pytest.mark.filterwarnings("ignore")
def test_no_file_with_pixels_is_forgotten():
    """Any file of which pydicom says that it has pixels is in the table; what it cannot read is not."""
    with_pixels = set()
    for path in ROOT.rglob("*"):
        if path.is_file() and path.suffix not in {".py", ".pyc"}:
            with suppress(Exception):
                if PIXELS & {element.keyword for element in dcmread(path, force=True)}:
                    with_pixels.add(path.relative_to(ROOT).as_posix())
    assert with_pixels == TABLE.keys()


@pytest.mark.parametrize(
    ("name", "first", "last"),
    [
        ("test_files/rtdose.dcm", 0, 14),
        ("test_files/rtdose_rle.dcm", 0, 14),
        ("test_files/SC_rgb_rle_2frame.dcm", 0, 1),
        ("test_files/SC_rgb_rle_16bit_2frame.dcm", 0, 1),
        ("test_files/SC_rgb_rle_32bit_2frame.dcm", 0, 1),
        ("test_files/examples_ybr_color.dcm", 0, 29),
    ],
)
def test_frames_come_one_by_one_and_are_those_asked_for(name: str, first: int, last: int):
    path = ROOT / name
    frames = list(iter_frames(path, name="image 0"))
    assert len(frames) == last + 1
    top, left, rows, columns = BOXES.get(path.name, (0, 0, *frames[0].shape))
    for at in (first, last):
        np.testing.assert_array_equal(frames[at], read_dicom(path, name="image 0", frame=at))
        whole = reference(path, at)[top : top + rows, left : left + columns]
        np.testing.assert_allclose(frames[at], whole, atol=TOLERANCE)


def test_the_ways_to_store_one_image_give_one_picture():
    ways = "", "_RLE", "_bigendian", "_expb", "_implicit", "_jp2klossless", "_jpeg_ls_lossless", "_padded"
    pictures = [read_dicom(ROOT / f"test_files/MR_small{way}.dcm", name="image 0") for way in ways]
    for picture in pictures[1:]:
        np.testing.assert_array_equal(picture, pictures[0])
