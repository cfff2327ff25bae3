import hashlib
from collections.abc import Callable
from dataclasses import FrozenInstanceError, replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings, strategies as st
from PIL import Image

from mediclip.data.policies import policies_digest
from mediclip.data.preprocess import MAX_SIZE, MIN_SIZE, Preprocess, iter_images, load_images
from mediclip.data.samples import Sample
from mediclip.errors import ImageError, MaskError, SettingsError

in_one_folder = settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=40
)
GREY = 0


def sample(image: Path, index: int = 12, label: int = 0, mask: Path | None = None) -> Sample:
    return Sample(index, image, label, ("normal", "abnormal")[label], "busi", mask)


def triangle_weights(source: int, target: int) -> np.ndarray:
    """Return ``(target, source)`` weights of a bilinear filter that widens when it shrinks.

    Source: the filter as Pillow's documentation of ``resize`` describes it, written down independently.
    """
    scale = source / target
    support = max(scale, 1.0)
    centres = (np.arange(target) + 0.5) * scale
    distance = np.abs(np.arange(source) + 0.5 - centres[:, None]) / support
    weights = np.clip(1 - distance, 0, None)
    return weights / weights.sum(axis=1, keepdims=True)


def reference_resize(image: np.ndarray, side: int) -> np.ndarray:
    height, width = image.shape
    return triangle_weights(height, side) @ image.astype(np.float64) @ triangle_weights(width, side).T


class TestLoadImage:
    def test_it_equals_the_published_expression_on_8_bit_images(
        self, tmp_path: Path, rng: np.random.Generator
    ):
        path = tmp_path / "a.jpg"
        Image.fromarray(rng.integers(0, 256, (130, 91, 3), dtype=np.uint8)).save(path)
        image = Preprocess(64).load_image(sample(path))
        with Image.open(path) as opened:
            published = np.asarray(opened.convert("L").resize((64, 64), Image.Resampling.BILINEAR))
        assert image.dtype == np.float32
        np.testing.assert_array_equal(image, published.astype(np.float32) / 255)

    @in_one_folder
    @given(height=st.integers(1, 150), width=st.integers(1, 150), deep=st.booleans(), seed=st.integers(0, 99))
    def test_it_equals_an_independent_bilinear_filter(
        self, tmp_path: Path, encode_png: Callable, *, height: int, width: int, deep: bool, seed: int
    ):
        top, dtype, tolerance = (65535, np.uint16, 1e-5) if deep else (255, np.uint8, 1.01 / 255)
        pixels = np.random.default_rng(seed).integers(0, top + 1, (height, width)).astype(dtype)
        (tmp_path / "a.png").write_bytes(encode_png(pixels, GREY))
        image = Preprocess(32).load_image(sample(tmp_path / "a.png"))
        assert image.shape == (32, 32)
        assert image.min() >= 0
        assert image.max() <= 1
        np.testing.assert_allclose(image, reference_resize(pixels / top, 32), atol=tolerance)

    def test_an_image_of_the_right_size_is_only_scaled(
        self, tmp_path: Path, encode_png: Callable, rng: np.random.Generator
    ):
        pixels = rng.integers(0, 256, (32, 32), dtype=np.uint8)
        (tmp_path / "a.png").write_bytes(encode_png(pixels, GREY))
        (tmp_path / "b.png").write_bytes(encode_png(pixels.astype(np.uint16) * 257, GREY))
        shallow = Preprocess(32).load_image(sample(tmp_path / "a.png"))
        np.testing.assert_array_equal(shallow, pixels.astype(np.float32) / 255)
        np.testing.assert_allclose(Preprocess(32).load_image(sample(tmp_path / "b.png")), shallow, atol=1e-7)

    @pytest.mark.parametrize("size", [(500, 20), (1, 1), (3, 700)])
    def test_an_even_image_stays_even_in_any_shape(self, tmp_path: Path, write: Callable, size: tuple):
        image = Preprocess(48).load_image(sample(write(tmp_path / "a.png", 51, size)))
        np.testing.assert_allclose(image, np.full((48, 48), 0.2), atol=1e-7)

    def test_train_and_test_samples_of_one_file_are_the_same_pixels(self, tmp_path: Path, write: Callable):
        test = sample(write(tmp_path / "a.png"))
        train = replace(test, split="train")
        np.testing.assert_array_equal(Preprocess().load_image(train), Preprocess().load_image(test))

    def test_pixels_are_those_of_version_1(self, tmp_path: Path, encode_png: Callable):
        # Golden: made with Pillow 13.0.0; another value needs another version of the preprocessing.
        y, x = np.mgrid[:61, :47]
        (tmp_path / "a.png").write_bytes(encode_png(((7 * y + 5 * x * x) % 256).astype(np.uint8), GREY))
        levels = np.rint(Preprocess(32).load_image(sample(tmp_path / "a.png")) * 255).astype(np.uint8)
        assert hashlib.sha256(levels.tobytes()).hexdigest() == (
            "03e02ff17548a9a14bf65ac86fea31eb0ec7b5bc97733d161fcfe32d96913522"
        )
        assert Preprocess.version == 1

    def test_a_fault_names_the_sample_and_a_loose_file_by_what_it_is_called(self, tmp_path: Path):
        path = tmp_path / "Doe.png"
        path.write_bytes(b"no image")
        with pytest.raises(
            ImageError, match=r"^Cannot use test image 12 of busi: it must be a PNG, JPEG, TIFF"
        ):
            Preprocess().load_image(sample(path))
        with pytest.raises(ImageError, match=r"^Cannot use image 3: it must be a PNG, JPEG, TIFF"):
            Preprocess().load_file(path, name="image 3")


class TestSettings:
    def test_the_digest_is_that_of_canonical_json(self):
        text = f'{{"image_size":224,"name":"raster","policies":"{policies_digest()}","version":1}}'
        assert Preprocess().digest() == hashlib.sha256(text.encode()).hexdigest()
        assert Preprocess().digest() == "825682c8359e699bb7fa32997f79cebc876d75bee6691f12d94b588b3bd32fec"

    @given(first=st.integers(MIN_SIZE, MAX_SIZE), second=st.integers(MIN_SIZE, MAX_SIZE))
    def test_digests_are_equal_when_the_settings_are(self, first: int, second: int):
        assert (Preprocess(first).digest() == Preprocess(second).digest()) == (first == second)

    @given(size=st.integers(MIN_SIZE, MAX_SIZE))
    def test_settings_can_be_kept_and_read_again(self, size: int):
        assert Preprocess.from_settings(Preprocess(size).settings()) == Preprocess(size)

    @pytest.mark.parametrize(
        "settings_",
        [
            {},
            {"name": "raster", "version": 2, "image_size": 224},
            {"name": "dicom", "version": 1, "image_size": 224},
            {"name": "raster", "version": 1, "image_size": "224"},
            {"name": "raster", "version": 1, "image_size": 224, "window": 3},
            {"name": "raster", "version": 1, "image_size": 224, "policies": "0" * 64},
        ],
    )
    def test_another_preprocessing_is_refused(self, settings_: dict):
        with pytest.raises(SettingsError, match=r"^The preprocessing must be 'raster' version 1"):
            Preprocess.from_settings(settings_)

    def test_model_files_from_before_there_were_policies_are_read(self):
        old = {"name": "raster", "version": 1, "image_size": 64}
        assert Preprocess.from_settings(old) == Preprocess(64)

    @pytest.mark.parametrize("size", [0, MIN_SIZE - 1, MAX_SIZE + 1, 224.0, True, "224"])
    def test_sizes_out_of_range_are_refused(self, size: object):
        with pytest.raises(SettingsError, match=r"'image_size' .* must be an int in \[32, 1024\], but it is"):
            Preprocess(size)  # type: ignore[arg-type]

    def test_it_cannot_be_changed(self):
        with pytest.raises(FrozenInstanceError):
            Preprocess().image_size = 336  # type: ignore[misc]


class TestLoadMask:
    def test_a_normal_sample_has_an_empty_mask_and_no_file_is_read(self, tmp_path: Path):
        mask = Preprocess(32).load_mask(sample(tmp_path / "absent.png"))
        assert mask.shape == (32, 32)
        assert mask.dtype == np.bool_
        assert not mask.any()

    @in_one_folder
    @given(height=st.integers(1, 90), width=st.integers(1, 90), seed=st.integers(0, 99))
    def test_each_pixel_is_the_nearest_one(
        self, tmp_path: Path, encode_png: Callable, height: int, width: int, seed: int
    ):
        pixels = np.random.default_rng(seed).integers(0, 2, (height, width), dtype=np.uint8)
        (tmp_path / "mask.png").write_bytes(encode_png(pixels, GREY))
        mask = Preprocess(32).load_mask(sample(tmp_path / "mask.png", 0, 1, tmp_path / "mask.png"))
        rows = ((np.arange(32) + 0.5) * height / 32).astype(int)
        columns = ((np.arange(32) + 0.5) * width / 32).astype(int)
        np.testing.assert_array_equal(mask, pixels[np.ix_(rows, columns)] != 0)

    def test_a_missing_file_and_a_missing_name_are_told_apart(self, tmp_path: Path, write: Callable):
        image = write(tmp_path / "a.png")
        with pytest.raises(
            MaskError, match=r"^Cannot use the mask of test image 12 of busi: it must exist, "
        ):
            Preprocess().load_mask(sample(image, label=1, mask=tmp_path / "absent.png"))
        with pytest.raises(MaskError, match=r"^Cannot use test image 12 of busi: every abnormal image of a "):
            Preprocess().load_mask(sample(image, label=1))

    def test_a_mask_of_another_size_is_refused(self, tmp_path: Path, write: Callable):
        image = write(tmp_path / "a.png", 1, (40, 30))
        mask = write(tmp_path / "m.png", 1, (30, 40))
        with pytest.raises(MaskError) as caught:
            Preprocess().load_mask(sample(image, label=1, mask=mask))
        assert str(caught.value) == (
            "Cannot use the mask of test image 12 of busi: it must have its image's size, 30 x 40 "
            "(height x width), but it has 40 x 30; export it again."
        )

    def test_an_upright_mask_fits_an_image_that_is_turned_by_its_exif(self, tmp_path: Path, write: Callable):
        exif = Image.Exif()
        exif[0x0112] = 6
        Image.new("L", (40, 30), 5).save(tmp_path / "a.jpg", exif=exif)
        mask = write(tmp_path / "m.png", 255, (30, 40))
        assert Preprocess(32).load_mask(sample(tmp_path / "a.jpg", label=1, mask=mask)).all()


class TestMany:
    @pytest.fixture
    def samples(self, tmp_path: Path, write: Callable) -> list[Sample]:
        return [sample(write(tmp_path / f"{i}.png", i * 9), i) for i in range(25)]

    @pytest.mark.parametrize("batch_size", [1, 4, 25, 100])
    def test_batches_are_the_images_in_order(self, samples: list[Sample], batch_size: int):
        batches = list(iter_images(samples, Preprocess(32), batch_size))
        assert [len(b) for b in batches[:-1]] == [batch_size] * (len(batches) - 1)
        one_by_one = np.stack([Preprocess(32).load_image(s) for s in samples])
        np.testing.assert_array_equal(np.concatenate(batches), one_by_one)

    def test_all_at_once_is_one_by_one(self, samples: list[Sample]):
        images = load_images(samples * 3, Preprocess(32))
        assert images.dtype == np.float32
        np.testing.assert_array_equal(images, np.stack([Preprocess(32).load_image(s) for s in samples * 3]))

    def test_no_samples_are_no_images(self):
        assert load_images([], Preprocess(32)).shape == (0, 32, 32)
        assert list(iter_images([], Preprocess(32), 4)) == []

    def test_the_first_faulty_sample_is_named(self, samples: list[Sample]):
        for i in (7, 8, 20):
            samples[i].image.write_bytes(b"")
        with pytest.raises(ImageError, match=r"^Cannot use test image 7 of busi: .* its file is empty"):
            load_images(samples, Preprocess(32))

    def test_batches_before_a_fault_are_given(self, samples: list[Sample]):
        samples[9].image.write_bytes(b"")
        batches = iter_images(samples, Preprocess(32), 4)
        assert len(next(batches)) == len(next(batches)) == 4
        with pytest.raises(ImageError, match=r"test image 9 of busi"):
            next(batches)

    def test_a_reader_may_stop_early(self, samples: list[Sample]):
        batches = iter_images(samples, Preprocess(32), 4)
        next(batches)
        batches.close()

    def test_a_batch_needs_an_image(self, samples: list[Sample]):
        with pytest.raises(SettingsError, match=r"'batch_size' must be at least 1, but it is 0"):
            next(iter_images(samples, Preprocess(32), 0))
