"""Where a frame lies in a file and how it is coded: colour, syntaxes, several frames, regions, by hand."""

from collections.abc import Callable
from pathlib import Path

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
from mediclip.errors import DecodeError, SettingsError
from tests.mediclip.data.dicom.conftest import GREY, as_bytes, dataset, item

Write = Callable[..., Path]
NAME = "image 0"
EXACT = {"rtol": 0, "atol": 1e-6}


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
