"""How a tree of DICOM files becomes a data set: chosen, labelled and split by patient."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings as hypothesis_settings, strategies as st
from PIL import Image
from pydicom.uid import (
    BasicTextSRStorage,
)

from mediclip.data.dicom_tree import TreeSettings, open_dicom_tree
from mediclip.data.manifest import open_dataset
from mediclip.data.samples import Dataset
from mediclip.errors import ManifestError, SettingsError
from simulation.phantom import write_phantom_dicom
from tests.mediclip.data.dicom_tree.conftest import Write, dicom_bytes


def files_of(dataset: Dataset, tree: Path) -> tuple[list[str], list[str]]:
    train, test = (
        [sample.image.relative_to(tree).as_posix() for sample in side]
        for side in (dataset.train, dataset.test)
    )
    return train, test


@pytest.mark.parametrize(
    ("text", "expected", "left_out"),
    [
        ("", ["a", "b", "c", "d"], {}),
        ('modality = "cr"', ["a", "b"], {"other modality": 2}),
        (
            'modality = ["MR", "CR"]\nbody_part = ["CHEST"]',
            ["a"],
            {"other body part": 2, "other modality": 1},
        ),
        ('view = "PA"', ["b"], {"other view": 3}),
    ],
)
def test_images_are_chosen_by_modality_body_part_and_view(
    text: str, expected: list[str], left_out: dict[str, int], write_file: Write
):
    write_file("a", Modality="CR", BodyPartExamined="CHEST")
    write_file("b", Modality="CR", BodyPartExamined="HAND", ViewPosition="PA")
    write_file("c", Modality="MR", BodyPartExamined="BRAIN")
    tree = write_file("d", Modality="US", BodyPartExamined="CHEST")
    for place in (tree / "dicom.toml", tree.with_name("tree.toml")):
        place.write_text(text)
        dataset = open_dataset(tree)
        assert files_of(dataset, tree)[0] == expected
        assert dataset.left_out == left_out
        place.unlink()


def test_a_folder_may_ask_for_policies(write_file: Write):
    write_file("a.dcm")
    tree = write_file("dicom.toml", b'[policy]\nmr = "stored-range"\nCT = "header-voi"\n')
    assert open_dataset(tree).policies == {"MR": "stored-range", "CT": "header-voi"}
    (tree / "dicom.toml").unlink()
    assert open_dataset(tree).policies == {}


@pytest.mark.parametrize(("frames", "expected"), [("first", [0]), ("middle", [2]), ("all", [0, 1, 2, 3, 4])])
def test_frames_of_a_file_become_samples_of_one_patient(frames: str, expected: list[int], write_file: Write):
    values = {"NumberOfFrames": "5", "PixelData": bytes(48 * 5)}
    tree = write_file("a.dcm", **values, PatientID=None, StudyInstanceUID=None)
    dataset = open_dicom_tree(tree, "mine", settings=TreeSettings(frames=frames))
    assert [sample.frame for sample in dataset.train] == expected
    assert [sample.index for sample in dataset.train] == list(range(len(expected)))
    assert len({sample.group for sample in dataset.train}) == 1


@pytest.mark.parametrize(
    ("text", "error", "message"),
    [
        ("canary = 1", SettingsError, "unknown or have another value: canary; correct them."),
        ('frames = "last"', SettingsError, "unknown or have another value: frames; correct them."),
        ("modality = 3", SettingsError, "unknown or have another value: modality; correct them."),
        ('[policy]\nMR = "canary"', SettingsError, "unknown or have another value: policy; correct them."),
        ("modality =", ManifestError, "must be a TOML file in UTF-8, but they are not; correct them."),
    ],
)
def test_faulty_settings_are_told(text: str, error: type[Exception], message: str, write_file: Write):
    tree = write_file("dicom.toml", text.encode())
    with pytest.raises(error) as caught:
        open_dataset(tree, "mine")
    assert str(caught.value).startswith("The settings of 'mine' must be ")
    assert str(caught.value).endswith(message)


def test_two_settings_files_are_one_too_many(write_file: Write):
    tree = write_file("dicom.toml", b"")
    tree.with_name("tree.toml").write_text("")
    with pytest.raises(
        ManifestError, match=r"must have one settings file at most, but there is one in it and"
    ):
        open_dataset(tree, "mine")


def test_a_tree_without_a_usable_image_says_what_it_holds(write_file: Write):
    write_file("report.dcm", sop_class=BasicTextSRStorage, pixels=False)
    tree = write_file("notes.txt", b"text")
    with pytest.raises(ManifestError) as error:
        open_dataset(tree, "mine")
    assert str(error.value) == (
        "The data folder of 'mine' must hold a usable image that its settings ask for, but of its files none "
        "is one (not DICOM: 1, structured report: 1); correct the folder or the settings."
    )


def table(
    tree: Path, rows: Sequence[str], heading: str = "file,label,mask,split,patient,frame,both_sides"
) -> None:
    (tree / "manifest.csv").write_text("\n".join([heading, *rows]) + "\n")


def test_the_table_labels_splits_and_orders(write_file: Write):
    for number in range(4):
        write_file(f"{number}.dcm", PatientID=f"P{number}")
    tree = write_file("unlisted.dcm")
    Image.fromarray(np.eye(4, 6, dtype=np.uint8)).save(tree / "m.png")
    table(tree, ["3.dcm,1,m.png,test", "1.dcm,0,,train", "0.dcm,normal,,test", "2.dcm,,,train"])
    dataset = open_dataset(tree)
    assert files_of(dataset, tree) == (["1.dcm", "2.dcm"], ["3.dcm", "0.dcm"])
    assert [(s.index, s.split, s.label, s.label_name, s.set_name) for s in dataset.test] == [
        (0, "test", 1, "abnormal", "tree"),
        (1, "test", 0, "normal", "tree"),
    ]
    assert [s.mask for s in (*dataset.test, *dataset.train)] == [tree / "m.png", None, None, None]
    assert dataset.left_out == {"not in the table": 1}


@given(
    st.lists(st.tuples(st.integers(0, 6), st.sampled_from([0, 0, 1])), min_size=1, max_size=14),
    st.sampled_from(["header", "table"]),
)
@hypothesis_settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=40, deadline=None
)
def test_no_patient_is_ever_on_both_sides(
    tmp_path_factory: pytest.TempPathFactory, images: list[tuple[int, int]], source: str
):
    folder = tmp_path_factory.mktemp("set")
    (folder / "tree").mkdir()
    for number, (patient, _) in enumerate(images):
        content = dicom_bytes(PatientID="same" if source == "table" else f"P{patient}")
        (folder / "tree" / f"{number}.dcm").write_bytes(content)
    rows = [
        f"{n}.dcm,{label},{f'P{patient}' if source == 'table' else ''}"
        for n, (patient, label) in enumerate(images)
    ]
    table(folder / "tree", rows, "file,label,patient")
    dataset = open_dicom_tree(folder / "tree", "mine", cache=folder / "cache")
    train, test = ({sample.group for sample in side} for side in (dataset.train, dataset.test))
    assert not train & test
    assert len(train | test) == len({patient for patient, _ in images})
    assert not any(sample.label for sample in dataset.train)
    assert len(dataset.train) + len(dataset.test) == len(images)


def test_the_split_is_the_same_on_every_machine(write_file: Write, tmp_path: Path):
    for number in range(12):
        write_file(f"{number:02d}.dcm", PatientID=f"P{number // 2}")
    tree = write_file("ill.dcm", PatientID="ill")
    table(tree, [f"{n:02d}.dcm,0" for n in range(12)] + ["ill.dcm,1"], "file,label")
    first, second = (open_dicom_tree(tree, "mine", cache=tmp_path / name) for name in ("one", "two"))
    assert files_of(first, tree) == files_of(second, tree)
    assert {s.group for s in first.train}.isdisjoint(s.group for s in second.train)


def test_a_patient_on_both_sides_is_refused_unless_all_rows_say_so(write_file: Write):
    for name, patient in (("a", "canary"), ("b", "canary"), ("c", "P2")):
        write_file(f"{name}.dcm", PatientID=patient)
    tree = write_file("d.dcm", PatientID="P3")
    rows = ["c.dcm,train,", "a.dcm,train,{}", "b.dcm,test,{}", "d.dcm,test,"]
    heading = "file,split,both_sides"
    for answers in (("", ""), ("yes", "no")):
        table(
            tree, [row.format(answer) for row, answer in zip(rows, ("", *answers, ""), strict=True)], heading
        )
        with pytest.raises(ManifestError) as error:
            open_dataset(tree)
        assert str(error.value) == (
            f"Line {3 if answers[0] == '' else 4} of the table must name an image of a patient who is in "
            "train or in test alone, but this patient is in both (1 are in the table); move all images of a "
            "patient to one side, or write yes as both_sides in all of them."
        )
    table(tree, [row.format("yes") for row in rows], heading)
    assert files_of(open_dataset(tree), tree) == (["c.dcm", "a.dcm"], ["b.dcm", "d.dcm"])


NOT_THERE = "name a usable image in the folder, but there is none; correct the path or remove the line."


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("canary.dcm", NOT_THERE),
        (
            "report.dcm",
            (
                "name a usable image in the folder, but its file is left out (structured report); correct "
                "the path or remove the line."
            ),
        ),
        ("link.dcm", NOT_THERE),
        (
            "a.dcm,1,canary.png",
            "name a mask that exists inside the folder, but it is missing; restore it or correct the path.",
        ),
        (
            "a.dcm,1,link.png",
            (
                "name a mask that exists inside the folder, but it leads out of it; restore it or "
                "correct the path."
            ),
        ),
        ("a.dcm,,,,,1", "name a frame that exists, from 0, but its image has 1; correct it."),
        (
            "a.dcm\na.dcm,,,,,0",
            "name a new frame of its file, but line 2 names the same one; remove one of them.",
        ),
    ],
)
def test_a_row_that_fits_no_image_is_told(row: str, message: str, write_file: Write, tmp_path: Path):
    write_file("report.dcm", sop_class=BasicTextSRStorage, pixels=False)
    tree = write_file("a.dcm")
    for suffix in ("dcm", "png"):
        (tmp_path / f"outside.{suffix}").write_bytes(dicom_bytes())
        (tree / f"link.{suffix}").symlink_to(tmp_path / f"outside.{suffix}")
    table(tree, [row])
    with pytest.raises(ManifestError) as error:
        open_dataset(tree)
    assert str(error.value) == f"Line {3 if chr(10) in row else 2} of the table must {message}"


def test_rows_that_the_settings_do_not_ask_for_are_passed_over(write_file: Write):
    write_file("a.dcm", Modality="MR")
    tree = write_file("b.dcm", Modality="US")
    table(tree, ["a.dcm", "b.dcm"], "file")
    dataset = open_dicom_tree(tree, "mine", settings=TreeSettings(modality="MR"))
    assert files_of(dataset, tree) == (["a.dcm"], [])
    assert dataset.left_out["other modality"] == 1


@pytest.mark.parametrize("organ", ["chest", "brain", "breast"])
def test_the_phantoms_are_a_set_as_they_are_written(organ: str, tmp_path: Path):
    counts = {"train_normal": 4, "test_normal": 3, "test_abnormal": 2}
    tree = write_phantom_dicom(tmp_path / "tree", organ, seed=1, size=64, images_per_patient=2, **counts)
    dataset = open_dataset(tree)
    assert [s.label for s in dataset.train] == [0] * 4
    assert [s.label for s in dataset.test] == [0] * 3 + [1] * 2
    assert [s.mask is not None for s in dataset.test] == [False] * 3 + [True] * 2
    assert sorted(Counter(s.group for s in (*dataset.train, *dataset.test)).values()) == [1, 2, 2, 2, 2]
