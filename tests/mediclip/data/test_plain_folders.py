from collections.abc import Callable
from pathlib import Path

import pytest

from mediclip.data.manifest import Dataset, has_masks, open_dataset
from mediclip.data.samples import Sample
from mediclip.errors import ManifestError


def names(samples: tuple[Sample, ...]) -> list[str]:
    return [s.image.name for s in samples]


def test_normals_are_divided_and_abnormals_are_tested_on_with_their_masks(plain_set: Path):
    data = open_dataset(plain_set)
    assert len(data.train) == 3
    assert [s.label for s in data.test] == [0, 0, 1, 1, 1]
    assert sorted(names(data.train) + names(data.test)[:2]) == [f"n{i}.png" for i in range(5)]
    assert names(data.test)[2:] == ["a0.jpg", "a1.jpg", "a2.jpg"]
    assert [s.mask.name if s.mask else None for s in data.test] == [None, None, "a0.png", "a1.png", "a2.png"]
    assert [(s.index, s.split) for s in data.test] == [(i, "test") for i in range(5)]
    assert [(s.index, s.split) for s in data.train] == [(i, "train") for i in range(3)]
    assert {s.label_name for s in data.test} == {"normal", "abnormal"}


def test_the_division_is_always_the_same(plain_set: Path):
    # Golden: PCG64 seeded by mediclip.rng; another division would change published results.
    assert names(open_dataset(plain_set).train) == ["n1.png", "n2.png", "n3.png"]
    assert open_dataset(plain_set) == open_dataset(plain_set)


@pytest.mark.parametrize("leave_folder", [True, False])
def test_without_abnormal_images_all_normals_are_the_pool(plain_set: Path, *, leave_folder: bool):
    for folder in ("abnormal", "masks"):
        for path in (plain_set / folder).iterdir():
            path.unlink()
        if not leave_folder:
            (plain_set / folder).rmdir()
    data = open_dataset(plain_set)
    assert names(data.train) == [f"n{i}.png" for i in range(5)]
    assert data.test == ()
    assert isinstance(data, Dataset)


def test_one_missing_mask_is_left_to_be_told_when_masks_are_read(plain_set: Path):
    (plain_set / "masks" / "a1.png").unlink()
    test = open_dataset(plain_set).test
    assert [s.mask is not None for s in test if s.label] == [True, False, True]
    assert has_masks(test)


def test_a_set_without_masks_has_none(plain_set: Path):
    for path in (plain_set / "masks").iterdir():
        path.unlink()
    assert not has_masks(open_dataset(plain_set).test)


def test_masks_of_normal_images_are_allowed_and_not_used(plain_set: Path, write: Callable):
    write(plain_set / "masks" / "n0.png", 0)
    assert all(s.mask is None for s in open_dataset(plain_set).test if s.label == 0)


def test_extensions_of_any_case_subfolders_and_dots_in_names(tmp_path: Path, write: Callable):
    for name in (
        "normal/b/x.PNG",
        "normal/a/x.jpg",
        "normal/scan.v2.JpEg",
        "abnormal/b/y.1.JPG",
        "masks/b/y.1.Png",
    ):
        write(tmp_path / name)
    write(tmp_path / "abnormal" / "y.1.png")
    data = open_dataset(tmp_path)
    ill = [s for s in data.test if s.label]
    assert [s.image.relative_to(tmp_path).as_posix() for s in ill] == [
        "abnormal/b/y.1.JPG",
        "abnormal/y.1.png",
    ]
    assert [s.mask is not None for s in ill] == [True, False]
    healthy = [s for s in (*data.train, *data.test) if not s.label]
    assert sorted(s.image.name for s in healthy) == ["scan.v2.JpEg", "x.PNG", "x.jpg"]


def test_what_file_managers_leave_behind_is_passed_over(plain_set: Path):
    before = open_dataset(plain_set)
    for name in ("Thumbs.db", ".DS_Store", "desktop.ini", "._n0.png", ".hidden/n9.png", "__MACOSX/n9.png"):
        path = plain_set / "normal" / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"x")
    assert open_dataset(plain_set) == before


def test_other_files_are_refused_and_not_passed_over(plain_set: Path):
    for name in ("Doe.txt", "Doe.gif", "Doe"):
        (plain_set / "abnormal" / name).write_bytes(b"x")
    with pytest.raises(ManifestError) as caught:
        open_dataset(plain_set)
    assert str(caught.value) == (
        "The folder 'abnormal' must hold nothing but PNG, JPEG, TIFF, DICOM and NIfTI images, but 3 of its "
        "files have another extension; convert them or move them elsewhere."
    )


def test_a_link_to_a_folder_is_not_followed_and_not_passed_over(plain_set: Path, tmp_path: Path):
    (tmp_path / "elsewhere").mkdir()
    (plain_set / "normal" / "more").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ManifestError, match=r"^The folder 'normal' must hold nothing but .* 1 of its files"):
        open_dataset(plain_set)


@pytest.mark.parametrize("folder", ["normal", "abnormal", "masks"])
def test_two_images_of_one_name_are_refused(plain_set: Path, write: Callable, folder: str):
    write(plain_set / folder / "a2.png")
    write(plain_set / folder / "a2.jpeg")
    with pytest.raises(
        ManifestError, match=rf"^Two images in '{folder}' must not differ .* but 1 of its \d name"
    ):
        open_dataset(plain_set)


def test_one_name_may_stand_for_a_normal_and_an_abnormal_image(plain_set: Path, write: Callable):
    write(plain_set / "normal" / "a0.png")
    assert sum(s.mask is not None for s in open_dataset(plain_set).test) == 3


def test_a_mask_without_an_image_is_refused(plain_set: Path, write: Callable):
    write(plain_set / "masks" / "a1_mask.png")
    with pytest.raises(ManifestError) as caught:
        open_dataset(plain_set)
    assert str(caught.value) == (
        "Every mask must have the name of its image up to the extension, but 1 of the 4 masks have the name "
        "of none, the first of them mask 2 (in alphabetical order, from 0); rename them."
    )


def test_a_normal_folder_needs_an_image(tmp_path: Path):
    (tmp_path / "normal").mkdir()
    with pytest.raises(
        ManifestError, match=r"'normal' folder of 's' must hold at least one PNG or JPEG image"
    ):
        open_dataset(tmp_path, "s")


def test_a_link_inside_the_folder_is_an_image_and_one_that_leads_out_is_refused(plain_set: Path):
    outside = plain_set.parent / "other.png"
    outside.write_bytes((plain_set / "normal/n0.png").read_bytes())
    (plain_set / "normal/link.png").symlink_to(plain_set / "normal/n0.png")
    assert len(open_dataset(plain_set).train) == 3
    for target in (outside, plain_set / "normal/loop.png"):
        (plain_set / "normal/loop.png").symlink_to(target)
        with pytest.raises(
            ManifestError, match=r"^The folder 'normal' must hold images, but 1 of its files are"
        ):
            open_dataset(plain_set)
        (plain_set / "normal/loop.png").unlink()


def test_a_folder_may_itself_be_a_link_to_another_disk(plain_set: Path, tmp_path: Path):
    (plain_set / "normal").rename(tmp_path / "disk")
    (plain_set / "normal").symlink_to(tmp_path / "disk", target_is_directory=True)
    (tmp_path / "disk/again.png").symlink_to(tmp_path / "disk/n0.png")
    assert len(open_dataset(plain_set).train) == 3
