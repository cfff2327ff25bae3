"""Trees of real DICOM files, made small: what is found and left out, and how it is labelled and split."""

import io
import os
import time
import zlib
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pydicom
import pytest
from hypothesis import HealthCheck, given, settings as hypothesis_settings, strategies as st
from PIL import Image
from pydicom.dataset import Dataset as DicomDataset, FileMetaDataset
from pydicom.uid import (
    BasicTextSRStorage,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    MediaStorageDirectoryStorage,
    MRImageStorage,
    RTPlanStorage,
    SegmentationStorage,
)

from mediclip.data.dicom_tree import TreeSettings, open_dicom_tree, scan_tree
from mediclip.data.manifest import open_dataset
from mediclip.data.samples import Dataset
from mediclip.errors import ManifestError, SettingsError
from simulation.phantom import write_phantom_dicom

Write = Callable[..., Path]


def dicom_bytes(
    *,
    syntax: str = ExplicitVRLittleEndian,
    sop_class: str = MRImageStorage,
    pixels: bool = True,
    **values: object,
) -> bytes:
    """Write a file of 4 x 6 pixels by pydicom; values that are None are left out."""
    dataset = DicomDataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = syntax
    dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID = sop_class
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID = "1.2.3.4"
    defaults = {
        "PatientID": "P1",
        "PatientName": "Canary^Name",
        "Modality": "MR",
        "StudyInstanceUID": "1.2.3",
    }
    if pixels:
        dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
        dataset.Rows, dataset.Columns = 4, 6
        dataset.BitsAllocated = dataset.BitsStored = 16
        dataset.HighBit, dataset.PixelRepresentation = 15, 0
        dataset.PixelData = bytes(48)
        dataset["PixelData"].VR = "OW"
    for keyword, value in {**defaults, **values}.items():
        if value is not None:
            setattr(dataset, keyword, value)
    stream = io.BytesIO()
    dataset.save_as(stream, enforce_file_format=True)
    return stream.getvalue()


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Keep what tests remember out of the user's own cache."""
    monkeypatch.setenv("MEDICLIP_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def write_file(tmp_path: Path) -> Write:
    """Write one file into the tree; bytes, or an image with the given values."""

    def make(file: str, content: bytes | None = None, **values: object) -> Path:
        path = tmp_path / "tree" / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(dicom_bytes(**values) if content is None else content)
        return tmp_path / "tree"

    return make


def files_of(dataset: Dataset, tree: Path) -> tuple[list[str], list[str]]:
    train, test = (
        [sample.image.relative_to(tree).as_posix() for sample in side]
        for side in (dataset.train, dataset.test)
    )
    return train, test


@pytest.mark.parametrize(
    "syntax",
    [
        ExplicitVRLittleEndian,
        ImplicitVRLittleEndian,
        ExplicitVRBigEndian,
        DeflatedExplicitVRLittleEndian,
    ],
)
def test_a_header_is_read_in_every_encoding(syntax: str, write_file: Write):
    values = {"BodyPartExamined": "BRAIN", "ViewPosition": "AP ", "Manufacturer": "Scanner and Sons"}
    tree = write_file("a.dcm", syntax=syntax, SpecificCharacterSet="ISO_IR 192", **values)
    (image,) = scan_tree(tree, "mine").images
    facts = image.facts
    assert (facts.modality, facts.body_part, facts.view) == ("MR", "BRAIN", "AP")
    assert (facts.rows, facts.columns, facts.frames, facts.bits) == (4, 6, 1, 16)
    assert (facts.photometric, facts.transfer_syntax) == ("MONOCHROME2", syntax)
    assert facts.manufacturer == "Scanner and Sons"


def test_frames_are_counted(write_file: Write):
    tree = write_file("a.dcm", NumberOfFrames="5", PixelData=bytes(48 * 5))
    (image,) = scan_tree(tree, "mine").images
    assert image.facts.frames == 5


def test_a_header_that_goes_on_is_read_to_its_end(write_file: Write):
    tree = write_file(
        "a.dcm", ImageComments="x" * 10_000, EncapsulatedDocument=bytes(300_000), ICCProfile=bytes(10**6)
    )
    assert len(scan_tree(tree, "mine").images) == 1


def test_what_is_no_image_is_left_out_and_counted(write_file: Write):
    whole = dicom_bytes()
    write_file("scan.dcm", whole)
    write_file("no-extension", whole)
    write_file("report.dcm", sop_class=BasicTextSRStorage, pixels=False)
    write_file("segments.dcm", sop_class=SegmentationStorage)
    write_file("plan.dcm", sop_class=RTPlanStorage, pixels=False)
    write_file("DICOMDIR", sop_class=MediaStorageDirectoryStorage, pixels=False)
    write_file("without.dcm", PixelData=None, pixels=False, Rows=4, Columns=6)
    write_file("nothing.dcm", Rows=0)
    write_file("cut.dcm", whole[:-100])
    write_file("text.txt", b"canary")
    write_file("empty.dcm", b"")
    write_file(".hidden.dcm", whole)
    tree = write_file(".folder/scan.dcm", whole)
    scan = scan_tree(tree, "mine")
    assert [image.file for image in scan.images] == ["no-extension", "scan.dcm"]
    assert scan.left_out == {
        "DICOMDIR": 1,
        "hidden": 2,
        "no pixels": 2,
        "invalid header": 1,
        "not DICOM": 1,
        "radiotherapy object": 1,
        "segmentation or registration": 1,
        "structured report": 1,
        "truncated header": 1,
    }
    assert open_dataset(tree).left_out == scan.left_out


def test_nothing_outside_the_folder_is_reached(write_file: Write, tmp_path: Path):
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "scan.dcm").write_bytes(dicom_bytes())
    tree = write_file("scan.dcm")
    (tree / "link.dcm").symlink_to(tmp_path / "outside" / "scan.dcm")
    (tree / "folder").symlink_to(tmp_path / "outside", target_is_directory=True)
    (tree / "loop").symlink_to(tree, target_is_directory=True)
    os.mkfifo(tree / "pipe")
    scan = scan_tree(tree, "mine")
    assert [image.file for image in scan.images] == ["scan.dcm"]
    assert scan.left_out == {"link": 3, "no regular file": 1}


def test_a_bomb_is_left_out_at_once(write_file: Write):
    endless = b"\x08\x00\x01\x00UN\x00\x00\xff\xff\xff\x7f" + bytes(200 * 2**20)
    deflate = zlib.compressobj(9, wbits=-15)
    bomb = deflate.compress(endless) + deflate.flush()
    write_file("bomb.dcm", _meta(DeflatedExplicitVRLittleEndian) + bomb)
    tree = write_file("scan.dcm")
    used = time.process_time()  # a busy machine does not decide
    scan = scan_tree(tree, "mine")
    assert time.process_time() - used < 1
    assert [image.file for image in scan.images] == ["scan.dcm"]


def _meta(syntax: str) -> bytes:
    """Give preamble and file meta information alone (PS3.10 7.1)."""
    uid = syntax.encode() + b"\0" * (len(syntax) % 2)
    element = b"\x02\x00\x10\x00UI" + len(uid).to_bytes(2, "little") + uid
    return bytes(128) + b"DICM\x02\x00\x00\x00UL\x04\x00" + len(element).to_bytes(4, "little") + element


@given(st.data())
@hypothesis_settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=300, deadline=5000
)
def test_any_damage_leaves_a_file_out_or_in_and_breaks_nothing(write_file: Write, data: st.DataObject):
    syntax = data.draw(
        st.sampled_from([ExplicitVRLittleEndian, ImplicitVRLittleEndian, DeflatedExplicitVRLittleEndian])
    )
    content = bytearray(dicom_bytes(syntax=syntax, ImageComments="canary"))
    for _ in range(data.draw(st.integers(1, 8))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    scan = scan_tree(write_file("a.dcm", bytes(content[: data.draw(st.integers(0, len(content)))])), "mine")
    assert len(scan.images) + sum(scan.left_out.values()) == 1


def test_patients_are_grouped_by_number_then_study_then_file(write_file: Write):
    write_file("a.dcm", PatientID="P1", StudyInstanceUID="1.1")
    write_file("b.dcm", PatientID="P1 ", StudyInstanceUID="1.2")
    write_file("c.dcm", PatientID="P2", StudyInstanceUID="1.1")
    write_file("d.dcm", PatientID="", StudyInstanceUID="1.1")
    write_file("e.dcm", PatientID=None, StudyInstanceUID="1.1")
    write_file("f.dcm", PatientID=None, StudyInstanceUID=None)
    tree = write_file("g.dcm", PatientID=None, StudyInstanceUID=None)
    groups = [sample.group for sample in open_dataset(tree).train]
    positions = [groups.index(group) for group in groups]
    assert positions == [0, 0, 2, 3, 3, 5, 6]


def test_no_name_number_or_path_is_kept_shown_or_logged(
    write_file: Write, cache: Path, caplog: pytest.LogCaptureFixture
):
    caplog.set_level(0)
    values = {
        "PatientID": "canary1",
        "PatientName": "canary2",
        "StudyInstanceUID": "1.2.987654321",
        "BodyPartExamined": "canary3 of Ann's",
        "ViewPosition": "canary4 (Ann)",
        "PatientBirthDate": "canary5",
    }
    with pytest.warns(UserWarning, match="Invalid value"):
        content = dicom_bytes(**values)
    caplog.clear()
    tree = write_file("canary6/canary7.dcm", content)
    scan = scan_tree(tree, "mine")
    dataset = open_dataset(tree, "mine")
    kept = b"".join(path.read_bytes() + path.name.encode() for path in cache.rglob("*") if path.is_file())
    for text in (repr(scan), repr(dataset), caplog.text, kept.decode("latin-1")):
        assert "canary" not in text.lower()
        assert "987654321" not in text
    assert (scan.images[0].facts.body_part, scan.images[0].facts.view) == ("", "")


def test_only_what_has_changed_is_read_again(write_file: Write):
    for name in "abc":
        write_file(f"{name}.dcm", PatientID=name)
    tree = write_file("notes.txt", b"text")
    first = scan_tree(tree, "mine")
    again = scan_tree(tree, "mine")
    assert (first.n_read, again.n_read) == (4, 0)
    assert (again.images, again.left_out) == (first.images, first.left_out)
    write_file("b.dcm", PatientID="other", Manufacturer="another")
    (tree / "c.dcm").unlink()
    last = scan_tree(tree, "mine")
    assert last.n_read == 1
    assert [image.file for image in last.images] == ["a.dcm", "b.dcm"]
    assert last.images[1].facts.manufacturer == "another"


def test_progress_is_told(write_file: Write):
    told: list[tuple[int, int]] = []
    tree = write_file("a.dcm")
    scan_tree(tree, "mine", on_progress=lambda done, total: told.append((done, total)))
    assert told == [(1, 1)]


def test_the_cache_does_not_go_into_the_data_folder(write_file: Write):
    tree = write_file("a.dcm")
    with pytest.raises(SettingsError) as error:
        scan_tree(tree, "mine", cache=tree / "cache")
    assert str(error.value) == (
        "The cache folder must lie outside the data folder of 'mine', but it lies inside; choose another "
        "with MEDICLIP_CACHE."
    )
    assert [path.name for path in tree.iterdir()] == ["a.dcm"]


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


@pytest.mark.shared
def test_the_real_files_are_all_images(shared: Path):
    scan = scan_tree(shared / "data" / "dicom", "real")
    assert (len(scan.images), scan.left_out) == (39, {})
    assert Counter(image.facts.modality for image in scan.images) == {
        "MR": 29,
        "CR": 5,
        "US": 3,
        "DX": 1,
        "CT": 1,
    }
    for image in scan.images:
        header = pydicom.dcmread(shared / "data" / "dicom" / image.file, stop_before_pixels=True)
        assert (header.Rows, header.Columns) == (image.facts.rows, image.facts.columns)
        assert header.get("NumberOfFrames", 1) == image.facts.frames
        assert header.file_meta.TransferSyntaxUID == image.facts.transfer_syntax


def test_a_large_tree_is_read_once_and_then_from_its_cache(tmp_path: Path):
    # How long 10,000 headers take is measured by `python -m benchmarks dicom_scan`.
    content = dicom_bytes(PatientID="P@@@@@@")
    for patient in range(50):
        folder = tmp_path / "tree" / f"{patient:03d}"
        folder.mkdir(parents=True)
        for number in range(20):
            (folder / f"{number:02d}.dcm").write_bytes(content.replace(b"P@@@@@@", b"P%06d" % patient))
    first, again = (scan_tree(tmp_path / "tree", "large", cache=tmp_path / "cache") for _ in range(2))
    assert (first.n_read, again.n_read) == (1000, 0)
    assert len({image.group for image in first.images}) == 50
    assert again.images == first.images
