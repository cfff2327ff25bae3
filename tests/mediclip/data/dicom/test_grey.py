"""Every branch from stored values to grey, on pixels whose result was worked out by hand."""

from collections.abc import Callable
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
from numpy.testing import assert_allclose
from pydicom.sequence import Sequence

from mediclip.data.dicom import iter_frames, read_dicom, read_header
from mediclip.data.dicom.reader import read_stored
from mediclip.data.policies import PolicyName
from tests.mediclip.data.dicom.conftest import dataset, item

Write = Callable[..., Path]
NAME = "image 0"
EXACT = {"rtol": 0, "atol": 1e-6}


def lut(entries: list[int], first: int, bits: int) -> Sequence:
    """Make a table whose descriptor and data lie as most scanners write them."""
    made = item(LUTDescriptor=[len(entries), first, bits], LUTData=entries)
    made[0]["LUTDescriptor"].VR = "US" if first >= 0 else "SS"
    made[0]["LUTData"].VR = "US"
    return made


class TestStoredRange:
    def test_eight_bits_are_divided_by_255(self, write: Write):
        pixels = np.array([[0, 51], [102, 255]], dtype=np.uint8)
        assert_allclose(read_dicom(write(pixels), name=NAME), [[0, 0.2], [0.4, 1]], **EXACT)

    def test_an_odd_number_of_bytes_is_padded(self, write: Write):
        pixels = np.array([[0, 51, 255]], dtype=np.uint8)
        assert_allclose(read_dicom(write(pixels), name=NAME), [[0, 0.2, 1]], **EXACT)

    def test_twelve_of_sixteen_bits_are_divided_by_4095(self, write: Write):
        path = write(np.array([[0, 819, 4095]], dtype=np.uint16), BitsStored=12, Modality="DX")
        assert_allclose(read_dicom(path, name=NAME), [[0, 0.2, 1]], **EXACT)

    def test_signed_values_begin_at_the_least_one(self, write: Write):
        # Range of 12 signed bits: -2048 to 2047, so -2048 + 819 is a fifth of it.
        path = write(np.array([[-2048, -1229, 2047]], dtype=np.int16), BitsStored=12, Modality="CR")
        assert_allclose(read_dicom(path, name=NAME), [[0, 0.2, 1]], **EXACT)

    def test_what_lies_above_the_high_bit_is_no_part_of_a_value(self, write: Write):
        # An overlay in bit 15, and -1 in 12 bits as 0x0FFF.
        path = write(np.array([[0x8000, 0x8FFF, 0x0333]], dtype=np.uint16), BitsStored=12, Modality="DX")
        assert_allclose(read_dicom(path, name=NAME), [[0, 1, 0.2]], **EXACT)
        path = write(np.array([[0x0FFF, 0x0001]], dtype=np.uint16), BitsStored=12, PixelRepresentation=1)
        assert read_stored(path, name=NAME).tolist() == [[-1, 1]]

    def test_a_high_bit_above_moves_values_down(self, write: Write):
        path = write(np.array([[0x0000, 0x3330, 0xFFF0]], dtype=np.uint16), BitsStored=12, HighBit=15)
        assert read_stored(path, name=NAME).tolist() == [[0, 0x333, 0xFFF]]

    def test_monochrome1_is_turned_around(self, write: Write):
        pixels = np.array([[0, 51], [102, 255]], dtype=np.uint8)
        path = write(pixels, PhotometricInterpretation="MONOCHROME1")
        assert_allclose(read_dicom(path, name=NAME), [[1, 0.8], [0.6, 0]], **EXACT)

    def test_single_bits_come_lowest_first_and_frames_need_no_whole_bytes(self, write: Write):
        # Two frames of 1 x 3: 1 0 1 and 0 0 1, so 0b00100101 with the first pixel at the right.
        made = dataset(np.array([[1, 0, 1]], dtype=np.uint8), BitsAllocated=1, BitsStored=1, NumberOfFrames=2)
        made.PixelData = b"\x25\x00"
        path = write(made)
        assert [frame.tolist() for frame in iter_frames(path, name=NAME)] == [[[1, 0, 1]], [[0, 0, 1]]]


class TestWindows:
    PIXELS = np.array([[0, 50, 100, 150, 200]], dtype=np.uint16)

    def show(self, write: Write, **attributes: object) -> list[float]:
        path = write(self.PIXELS, Modality="CR", **attributes)
        return read_dicom(path, name=NAME)[0].tolist()

    def test_a_linear_window_has_its_half_pixel(self, write: Write):
        # C.11.2.1.2.1: (x - 99.5) / 100 + 0.5 for x in (49.5, 149.5].
        shown = self.show(write, WindowCenter=100, WindowWidth=101)
        assert_allclose(shown, [0, 0.005, 0.505, 1, 1], **EXACT)

    def test_an_exact_window_has_none(self, write: Write):
        shown = self.show(write, WindowCenter=100, WindowWidth=100, VOILUTFunction="LINEAR_EXACT")
        assert_allclose(shown, [0, 0, 0.5, 1, 1], **EXACT)

    def test_a_sigmoid_is_one(self, write: Write):
        shown = self.show(write, WindowCenter=100, WindowWidth=200, VOILUTFunction="SIGMOID")
        expected = [1 / (1 + np.e**2), 1 / (1 + np.e), 0.5, 1 / (1 + 1 / np.e), 1 / (1 + np.e**-2)]
        assert_allclose(shown, expected, **EXACT)

    def test_width_one_is_a_step(self, write: Write):
        assert self.show(write, WindowCenter=100, WindowWidth=1) == [0, 0, 1, 1, 1]

    def test_of_several_windows_the_first_counts(self, write: Write):
        shown = self.show(write, WindowCenter=[100, 40], WindowWidth=[101, 80])
        assert_allclose(shown, [0, 0.005, 0.505, 1, 1], **EXACT)

    @pytest.mark.parametrize(
        "window",
        [
            {},
            {"WindowCenter": "", "WindowWidth": ""},
            {"WindowCenter": 40},
            {"WindowCenter": 40, "WindowWidth": 0},
            {"WindowCenter": 40, "WindowWidth": -5},
        ],
    )
    def test_without_a_usable_window_there_is_the_stored_range(self, write: Write, window: dict):
        shown = self.show(write, BitsStored=8, **window)
        assert_allclose(shown, self.PIXELS[0] / 255, **EXACT)

    def test_a_window_counts_in_the_units_of_the_modality(self, write: Write):
        # 2 x - 100: -100, 0, 100, 200, 300.
        rescale = {"RescaleSlope": 2, "RescaleIntercept": -100, "RescaleType": "US"}
        shown = self.show(write, WindowCenter=100, WindowWidth=400, VOILUTFunction="LINEAR_EXACT", **rescale)
        assert_allclose(shown, [0, 0.25, 0.5, 0.75, 1], **EXACT)

    def test_a_negative_slope_turns_the_stored_range_around(self, write: Write):
        shown = self.show(write, BitsStored=8, RescaleSlope=-1, RescaleIntercept=255)
        assert_allclose(shown, 1 - self.PIXELS[0] / 255, **EXACT)

    def test_a_table_comes_before_a_window_and_holds_its_ends(self, write: Write):
        tables = lut([0, 51, 255], 50, 8)
        pixels = np.array([[0, 50, 51, 52, 200]], dtype=np.uint16)
        path = write(pixels, Modality="MG", VOILUTSequence=tables, WindowCenter=1, WindowWidth=1)
        assert_allclose(read_dicom(path, name=NAME), [[0, 0, 0.2, 1, 1]], **EXACT)

    def test_a_modality_table_gives_values_their_meaning(self, write: Write):
        pixels = np.array([[0, 1, 2]], dtype=np.uint16)
        path = write(pixels, Modality="CR", ModalityLUTSequence=lut([0, 819, 4095], 0, 12))
        assert_allclose(read_dicom(path, name=NAME), [[0, 0.2, 1]], **EXACT)

    def test_a_table_may_begin_below_zero(self, write: Write):
        pixels = np.array([[-2, -1, 0]], dtype=np.int16)
        path = write(pixels, Modality="DX", VOILUTSequence=lut([0, 51, 255], -2, 8))
        assert_allclose(read_dicom(path, name=NAME), [[0, 0.2, 1]], **EXACT)


class TestTomography:
    # Air, water, grey matter, bone, in Hounsfield units as stored minus 1024.
    PIXELS = np.array([[24, 1024, 1064, 2024]], dtype=np.uint16)
    UNITS: ClassVar = {"RescaleSlope": 1, "RescaleIntercept": -1024, "Modality": "CT"}

    @pytest.mark.parametrize(
        ("part", "expected"),
        [
            ("HEAD", [0, 0, 0.5, 1]),  # 0 to 80
            ("CHEST", [350 / 1500, 1350 / 1500, 1390 / 1500, 1]),  # -1350 to 150
            ("ABDOMEN", [0, 0.4, 0.5, 1]),  # -160 to 240
            ("KNEE", [0, 500 / 1800, 540 / 1800, 1500 / 1800]),  # -500 to 1300
            ("", [0, 0.4, 0.5, 1]),
        ],
    )
    def test_windows_are_fixed_by_body_part_whatever_the_header_says(
        self, write: Write, part: str, expected: list[float]
    ):
        path = write(self.PIXELS, **self.UNITS, BodyPartExamined=part, WindowCenter=3000, WindowWidth=9)
        assert_allclose(read_dicom(path, name=NAME)[0], expected, **EXACT)

    @pytest.mark.parametrize(
        "other", [{"RescaleIntercept": None, "RescaleSlope": None}, {"RescaleType": "US"}]
    )
    def test_what_is_not_in_hounsfield_units_is_shown_as_its_header_says(self, write: Write, other: dict):
        made = dataset(self.PIXELS, **self.UNITS, WindowCenter=1000, WindowWidth=2000)
        made.VOILUTFunction = "LINEAR_EXACT"
        for keyword, value in other.items():
            if value is None:
                delattr(made, keyword)
            else:
                setattr(made, keyword, value)
        shift = 0 if "RescaleIntercept" in other else 1024
        expected = np.clip((self.PIXELS[0] - float(shift)) / 2000, 0, 1)
        assert_allclose(read_dicom(write(made), name=NAME)[0], expected, **EXACT)


class TestPercentiles:
    def test_magnetic_resonance_goes_from_percentile_to_percentile_of_what_is_not_darkest(self, write: Write):
        # 100 zeros and 1 to 201: the 0.5th percentile of the latter is 2, the 99.5th is 200.
        pixels = np.concatenate([np.zeros(99), np.arange(202)]).astype(np.uint16).reshape(7, 43)
        shown = read_dicom(write(pixels, Modality="MR"), name=NAME)
        assert_allclose(shown, np.clip((pixels - 2.0) / 198, 0, 1), **EXACT)

    def test_the_foreground_of_monochrome1_is_what_is_not_lightest_as_stored(self, write: Write):
        pixels = np.concatenate([np.zeros(99), np.arange(202)]).astype(np.uint16).reshape(7, 43)
        upright = read_dicom(write(pixels, Modality="MR"), name=NAME)
        inverted = write(1000 - pixels, Modality="MR", PhotometricInterpretation="MONOCHROME1")
        assert_allclose(read_dicom(inverted, name=NAME), upright, **EXACT)

    def test_two_greys_are_black_and_white(self, write: Write):
        shown = read_dicom(write(np.array([[3, 3, 8]], dtype=np.uint16), Modality="MR"), name=NAME)
        assert shown.tolist() == [[0, 0, 1]]

    def test_header_windows_do_not_matter(self, write: Write):
        plain = read_dicom(write(Modality="MR"), name=NAME)
        windowed = read_dicom(write(Modality="MR", WindowCenter=3, WindowWidth=2), name=NAME)
        assert_allclose(windowed, plain, **EXACT)

    def test_any_other_modality_has_them_above_eight_bits(self, write: Write):
        mr, other = (read_dicom(write(Modality=modality), name=NAME) for modality in ("MR", "OPT"))
        assert_allclose(other, mr, **EXACT)


class TestChoices:
    PIXELS = np.array([[0, 819, 4095]], dtype=np.uint16)

    def show(self, write: Write, policy: PolicyName, **attributes: object) -> list[float]:
        path = write(self.PIXELS, BitsStored=12, Modality="MR", **attributes)
        return read_dicom(path, name=NAME, choices={"MR": policy})[0].tolist()

    def test_values_may_be_shown_as_they_are_stored(self, write: Write):
        shown = self.show(write, "stored-range", WindowCenter=100, WindowWidth=101)
        assert_allclose(shown, [0, 0.2, 1], **EXACT)

    def test_or_by_the_window_of_the_header_and_without_one_as_they_are_stored(self, write: Write):
        window = {"WindowCenter": 819, "WindowWidth": 1638, "VOILUTFunction": "LINEAR_EXACT"}
        assert_allclose(self.show(write, "header-voi", **window), [0, 0.5, 1], **EXACT)
        assert_allclose(self.show(write, "header-voi"), [0, 0.2, 1], **EXACT)

    def test_or_by_a_window_of_tomography(self, write: Write):
        # Head: 0 to 80 Hounsfield units.
        units = {"RescaleSlope": 1, "RescaleIntercept": -779, "BodyPartExamined": "HEAD"}
        assert_allclose(self.show(write, "ct-window", **units), [0, 0.5, 1], **EXACT)

    def test_a_choice_is_for_its_modality_alone(self, write: Write):
        path = write(self.PIXELS, BitsStored=12, Modality="NM")
        plain = read_dicom(path, name=NAME)
        assert_allclose(read_dicom(path, name=NAME, choices={"MR": "stored-range"}), plain, **EXACT)


class TestPadding:
    def test_padding_is_black_and_counts_for_nothing(self, write: Write):
        pixels = np.array([[-2000, -2000, 1, 2, 3, 4, 5]], dtype=np.int16)
        shown = read_dicom(write(pixels, Modality="MR", PixelPaddingValue=-2000), name=NAME)
        # Above the darkest, 1, there is 2 to 5: percentiles 2.015 and 4.985.
        assert_allclose(shown[0], [0, 0, 0, 0, 0.985 / 2.97, 1.985 / 2.97, 1], **EXACT)

    def test_padding_of_monochrome1_is_black_too(self, write: Write):
        pixels = np.array([[0, 51, 255]], dtype=np.uint8)
        path = write(pixels, PixelPaddingValue=0, PhotometricInterpretation="MONOCHROME1")
        assert_allclose(read_dicom(path, name=NAME), [[0, 0.8, 0]], **EXACT)

    @pytest.mark.parametrize("ends", [(250, 255), (255, 250)])
    def test_a_range_of_padding_counts_as_such(self, write: Write, ends: tuple[int, int]):
        pixels = np.array([[0, 51, 249, 250, 252, 255]], dtype=np.uint8)
        path = write(pixels, PixelPaddingValue=ends[0], PixelPaddingRangeLimit=ends[1])
        assert_allclose(read_dicom(path, name=NAME), [[0, 0.2, 249 / 255, 0, 0, 0]], **EXACT)

    def test_padding_written_without_its_sign_is_understood(self, write: Write):
        made = dataset(np.array([[-2000, 0, 32767]], dtype=np.int16), Modality="DX")
        made.add_new("PixelPaddingValue", "US", 65536 - 2000)
        assert read_dicom(write(made), name=NAME)[0, 0] == 0


class TestFloats:
    @pytest.mark.parametrize(("keyword", "dtype"), [("FloatPixelData", "f4"), ("DoubleFloatPixelData", "f8")])
    def test_numbers_that_are_none_are_black(self, write: Write, keyword: str, dtype: str):
        pixels = np.array([[np.nan, np.inf, 0, 1, 2, 3, 4, 5]], dtype=dtype)
        made = dataset(np.zeros((1, 8), dtype=np.uint16), Modality="MR")
        for gone in ("PixelData", "BitsStored", "HighBit", "PixelRepresentation"):
            delattr(made, gone)
        made.BitsAllocated = 8 * pixels.dtype.itemsize
        setattr(made, keyword, pixels.tobytes())
        # Above the darkest, 0, there is 1 to 5: percentiles 1.02 and 4.98.
        expected = [0, 0, 0, 0, 0.98 / 3.96, 1.98 / 3.96, 2.98 / 3.96, 1]
        assert_allclose(read_dicom(write(made), name=NAME)[0], expected, **EXACT)
        assert read_header(write(made), name=NAME).floating
