"""Every branch from stored values to grey, on pixels whose result was worked out by hand."""

from collections.abc import Callable
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
from numpy.testing import assert_allclose
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate
from pydicom.sequence import Sequence
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ImplicitVRLittleEndian,
    RLELossless,
)

from mediclip.data.dicom import iter_frames, read_dicom, read_header
from mediclip.data.dicom.reader import read_stored
from mediclip.data.policies import PolicyName
from mediclip.errors import DecodeError, SettingsError
from tests.mediclip.data.dicom.conftest import GREY, as_bytes, dataset

Write = Callable[..., Path]
NAME = "image 0"
EXACT = {"rtol": 0, "atol": 1e-6}


def item(**attributes: object) -> Sequence:
    made = Dataset()
    for keyword, value in attributes.items():
        setattr(made, keyword, value)
    return Sequence([made])


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


class TestColour:
    RGB = np.array([[[255, 0, 0], [0, 255, 0], [0, 0, 255]]], dtype=np.uint8)
    # BT.601 in whole numbers: 76, 150 and 29.
    LUMA = np.array([[76, 150, 29]]) / 255

    def test_colour_becomes_luma(self, write: Write):
        assert_allclose(read_dicom(write(self.RGB), name=NAME), self.LUMA, **EXACT)

    def test_planes_are_put_together(self, write: Write):
        made = dataset(self.RGB, PlanarConfiguration=1)
        made.PixelData = np.moveaxis(self.RGB, 2, 0).tobytes() + b"\0"
        assert_allclose(read_dicom(write(made), name=NAME), self.LUMA, **EXACT)

    def test_sixteen_bits_are_divided_by_their_range(self, write: Write):
        path = write(self.RGB.astype(np.uint16) * 257)
        assert_allclose(read_dicom(path, name=NAME), [[0.299, 0.587, 0.114]], **EXACT)

    def test_of_luma_and_chroma_the_luma_is_taken(self, write: Write):
        path = write(self.RGB, PhotometricInterpretation="YBR_FULL")
        assert_allclose(read_dicom(path, name=NAME), [[1, 0, 0]], **EXACT)

    def test_halved_chroma_is_read_past(self, write: Write):
        # Y1 Y2 Cb Cr for each two pixels: 4 bytes instead of 6.
        made = dataset(np.zeros((1, 4, 3), dtype=np.uint8), PhotometricInterpretation="YBR_FULL_422")
        made.PixelData = bytes([0, 51, 9, 9, 102, 255, 9, 9])
        assert_allclose(read_dicom(write(made), name=NAME), [[0, 0.2, 0.4, 1]], **EXACT)

    @pytest.mark.parametrize("bits", [8, 16])
    def test_a_palette_is_looked_up_from_its_first_value(self, write: Write, bits: int):
        made = dataset(np.array([[0, 10, 11, 12, 200]], dtype=np.uint8))
        made.PhotometricInterpretation = "PALETTE COLOR"
        factor = 257 if bits == 16 else 1
        for colour in ("Red", "Green", "Blue"):
            setattr(made, f"{colour}PaletteColorLookupTableDescriptor", [3, 10, bits])
            entries = np.array([0, 51, 255], dtype="<u2") * factor
            setattr(made, f"{colour}PaletteColorLookupTableData", entries.astype("<u2").tobytes())
        assert_allclose(read_dicom(write(made), name=NAME), [[0, 0, 0.2, 1, 1]], **EXACT)

    def test_a_segmented_palette_is_expanded(self, write: Write):
        # Discrete: 0, 10; linear over 4 to 50; the linear one once more, from 50 to 50.
        made = dataset(np.array([[0, 1, 2, 3, 4, 5, 9]], dtype=np.uint8))
        made.PhotometricInterpretation = "PALETTE COLOR"
        words = np.array([0, 2, 0, 10, 1, 4, 50, 2, 1, 4, 0], dtype="<u2")
        for colour in ("Red", "Green", "Blue"):
            setattr(made, f"{colour}PaletteColorLookupTableDescriptor", [10, 0, 8])
            setattr(made, f"Segmented{colour}PaletteColorLookupTableData", words.tobytes())
        expected = np.array([[0, 10, 20, 30, 40, 50, 50]]) / 255
        assert_allclose(read_dicom(write(made), name=NAME), expected, **EXACT)


class TestSyntaxes:
    @pytest.mark.parametrize(
        "syntax", [ImplicitVRLittleEndian, ExplicitVRBigEndian, DeflatedExplicitVRLittleEndian]
    )
    def test_each_native_one_gives_the_same(self, write: Write, syntax: str):
        plain = read_dicom(write(Modality="MR"), name=NAME)
        made = dataset(syntax=syntax, Modality="MR")
        if syntax == ExplicitVRBigEndian:
            made.PixelData = GREY.astype(">u2").tobytes()
        assert_allclose(read_dicom(write(made), name=NAME), plain, **EXACT)

    def test_bytes_in_words_of_big_endian_lie_swapped(self, write: Write):
        made = dataset(np.array([[0, 51, 102, 255]], dtype=np.uint8), syntax=ExplicitVRBigEndian)
        made.PixelData = bytes([51, 0, 255, 102])
        made["PixelData"].VR = "OW"
        assert_allclose(read_dicom(write(made), name=NAME), [[0, 0.2, 0.4, 1]], **EXACT)

    def test_runs_are_unpacked(self, write: Write):
        # G.3.1 of PS3.5: 2 literal bytes 1 and 2, then 3 times 7; header with one segment at 64.
        frame = b"\x01\0\0\0\x40\0\0\0" + bytes(56) + b"\x01\x01\x02\xfe\x07\x80"
        made = dataset(np.zeros((1, 5), dtype=np.uint8), syntax=RLELossless)
        made.PixelData = encapsulate([frame])
        made["PixelData"].is_undefined_length = True
        assert read_stored(write(made), name=NAME).tolist() == [[1, 2, 7, 7, 7]]

    def test_a_dataset_without_preamble_and_meta_information_is_read(self, write: Write):
        plain = write(Modality="MR")
        expected = read_dicom(plain, name=NAME)
        made = dataset(Modality="MR")
        content = as_bytes(made)
        bare = content[content.index(b"\x08\x00\x16\x00UI") :]
        assert_allclose(read_dicom(write(bare), name=NAME), expected, **EXACT)

    def test_pixels_beyond_the_last_frame_are_left_alone(self, write: Write):
        plain = read_dicom(write(Modality="MR"), name=NAME)
        made = dataset(Modality="MR")
        made.PixelData = GREY.tobytes() * 2 + b"\xff\xff"
        assert_allclose(read_dicom(write(made), name=NAME), plain, **EXACT)
        assert read_header(write(made), name=NAME).frames == 1


class TestFrames:
    def test_each_frame_has_the_rescale_and_window_of_its_group(self, write: Write):
        def group(slope: int) -> Dataset:
            made = Dataset()
            made.PixelValueTransformationSequence = item(
                RescaleSlope=slope, RescaleIntercept=0, RescaleType="US"
            )
            return made

        shared = Dataset()
        shared.FrameVOILUTSequence = item(WindowCenter=50, WindowWidth=100, VOILUTFunction="LINEAR_EXACT")
        made = dataset(np.array([[0, 10, 50]], dtype=np.uint16), Modality="CT", NumberOfFrames=2)
        made.PixelData = made.PixelData * 2
        made.SharedFunctionalGroupsSequence = Sequence([shared])
        made.PerFrameFunctionalGroupsSequence = Sequence([group(1), group(2)])
        path = write(made)
        first, second = iter_frames(path, name=NAME)
        assert_allclose(first, [[0, 0.1, 0.5]], **EXACT)
        assert_allclose(second, [[0, 0.2, 1]], **EXACT)

    @staticmethod
    def window(centre: int) -> Dataset:
        made = Dataset()
        made.FrameVOILUTSequence = item(WindowCenter=centre, WindowWidth=100, VOILUTFunction="LINEAR_EXACT")
        return made

    def test_a_window_of_the_frame_comes_before_a_shared_one_and_that_before_the_header(self, write: Write):
        made = dataset(np.array([[0, 10, 50]], dtype=np.uint16), Modality="CR", NumberOfFrames=2)
        made.PixelData = made.PixelData * 2
        made.WindowCenter, made.WindowWidth, made.VOILUTFunction = 0, 100, "LINEAR_EXACT"
        from_header = [[0.5, 0.6, 1]]
        assert_allclose(read_dicom(write(made), name=NAME, frame=1), from_header, **EXACT)
        made.SharedFunctionalGroupsSequence = Sequence([self.window(50)])
        assert_allclose(read_dicom(write(made), name=NAME, frame=1), [[0, 0.1, 0.5]], **EXACT)
        made.PerFrameFunctionalGroupsSequence = Sequence([self.window(40), Dataset()])
        first, second = iter_frames(write(made), name=NAME)
        assert_allclose(first, [[0.1, 0.2, 0.6]], **EXACT)
        assert_allclose(second, [[0, 0.1, 0.5]], **EXACT)

    def test_each_frame_has_percentiles_of_its_own(self, write: Write):
        # Foregrounds 1 to 2 and 10 to 20: percentiles 1.005 and 1.995, 10.05 and 19.95.
        frames = np.array([[[0, 1, 2]], [[0, 10, 20]]], dtype=np.uint16)
        path = write(frames[0], Modality="MR", NumberOfFrames=2, PixelData=frames.tobytes() + bytes(4))
        for shown in iter_frames(path, name=NAME):
            assert_allclose(shown, [[0, 0, 1]], **EXACT)

    def test_frames_are_decoded_when_they_are_asked_for(self, write: Write):
        def runs(*values: int) -> bytes:
            return b"\x01\0\0\0\x40\0\0\0" + bytes(56) + bytes([len(values) - 1, *values])

        made = dataset(np.zeros((1, 3), dtype=np.uint8), syntax=RLELossless, NumberOfFrames=3)
        made.PixelData = encapsulate([runs(0, 51, 255), b"damaged!" * 9, runs(255, 51, 0)])
        made["PixelData"].is_undefined_length = True
        path = write(made)
        frames = iter_frames(path, name=NAME)
        assert_allclose(next(frames), [[0, 0.2, 1]], **EXACT)
        with pytest.raises(DecodeError, match="its segments do not fit its header"):
            next(frames)
        assert_allclose(read_dicom(path, name=NAME, frame=2), [[1, 0.2, 0]], **EXACT)

    @pytest.mark.parametrize("frame", [-1, 1])
    def test_a_frame_that_is_not_there_is_a_wrong_setting(self, write: Write, frame: int):
        with pytest.raises(SettingsError, match=rf"^The 'frame' of image 0 .* \[0, 0\].* is {frame};"):
            read_dicom(write(), name=NAME, frame=frame)


class TestUltrasound:
    PIXELS = np.arange(400, dtype=np.uint16).reshape(20, 20).astype(np.uint8)

    @staticmethod
    def region(left: int, top: int, right: int, bottom: int, *, spatial: int = 1) -> Dataset:
        edges = zip(("MinX0", "MinY0", "MaxX1", "MaxY1"), (left, top, right, bottom), strict=True)
        return item(RegionSpatialFormat=spatial, **{f"RegionLocation{edge}": value for edge, value in edges})[
            0
        ]

    @pytest.mark.parametrize(
        ("regions", "rows", "columns"),
        [
            ([(4, 2, 15, 11)], slice(2, 12), slice(4, 16)),
            ([(0, 0, 19, 19)], slice(0, 20), slice(0, 20)),
            ([(10, 10, 40, 40)], slice(10, 20), slice(10, 20)),
            ([(0, 0, 8, 8), (5, 5, 19, 19)], slice(5, 20), slice(5, 20)),
            ([(15, 15, 5, 5)], slice(0, 20), slice(0, 20)),
            ([(30, 30, 50, 50)], slice(0, 20), slice(0, 20)),
            ([], slice(0, 20), slice(0, 20)),
        ],
    )
    def test_frames_are_cut_to_the_largest_region_inside_them(
        self, write: Write, regions: list, rows: slice, columns: slice
    ):
        made = dataset(self.PIXELS, Modality="US")
        made.SequenceOfUltrasoundRegions = Sequence([self.region(*edges) for edges in regions])
        shown = read_dicom(write(made), name=NAME)
        assert_allclose(shown, self.PIXELS[rows, columns] / 255, **EXACT)

    def test_curves_and_doppler_are_no_tissue(self, write: Write):
        made = dataset(self.PIXELS, Modality="US")
        made.SequenceOfUltrasoundRegions = Sequence([self.region(0, 0, 9, 9, spatial=3)])
        assert read_dicom(write(made), name=NAME).shape == (20, 20)
