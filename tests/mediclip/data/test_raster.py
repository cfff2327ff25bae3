import io
import os
import struct
import traceback
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings, strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image
from scipy.ndimage import label

from mediclip.data.raster import MAX_PIXELS, read_grey, read_mask, read_shape
from mediclip.data.source import MAX_BYTES
from mediclip.errors import DataError, ImageError, MaskError

GREY, COLOUR, GREY_ALPHA, COLOUR_ALPHA = 0, 2, 4, 6
NAME = "test image 12"
in_one_folder = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)


def luma(rgb: np.ndarray) -> np.ndarray:
    """ITU-R BT.601, in float64: the reference for 8-bit grey."""
    return rgb.astype(np.float64) @ np.array([0.299, 0.587, 0.114])


def saved(path: Path, image: Image.Image, **options: object) -> Path:
    image.save(path, **options)
    return path


class TestGrey:
    @in_one_folder
    @given(pixels=arrays(np.uint8, (5, 7)))
    def test_eight_bit_grey_is_read_exactly(self, tmp_path: Path, encode_png: Callable, pixels: np.ndarray):
        path = tmp_path / "a.png"
        path.write_bytes(encode_png(pixels, GREY))
        grey = read_grey(path, name=NAME)
        assert grey.dtype == np.uint8
        np.testing.assert_array_equal(grey, pixels)

    @in_one_folder
    @given(pixels=arrays(np.uint8, (5, 7, 3)))
    def test_colour_becomes_bt601_luma(self, tmp_path: Path, encode_png: Callable, pixels: np.ndarray):
        path = tmp_path / "a.png"
        path.write_bytes(encode_png(pixels, COLOUR))
        grey = read_grey(path, name=NAME)
        assert grey.dtype == np.uint8
        np.testing.assert_allclose(grey, luma(pixels), atol=0.51)

    @in_one_folder
    @given(pixels=arrays(np.uint16, (5, 7)))
    def test_sixteen_bit_grey_is_scaled_by_its_full_range(
        self, tmp_path: Path, encode_png: Callable, pixels: np.ndarray
    ):
        path = tmp_path / "a.png"
        path.write_bytes(encode_png(pixels, GREY))
        grey = read_grey(path, name=NAME)
        assert grey.dtype == np.float32
        np.testing.assert_allclose(grey, pixels / 65535, atol=6e-8)

    def test_sixteen_bit_copy_of_an_eight_bit_image_has_the_same_brightness(
        self, tmp_path: Path, encode_png: Callable
    ):
        levels = np.arange(256, dtype=np.uint16).reshape(16, 16)
        (tmp_path / "a.png").write_bytes(encode_png(levels * 257, GREY))
        np.testing.assert_allclose(read_grey(tmp_path / "a.png", name=NAME), levels / 255, atol=6e-8)

    @pytest.mark.parametrize("colour_type", [COLOUR, GREY_ALPHA, COLOUR_ALPHA])
    def test_sixteen_bit_colour_keeps_its_upper_byte(
        self, tmp_path: Path, encode_png: Callable, rng: np.random.Generator, colour_type: int
    ):
        channels = {COLOUR: 3, GREY_ALPHA: 2, COLOUR_ALPHA: 4}[colour_type]
        pixels = rng.integers(0, 2**16, (6, 5, channels), dtype=np.uint16)
        if colour_type != COLOUR:
            pixels[..., -1] = 65535
        (tmp_path / "a.png").write_bytes(encode_png(pixels, colour_type))
        rgb = (pixels[..., :3] if channels > 2 else pixels[..., [0, 0, 0]]) >> 8
        np.testing.assert_allclose(read_grey(tmp_path / "a.png", name=NAME), luma(rgb), atol=0.51)

    @in_one_folder
    @given(rgb=arrays(np.uint8, (4, 4, 3)), alpha=arrays(np.uint8, (4, 4, 1)))
    def test_transparent_parts_lie_on_black(
        self, tmp_path: Path, encode_png: Callable, rgb: np.ndarray, alpha: np.ndarray
    ):
        path = tmp_path / "a.png"
        path.write_bytes(encode_png(np.concatenate([rgb, alpha], axis=2), COLOUR_ALPHA))
        np.testing.assert_allclose(read_grey(path, name=NAME), luma(rgb * (alpha / 255)), atol=1.1)

    def test_one_transparent_level_is_black_at_8_and_16_bits(self, tmp_path: Path, encode_png: Callable):
        levels = np.arange(9, dtype=np.uint8).reshape(3, 3) * 20
        expected = np.where(levels == 60, 0, levels)
        (tmp_path / "a.png").write_bytes(encode_png(levels, GREY, extra=struct.pack(">H", 60)))
        np.testing.assert_array_equal(read_grey(tmp_path / "a.png", name=NAME), expected)
        (tmp_path / "b.png").write_bytes(
            encode_png(levels.astype(np.uint16) * 257, GREY, extra=struct.pack(">H", 60 * 257))
        )
        np.testing.assert_allclose(read_grey(tmp_path / "b.png", name=NAME), expected / 255, atol=6e-8)

    def test_palettes_give_their_colours_and_not_their_numbers(self, tmp_path: Path):
        image = Image.fromarray(np.array([[0, 1], [2, 1]], dtype=np.uint8))
        image.putpalette([255, 255, 255, 10, 10, 10, 255, 0, 0])
        path = saved(tmp_path / "a.png", image)
        with Image.open(path) as stored:
            assert stored.mode == "P"
        np.testing.assert_array_equal(read_grey(path, name=NAME), [[255, 10], [76, 10]])
        path = saved(tmp_path / "b.png", image, transparency=b"\x00\xff\xff")
        np.testing.assert_array_equal(read_grey(path, name=NAME), [[0, 10], [76, 10]])

    def test_one_bit_images_are_black_and_white(self, tmp_path: Path):
        path = saved(tmp_path / "a.png", Image.fromarray(np.array([[True, False], [False, True]])))
        np.testing.assert_array_equal(read_grey(path, name=NAME), [[255, 0], [0, 255]])

    @pytest.mark.parametrize(
        ("ink", "grey"), [((0, 0, 0, 0), 255), ((0, 0, 0, 255), 0), ((0, 0, 0, 128), 127)]
    )
    def test_cmyk_ink_darkens(self, tmp_path: Path, ink: tuple[int, ...], grey: int):
        path = saved(tmp_path / "a.jpg", Image.new("CMYK", (16, 16), ink), quality=100)
        assert np.abs(read_grey(path, name=NAME).astype(int) - grey).max() <= 2

    @pytest.mark.parametrize("options", [{}, {"progressive": True}, {"subsampling": 2}])
    def test_jpeg_is_read_as_published_code_reads_it(
        self, tmp_path: Path, rng: np.random.Generator, options: dict[str, object]
    ):
        pixels = rng.integers(0, 256, (33, 47, 3), dtype=np.uint8)
        path = saved(tmp_path / "a.jpg", Image.fromarray(pixels), **options)
        np.testing.assert_array_equal(read_grey(path, name=NAME), np.asarray(Image.open(path).convert("L")))

    def test_content_counts_and_not_the_extension(self, tmp_path: Path):
        image = Image.new("L", (4, 3), 9)
        path = saved(tmp_path / "a.jpg", image, format="PNG")
        np.testing.assert_array_equal(read_grey(path, name=NAME), np.full((3, 4), 9))


# What turns the stored pixels upright, by EXIF orientation (CIPA DC-008, tag 0x0112).
UPRIGHT: dict[int, Callable[[np.ndarray], np.ndarray]] = {
    1: lambda a: a,
    2: np.fliplr,
    3: lambda a: np.rot90(a, 2),
    4: np.flipud,
    5: np.transpose,
    6: lambda a: np.rot90(a, -1),
    7: lambda a: np.rot90(a.T, 2),
    8: lambda a: np.rot90(a, 1),
}


class TestOrientation:
    @pytest.mark.parametrize("orientation", UPRIGHT)
    @pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
    def test_images_masks_and_sizes_are_upright(self, tmp_path: Path, orientation: int, dtype: type):
        stored = (np.arange(15).reshape(3, 5) * (255 if dtype is np.uint16 else 3)).astype(dtype)
        exif = Image.Exif()
        exif[0x0112] = orientation
        path = saved(tmp_path / "a.png", Image.fromarray(stored), exif=exif)
        expected = UPRIGHT[orientation](stored)
        grey = read_grey(path, name=NAME) * (65535 if dtype is np.uint16 else 1)
        np.testing.assert_allclose(grey, expected, rtol=1e-6)
        np.testing.assert_array_equal(read_mask(path, name=NAME), expected != 0)
        assert read_shape(path, name=NAME) == expected.shape

    @pytest.mark.parametrize("orientation", UPRIGHT)
    def test_jpeg_is_turned_like_png(self, tmp_path: Path, orientation: int):
        stored = np.zeros((16, 32), dtype=np.uint8)
        stored[:8, :8] = 255
        exif = Image.Exif()
        exif[0x0112] = orientation
        path = saved(tmp_path / "a.jpg", Image.fromarray(stored), exif=exif, quality=100)
        expected = UPRIGHT[orientation](stored)
        assert np.abs(read_grey(path, name=NAME).astype(int) - expected).max() <= 2
        assert read_shape(path, name=NAME) == expected.shape

    def test_an_orientation_that_a_png_states_after_its_pixels_counts_too(self, tmp_path: Path):
        exif = Image.Exif()
        exif[0x0112] = 6
        path = saved(tmp_path / "a.png", Image.new("L", (5, 3), 1), exif=exif)
        content = path.read_bytes()
        at = content.index(b"eXIf") - 4
        chunk = content[at : at + 12 + int.from_bytes(content[at : at + 4], "big")]
        rest = content.replace(chunk, b"")
        path.write_bytes(rest[:-12] + chunk + rest[-12:])
        assert read_grey(path, name=NAME).shape == read_shape(path, name=NAME) == (5, 3)

    def test_an_unknown_orientation_is_taken_as_upright(self, tmp_path: Path):
        exif = Image.Exif()
        exif[0x0112] = 77
        path = saved(tmp_path / "a.png", Image.new("L", (5, 3), 1), exif=exif)
        assert read_grey(path, name=NAME).shape == read_shape(path, name=NAME) == (3, 5)


class TestMask:
    @in_one_folder
    @given(pixels=arrays(np.uint8, (5, 7), elements=st.sampled_from([0, 1, 2, 255])))
    def test_whatever_is_not_zero_is_abnormal(self, tmp_path: Path, encode_png: Callable, pixels: np.ndarray):
        path = tmp_path / "a.png"
        path.write_bytes(encode_png(pixels, GREY))
        mask = read_mask(path, name=NAME)
        assert mask.dtype == np.bool_
        np.testing.assert_array_equal(mask, pixels != 0)

    def test_a_jpeg_mask_keeps_its_shape_without_the_specks_of_its_compression(self, tmp_path: Path):
        y, x = np.mgrid[:64, :64]
        disc = np.uint8(255 * ((y - 30) ** 2 + (x - 33) ** 2 < 200))
        path = saved(tmp_path / "a.jpg", Image.fromarray(disc), quality=60)
        with Image.open(path) as stored:
            assert np.count_nonzero(np.asarray(stored)) > 1.2 * np.count_nonzero(disc)
        found = read_mask(path, name=NAME)
        assert np.mean(found != (disc > 0)) < 0.005
        assert label(found)[1] == 1

    @pytest.mark.parametrize("channel", [0, 1, 2])
    def test_one_level_in_one_channel_is_abnormal(self, tmp_path: Path, encode_png: Callable, channel: int):
        pixels = np.zeros((3, 3, 3), dtype=np.uint8)
        pixels[1, 2, channel] = 1
        (tmp_path / "a.png").write_bytes(encode_png(pixels, COLOUR))
        assert np.argwhere(read_mask(tmp_path / "a.png", name=NAME)).tolist() == [[1, 2]]

    def test_the_lowest_16_bit_level_is_abnormal_and_the_transparent_one_normal(
        self, tmp_path: Path, encode_png: Callable
    ):
        pixels = np.array([[0, 1], [5, 65535]], dtype=np.uint16)
        (tmp_path / "a.png").write_bytes(encode_png(pixels, GREY, extra=struct.pack(">H", 5)))
        assert read_mask(tmp_path / "a.png", name=NAME).tolist() == [[False, True], [False, True]]

    def test_transparent_white_is_normal(self, tmp_path: Path, encode_png: Callable):
        pixels = np.full((2, 2, 4), 255, dtype=np.uint8)
        pixels[0, :, 3] = 0
        (tmp_path / "a.png").write_bytes(encode_png(pixels, COLOUR_ALPHA))
        assert read_mask(tmp_path / "a.png", name=NAME).tolist() == [[False, False], [True, True]]

    def test_palettes_and_single_bits_are_read_by_their_colour(self, tmp_path: Path):
        image = Image.fromarray(np.array([[0, 1]], dtype=np.uint8))
        image.putpalette([0, 0, 1, 0, 0, 0])
        path = saved(tmp_path / "a.png", image)
        assert read_mask(path, name=NAME).tolist() == [[True, False]]
        path = saved(tmp_path / "b.png", Image.fromarray(np.array([[False, True]])))
        assert read_mask(path, name=NAME).tolist() == [[False, True]]

    def test_16_bit_colour_is_refused_because_its_small_values_would_be_lost(
        self, tmp_path: Path, encode_png: Callable
    ):
        (tmp_path / "a.png").write_bytes(encode_png(np.ones((2, 2, 3), dtype=np.uint16), COLOUR))
        with pytest.raises(MaskError, match=r"^Cannot use test image 12: it must be grey or 8-bit colour"):
            read_mask(tmp_path / "a.png", name=NAME)


def jpeg_with(marker_offset: int, data: bytes) -> bytes:
    """Take a small JPEG and overwrite its frame header (SOF0) at an offset from the marker."""
    stream = io.BytesIO()
    Image.new("L", (16, 16), 50).save(stream, format="JPEG")
    content = bytearray(stream.getvalue())
    at = content.index(b"\xff\xc0") + marker_offset
    content[at : at + len(data)] = data
    return bytes(content)


def encoded(format_name: str) -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (16, 16), (9, 50, 90)).save(stream, format=format_name)
    return stream.getvalue()


HUGE_PNG = (
    b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR\0\0\x75\x30\0\0\x75\x30\x08\0\0\0\0"
    + struct.pack(">I", zlib.crc32(b"IHDR\0\0\x75\x30\0\0\x75\x30\x08\0\0\0\0"))
    + b"\0\0\0\0IDAT\x35\xaf\x06\x1e"
)
NEITHER = (
    "it must be a PNG, JPEG, TIFF, DICOM or NIfTI image, but its content is none of these; convert it or "
    "take it out of the set."
)
HEADER = (
    "it must be a whole PNG or TIFF, or an 8-bit JPEG, but its header is damaged, or is that of a JPEG "
    "with more than 8 bits; copy it again, or export it as PNG."
)
DAMAGED = "it must be complete, but it is truncated or damaged; copy it again or take it out of the set."
PIXELS = (
    "it must have at most 67 million pixels, but its header says {}; "
    "export it smaller or take it out of the set."
)
FAULTS = {
    "empty": (
        b"",
        "it must hold an image, but its file is empty; copy it again or take it out of the set.",
    ),
    "text": (b"PatientName=Doe", NEITHER),
    "two bytes": (b"\xff\xd8", NEITHER),
    "bitmap": (encoded("BMP"), NEITHER),
    "tiff signature alone": (encoded("TIFF")[:4], HEADER),
    "gif": (encoded("GIF"), NEITHER),
    "dicom": (bytes(128) + b"DICM", NEITHER),
    "png signature alone": (encoded("PNG")[:8], HEADER),
    "png cut in its header": (encoded("PNG")[:20], HEADER),
    "png of a changed header": (encoded("PNG").replace(b"IHDR\0", b"IHDR\1"), HEADER),
    "png cut in its pixels": (encoded("PNG")[:-40], DAMAGED),
    "jpeg cut in its header": (encoded("JPEG")[:100], HEADER),
    "jpeg cut in its pixels": (encoded("JPEG")[:-10], DAMAGED),
    "jpeg of 12 bits": (jpeg_with(4, b"\x0c"), HEADER),
    "jpeg without rows": (jpeg_with(5, b"\0\0"), HEADER),
    "png bomb": (HUGE_PNG, PIXELS.format("30000 x 30000")),
    "jpeg bomb": (jpeg_with(5, b"\xff\xff\xff\xfe"), PIXELS.format("65534 x 65535")),
}


class TestFaults:
    @pytest.mark.parametrize(
        ("read", "error"), [(read_grey, ImageError), (read_mask, MaskError), (read_shape, ImageError)]
    )
    @pytest.mark.parametrize("fault", FAULTS)
    @pytest.mark.filterwarnings("error")
    def test_each_has_its_one_sentence_and_no_path(
        self, tmp_path: Path, fault: str, read: Callable, error: type[DataError]
    ):
        content, sentence = FAULTS[fault]
        path = tmp_path / "Doe^Jane.png"
        path.write_bytes(content)
        if read is read_shape and fault == "jpeg cut in its pixels":
            assert read_shape(path, name=NAME) == (16, 16)  # a JPEG's size is known from its header
            return
        with pytest.raises(error) as caught:
            read(path, name=NAME)
        assert str(caught.value) == f"Cannot use {NAME}: {sentence}"
        assert "Doe" not in "".join(traceback.format_exception(caught.value))

    @pytest.mark.parametrize(("read", "error"), [(read_grey, ImageError), (read_mask, MaskError)])
    def test_what_is_no_regular_file_is_named(self, tmp_path: Path, read: Callable, error: type[DataError]):
        pipe = tmp_path / "pipe.png"
        os.mkfifo(pipe)
        for path, found in [
            (tmp_path / "Doe.png", "its file is missing; restore it"),
            (tmp_path / "Doe\0.png", "its file cannot be opened (unusable name)"),
            (tmp_path / ("Doe" * 200), "its file cannot be opened (File name too long)"),
            (tmp_path, "it is not; replace it"),
            (pipe, "it is not; replace it"),
        ]:
            with pytest.raises(error) as caught:
                read(path, name=NAME)
            assert found in str(caught.value)
            assert "Doe" not in "".join(traceback.format_exception(caught.value))

    def test_files_above_the_byte_cap_are_not_read(self, tmp_path: Path):
        path = tmp_path / "a.png"
        with path.open("wb") as stream:
            stream.write(encoded("PNG"))
            stream.truncate(MAX_BYTES + 1)
        with pytest.raises(ImageError, match=r"must have at most 256 MiB, but it has 256 MiB"):
            read_grey(path, name=NAME)

    def test_moving_pictures_are_refused(self, tmp_path: Path):
        frames = [Image.new("L", (8, 8), i) for i in range(3)]
        path = saved(tmp_path / "a.png", frames[0], save_all=True, append_images=frames[1:])
        with pytest.raises(ImageError, match=r"must be a single picture, but it has 3 frames; export one"):
            read_grey(path, name=NAME)

    def test_the_pixel_cap_stays_below_the_size_at_which_pillow_warns(self):
        assert Image.MAX_IMAGE_PIXELS is not None
        assert MAX_PIXELS < Image.MAX_IMAGE_PIXELS

    @pytest.mark.parametrize("format_name", ["PNG", "JPEG"])
    def test_a_file_cut_anywhere_is_refused_or_whole(self, tmp_path: Path, format_name: str):
        content = encoded(format_name)
        path = tmp_path / "a"
        path.write_bytes(content)
        whole = read_grey(path, name=NAME)
        for length in range(len(content)):
            path.write_bytes(content[:length])
            try:
                grey = read_grey(path, name=NAME)
            except ImageError:
                continue
            assert length >= len(content) - 20  # nothing but checksums and the trailer is missing
            np.testing.assert_array_equal(grey, whole)

    @pytest.mark.parametrize("format_name", ["PNG", "JPEG"])
    def test_damage_anywhere_gives_an_image_or_an_image_error(self, tmp_path: Path, format_name: str):
        content = encoded(format_name)

        @settings(max_examples=150, deadline=None)
        @given(
            changes=st.dictionaries(
                st.integers(0, len(content) - 1), st.integers(0, 255), min_size=1, max_size=6
            )
        )
        def damaged(changes: dict[int, int]) -> None:
            changed = bytearray(content)
            for at, value in changes.items():
                changed[at] = value
            path = tmp_path / "a"
            path.write_bytes(changed)
            try:
                grey = read_grey(path, name=NAME)
            except ImageError:
                return
            assert grey.ndim == 2

        damaged()


class TestTiff:
    def test_eight_bits_are_as_those_of_a_png(self, tmp_path: Path, rng: np.random.Generator):
        pixels = rng.integers(0, 256, (7, 5), dtype=np.uint8)
        path = saved(tmp_path / "a.tif", Image.fromarray(pixels), format="TIFF")
        np.testing.assert_array_equal(read_grey(path, name=NAME), pixels)
        assert read_shape(path, name=NAME) == (7, 5)

    @pytest.mark.parametrize("order", ["<", ">"])
    def test_sixteen_bits_of_either_byte_order_are_divided_by_their_range(self, tmp_path: Path, order: str):
        path = tmp_path / "a.tif"
        path.write_bytes(tiff(np.array([[0, 13107, 65535]]), order, bits=16))
        np.testing.assert_allclose(read_grey(path, name=NAME), [[0, 0.2, 1]], atol=1e-6)
        np.testing.assert_array_equal(read_mask(path, name=NAME), [[False, True, True]])

    def test_where_white_is_zero_it_is_white(self, tmp_path: Path):
        path = tmp_path / "a.tif"
        path.write_bytes(tiff(np.array([[0, 13107, 65535]]), "<", bits=16, photometric=0))
        np.testing.assert_allclose(read_grey(path, name=NAME), [[1, 0.8, 0]], atol=1e-6)

    def test_pages_signs_and_floating_point_are_refused(self, tmp_path: Path):
        pages = [Image.new("L", (8, 8), i) for i in range(2)]
        path = saved(tmp_path / "a.tif", pages[0], format="TIFF", save_all=True, append_images=pages[1:])
        with pytest.raises(ImageError, match=r"must be a single picture, but it has 2 frames"):
            read_grey(path, name=NAME)
        for mode in ("I", "F"):
            path = saved(tmp_path / "a.tif", Image.new(mode, (8, 8), 3), format="TIFF")
            with pytest.raises(ImageError, match=r"must have unsigned values of at most 16 bits"):
                read_grey(path, name=NAME)


def tiff(pixels: np.ndarray, order: str, *, bits: int, photometric: int = 1) -> bytes:
    """Write one strip of grey by the TIFF 6.0 specification, section 4."""
    data = pixels.astype(f"{order}u{bits // 8}").tobytes()
    tags = {256: pixels.shape[1], 257: pixels.shape[0], 258: bits, 259: 1, 262: photometric}
    tags |= {273: 8, 277: 1, 278: pixels.shape[0], 279: len(data)}
    entries = b"".join(
        struct.pack(f"{order}HHIHH", tag, 3, 1, value, 0) for tag, value in sorted(tags.items())
    )
    head = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(f"{order}I", 8 + len(data))
    return head + data + struct.pack(f"{order}H", len(tags)) + entries + bytes(4)
