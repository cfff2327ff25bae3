"""What a scan of a tree finds, leaves out, remembers and keeps to itself."""

import os
import time
import zlib
from collections import Counter
from pathlib import Path

import pydicom
import pytest
from hypothesis import HealthCheck, given, settings as hypothesis_settings, strategies as st
from pydicom.uid import (
    BasicTextSRStorage,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    MediaStorageDirectoryStorage,
    RTPlanStorage,
    SegmentationStorage,
)

from mediclip.data.dicom_tree import scan_tree
from mediclip.data.manifest import open_dataset
from mediclip.errors import SettingsError
from tests.mediclip.data.dicom_tree.conftest import Write, dicom_bytes


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
