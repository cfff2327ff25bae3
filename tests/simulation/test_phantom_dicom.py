import csv
from pathlib import Path

import numpy as np
import pydicom
import pytest
from PIL import Image

from mediclip.errors import ManifestError, SettingsError
from simulation.phantom import ORGANS, draw_scanner, write_phantom_dicom, write_phantom_set
from tests.simulation.test_phantom_dataset import digests

SMALL = {"train_normal": 3, "test_normal": 2, "test_abnormal": 4, "size": 64}
MODALITIES = {"chest": "DX", "brain": "MR", "breast": "US", "abdomen": "CT", "retina": "OP"}


def table_of(directory: Path) -> list[dict[str, str]]:
    with (directory / "manifest.csv").open(newline="") as stream:
        return list(csv.DictReader(stream))


@pytest.mark.parametrize("organ", ORGANS)
def test_the_pixels_are_those_of_the_set_as_png_under_the_window(organ: str, tmp_path: Path):
    scanner = draw_scanner(1, "site-1")
    write_phantom_set(tmp_path / "png", organ, seed=5, scanner=scanner, **SMALL)
    write_phantom_dicom(tmp_path / "dicom", organ, seed=5, scanner=scanner, **SMALL)
    folders = [("train/normal", 3), ("test/normal", 2), ("test/abnormal", 4)]
    pngs = [f"{folder}/{organ}_{i:04d}.png" for folder, count in folders for i in range(count)]
    rows = table_of(tmp_path / "dicom")
    assert [row["split"] for row in rows] == ["train"] * 3 + ["test"] * 6
    assert [row["label"] for row in rows] == ["normal"] * 5 + ["abnormal"] * 4
    for row, png in zip(rows, pngs, strict=True):
        expected = np.asarray(Image.open(tmp_path / "png" / "images" / png))
        image = pydicom.dcmread(tmp_path / "dicom" / row["file"])
        assert image.Modality == MODALITIES[organ]
        # The linear function of PS3.3 C.11.2.1.2.1 with the file's own numbers; a slope has 16 characters.
        values = image.pixel_array * float(image.get("RescaleSlope", 1)) + image.get("RescaleIntercept", 0)
        shown = (values - (image.WindowCenter - 0.5)) / (image.WindowWidth - 1) + 0.5
        assert np.abs(shown - expected / 255).max() < (1e-8 if organ == "abdomen" else 1e-12)
        assert bool(row["mask"]) == (row["label"] == "abnormal")
        if row["mask"]:
            name = Path(png).name
            mask = Image.open(tmp_path / "png" / "images" / "test" / "ground_true" / name)
            assert np.array_equal(np.asarray(mask), Image.open(tmp_path / "dicom" / row["mask"]))


@pytest.mark.parametrize("organ", ORGANS)
def test_files_are_whole_and_keep_to_the_value_representations(
    organ: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    write_phantom_dicom(tmp_path, organ, seed=1, **SMALL, patient_names=["Müller-Canary" * 3])
    monkeypatch.setattr(pydicom.config.settings, "reading_validation_mode", pydicom.config.RAISE)
    uids = set()
    for path in tmp_path.rglob("*.dcm"):
        image = pydicom.dcmread(path)
        assert len(list(image.iterall())) > 50
        assert len(image.PixelData) == image.Rows * image.Columns * image.BitsAllocated // 8
        uids.add(image.SOPInstanceUID)
    assert len(uids) == 9


def test_a_set_is_the_same_byte_for_byte_for_the_same_seed_only(tmp_path: Path):
    first, again, other = (
        digests(write_phantom_dicom(tmp_path / name, "brain", seed=seed, **SMALL))
        for name, seed in (("a", 1), ("b", 1), ("c", 2))
    )
    assert first == again
    assert first.keys() == other.keys()
    assert not {f for f in first if f.endswith(".dcm") and first[f] == other[f]}


def test_images_of_a_patient_lie_together_and_never_on_both_sides(tmp_path: Path):
    names = ["Ann Canary", "Bob Canary"]
    write_phantom_dicom(tmp_path, "chest", seed=1, images_per_patient=2, patient_names=names, **SMALL)
    patients = [pydicom.dcmread(tmp_path / row["file"]).PatientID for row in table_of(tmp_path)]
    expected = [0, 0, 1, 2, 2, 3, 3, 4, 4]
    assert patients == [f"{names[i % 2]}-{i:04d}" for i in expected]
    assert len({path.parent for path in tmp_path.rglob("*.dcm")}) == 5


def test_patients_are_called_phantom_unless_names_are_given(tmp_path: Path):
    write_phantom_dicom(tmp_path, "brain", seed=1, **SMALL)
    names = {str(pydicom.dcmread(path).PatientName) for path in tmp_path.rglob("*.dcm")}
    assert names == {f"PHANTOM^{i:04d}" for i in range(9)}


def test_a_folder_that_holds_something_is_left_untouched(tmp_path: Path):
    (tmp_path / "mine.txt").write_text("keep")
    with pytest.raises(ManifestError, match=r"^A phantom set must go into an empty or a new folder\."):
        write_phantom_dicom(tmp_path, "chest", seed=1, **SMALL)
    assert digests(tmp_path).keys() == {"mine.txt"}


NAMES = (
    "The 'patient_names' of a phantom set must be at least one name of 1 to 40 characters without a "
    "backslash. "
)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"images_per_patient": 0},
            "'images_per_patient' of a phantom set must be at least 1. Got 0 instead.",
        ),
        ({"patient_names": ["a", "b" * 41]}, NAMES + "Got 2 names, not all of them so."),
        ({"patient_names": []}, NAMES + "Got 0 names, not all of them so."),
        ({"train_normal": -1}, "'train_normal' of a phantom set must be at least 0. Got -1 instead."),
        ({"size": 8}, "The 'size' of a phantom must be in [64, 2048] pixels. Got 8 instead."),
    ],
)
def test_settings_out_of_range_are_refused(change: dict[str, object], message: str, tmp_path: Path):
    with pytest.raises(SettingsError) as error:
        write_phantom_dicom(tmp_path / "set", "chest", seed=1, **{**SMALL, **change})
    assert str(error.value) == message
