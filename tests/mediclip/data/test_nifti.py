"""Volumes whose every voxel tells where in the patient it lies, stored in every orientation."""

import gzip
import itertools
from pathlib import Path

import nibabel
import numpy as np
import pytest
from nibabel.orientations import apply_orientation, inv_ornt_aff
from numpy.testing import assert_allclose

from mediclip.data import nifti
from mediclip.data.formats import NIFTI, format_of, read_image, read_mask, read_shape
from mediclip.data.manifest import open_dataset
from mediclip.data.preprocess import Preprocess
from mediclip.errors import (
    DegenerateImageError,
    ImageError,
    InvalidHeaderError,
    MaskError,
    NoPixelsError,
    SettingsError,
    TooLargeError,
    TruncatedError,
)

NAME = "image 0"
# (right, front, up): 5 x 4 x 3 voxels.
RAS = np.arange(60, dtype=np.int16).reshape(5, 4, 3)
# The middle slice as it is looked at: rows to the back, columns to the patient's left.
SEEN = RAS[::-1, ::-1, 1].T
ORIENTATIONS = [
    np.array([[axis, flip] for axis, flip in zip(order, flips, strict=True)])
    for order in itertools.permutations(range(3))
    for flips in itertools.product([1, -1], repeat=3)
]


def save(path: Path, data: np.ndarray, affine: np.ndarray | None = None) -> Path:
    nibabel.save(nibabel.Nifti1Image(data, np.eye(4) if affine is None else affine), path)
    return path


def shown(plane: np.ndarray) -> np.ndarray:
    low, high = np.percentile(plane[plane > plane.min()], [0.5, 99.5])
    return np.clip((plane - low) / (high - low), 0, 1)


@pytest.mark.parametrize("orientation", ORIENTATIONS, ids=str)
def test_the_middle_slice_is_axial_and_upright_however_it_is_stored(tmp_path: Path, orientation: np.ndarray):
    stored = apply_orientation(RAS, orientation)
    path = save(tmp_path / "a.nii", stored, inv_ornt_aff(orientation, RAS.shape))
    assert format_of(path, name=NAME) is NIFTI
    assert_allclose(read_image(path, name=NAME), shown(SEEN), atol=1e-6)
    assert read_shape(path, name=NAME) == (4, 5)
    assert nifti.slice_count(path, name=NAME) == 3


def test_slices_count_from_the_feet_up_and_volume_after_volume(tmp_path: Path):
    path = save(tmp_path / "a.nii.gz", np.stack([RAS, 100 - RAS], axis=3))
    for frame in range(6):
        volume, at = divmod(frame, 3)
        plane = (RAS if volume == 0 else 100 - RAS)[::-1, ::-1, at].T
        assert_allclose(read_image(path, name=NAME, frame=frame), shown(plane), atol=1e-6)
    with pytest.raises(SettingsError, match=r"^The 'frame' of image 0 must be in \[0, 5\], but it is 6;"):
        read_image(path, name=NAME, frame=6)


def test_scale_and_numbers_that_are_none_are_minded(tmp_path: Path):
    data = np.array([[0, 1, 2], [3, 4, np.nan]], dtype=np.float32)[..., None]
    image = read_image(save(tmp_path / "a.nii", data), name=NAME)
    plain = data[::-1, ::-1, 0].T
    expected = np.clip((np.nan_to_num(plain) - 1.015) / (3.985 - 1.015), 0, 1)
    assert_allclose(image, expected, atol=1e-6)


def test_a_mask_is_whatever_is_not_zero_in_the_same_slice(tmp_path: Path):
    mask = np.zeros(RAS.shape, dtype=np.uint8)
    mask[0, 0, 1] = 3  # left and back of the patient, who is seen from the feet: right and below
    found = read_mask(save(tmp_path / "m.nii", mask), name="the mask of image 0")
    assert np.argwhere(found).tolist() == [[3, 4]]


def test_a_folder_of_volumes_is_a_data_set(tmp_path: Path):
    (tmp_path / "set/normal").mkdir(parents=True)
    for i in range(3):
        save(tmp_path / f"set/normal/{i}.nii.gz", RAS + np.int16(i))
    dataset = open_dataset(tmp_path / "set")
    assert len(dataset.train) == 3
    assert Preprocess(32).load_image(dataset.train[0]).shape == (32, 32)


def header_of(**fields: object) -> bytes:
    """Write a file whose header lies."""
    header = nibabel.Nifti1Header()
    header.set_data_shape((4, 4, 4))
    header["vox_offset"] = 352
    header["magic"] = b"n+1"
    for key, value in fields.items():
        header[key] = value
    return header.binaryblock + bytes(4 + 64 * 4)


@pytest.mark.parametrize(
    ("content", "error"),
    [
        (header_of(dim=[3, 20000, 20000, 20000, 1, 1, 1, 1]), TooLargeError),
        (header_of(dim=[1, 4, 1, 1, 1, 1, 1, 1]), InvalidHeaderError),
        (header_of(dim=[3, 4, -4, 4, 1, 1, 1, 1]), ImageError),
        (header_of(datatype=32, bitpix=64), InvalidHeaderError),
        (header_of(datatype=9999), ImageError),
        (header_of(), DegenerateImageError),
        (header_of()[:400], ImageError),
        (gzip.compress(header_of()[:352] + bytes(range(256)))[:-150], TruncatedError),
        (b"\x1f\x8bZebedee", ImageError),
    ],
)
@pytest.mark.filterwarnings("error")
def test_what_cannot_be_used_is_refused_in_one_sentence(
    tmp_path: Path, content: bytes, error: type[ImageError], capfd: pytest.CaptureFixture[str]
):
    path = tmp_path / ("Zebedee.nii.gz" if content.startswith(b"\x1f\x8b") else "Zebedee.nii")
    path.write_bytes(content)
    with pytest.raises(error, match=r"^Cannot use image 0: it must [^;]+, but [^;]+; [^;]+\.$") as caught:
        read_image(path, name=NAME)
    with pytest.raises(MaskError) if error is not DegenerateImageError else pytest.raises(NoPixelsError):
        read_mask(path, name=NAME)
        raise NoPixelsError
    assert "Zebedee" not in str(caught.value) + "".join(capfd.readouterr())
