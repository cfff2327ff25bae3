import os
from collections.abc import Callable
from pathlib import Path

import pytest

from mediclip.data.manifest import has_masks, open_dataset
from mediclip.errors import ManifestError

TRAIN = {"filename": "train/normal/1.png", "label": 0, "label_name": "normal", "clsname": "chest"}
NORMAL = {"filename": "test/normal/1.png", "label": 0, "label_name": "normal", "clsname": "chest"}
ILL = {"filename": "test/abnormal/1.png", "label": 1, "label_name": "abnormal", "clsname": "chest"}


def test_lists_are_read_in_their_order(write_lists: Callable):
    masked = {**ILL, "filename": "test/abnormal/2.png", "mask": "test/ground_true/2.png"}
    root = write_lists([TRAIN], [ILL, NORMAL, masked])
    data = open_dataset(root, "chest")
    assert [(s.index, s.label, s.label_name, s.split) for s in data.train] == [(0, 0, "normal", "train")]
    assert [(s.index, s.label, s.split) for s in data.test] == [
        (0, 1, "test"),
        (1, 0, "test"),
        (2, 1, "test"),
    ]
    assert [s.mask for s in data.test] == [None, None, root / "images" / "test/ground_true/2.png"]
    assert data.test[1].image == root / "images" / "test/normal/1.png"
    assert has_masks(data.test)


def test_blank_lines_a_byte_order_mark_and_a_missing_last_newline_are_no_faults(write_lists: Callable):
    root = write_lists([TRAIN], [NORMAL, ILL])
    path = root / "samples" / "test.json"
    lines = path.read_bytes().split(b"\n")
    path.write_bytes(b"\xef\xbb\xbf\n" + lines[0] + b"\r\n  \n" + lines[1])
    assert [s.index for s in open_dataset(root).test] == [0, 1]


def test_a_mask_of_a_normal_image_is_passed_over_and_a_null_mask_is_none(write_lists: Callable):
    root = write_lists([TRAIN], [{**NORMAL, "mask": "m.png"}, {**ILL, "mask": None}])
    assert [s.mask for s in open_dataset(root).test] == [None, None]


def test_a_missing_mask_does_not_keep_a_set_from_being_opened(write_lists: Callable):
    data = open_dataset(write_lists([TRAIN], [{**ILL, "mask": "absent.png"}]))
    assert data.test[0].mask is not None


def test_a_label_name_may_be_left_out_and_may_be_any_that_does_not_contradict(write_lists: Callable):
    root = write_lists([TRAIN], [{"filename": "1.png", "label": 1}, {**ILL, "label_name": "benign"}])
    assert [s.label_name for s in open_dataset(root).test] == ["abnormal", "benign"]


LABEL = "have the label 0 (normal) or 1 (abnormal), but it has another or none; correct it."
OBJECT = "be one JSON object in UTF-8, but it is not; correct it."
OUTSIDE = "have a {} that stays inside 'images', but it leads out of the data folder; correct it."
NO_PATH = "have a {} in the form of a path, but it has none; correct it."
NAMES = "have a label_name that fits its label, such as '{}', but it has another; correct one of the two."
TOO_LONG = (
    "name an image that exists, but it cannot be reached (File name too long); restore it or remove the line."
)
FAULTS = {
    "text": (b"Doe", OBJECT),
    "half an object": (b'{"filename": "Doe.png", "label":', OBJECT),
    "a list": (b'["Doe.png", 0]', OBJECT),
    "two objects": (b'{"label": 0}{"label": 1}', OBJECT),
    "not utf-8": (b'{"filename": "Doe\xff.png", "label": 0}', OBJECT),
    "nested without end": (b"[" * 100_000, OBJECT),
    "a number of 5000 digits": (b'{"label": ' + b"9" * 5000 + b"}", OBJECT),
    "label 2": ({**NORMAL, "label": 2}, LABEL),
    "label -1": ({**NORMAL, "label": -1}, LABEL),
    "label true": ({**NORMAL, "label": True}, LABEL),
    "label as text": ({**NORMAL, "label": "1"}, LABEL),
    "label 1.0": ({**NORMAL, "label": 1.0}, LABEL),
    "a list as label": ({**NORMAL, "label": [1]}, LABEL),
    "no label": ({"filename": "a.png"}, LABEL),
    "contradiction in a normal": ({**NORMAL, "label_name": "abnormal"}, NAMES.format("normal")),
    "contradiction in an abnormal": ({**ILL, "label_name": "normal"}, NAMES.format("abnormal")),
    "a number as label name": ({**ILL, "label_name": 3}, NAMES.format("abnormal")),
    "no file name": ({"label": 0}, NO_PATH.format("filename")),
    "an empty file name": ({"label": 0, "filename": ""}, NO_PATH.format("filename")),
    "a number as file name": ({"label": 0, "filename": 7}, NO_PATH.format("filename")),
    "a number as mask": ({**ILL, "mask": 7}, NO_PATH.format("mask")),
    "above the folder": ({"label": 0, "filename": "../Doe.png"}, OUTSIDE.format("filename")),
    "up and down again": ({"label": 0, "filename": "a/../../images/a.png"}, OUTSIDE.format("filename")),
    "absolute": ({"label": 0, "filename": "/etc/hostname"}, OUTSIDE.format("filename")),
    "a null character": ({"label": 0, "filename": "a\0.png"}, OUTSIDE.format("filename")),
    "a mask above the folder": ({**ILL, "mask": "../../Doe.png"}, OUTSIDE.format("mask")),
    "absent": (
        {"label": 0, "filename": "test/normal/Doe.png"},
        "name an image that exists, but it is missing; restore it or remove the line.",
    ),
    "too long": (
        {"label": 0, "filename": "Doe" * 200 + ".png"},
        TOO_LONG,
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_line_that_cannot_be_used_is_named_by_its_number_and_nothing_is_quoted(
    write_lists: Callable, write: Callable, fault: str
):
    entry, sentence = FAULTS[fault]
    root = write_lists([TRAIN], [b"", NORMAL, entry, ILL], images=False)
    for good in (TRAIN, NORMAL, ILL):
        write(root / "images" / good["filename"])
    with pytest.raises(ManifestError) as caught:
        open_dataset(root)
    assert str(caught.value) == f"Line 3 of the test list must {sentence}"


def test_an_image_may_be_listed_once(write_lists: Callable):
    again = "name a new image, but line 1 of the {} list names the same one; remove one of them."
    with pytest.raises(ManifestError) as caught:
        open_dataset(write_lists([TRAIN], [NORMAL, {**NORMAL, "filename": "./train/normal//1.png"}]))
    assert str(caught.value) == f"Line 2 of the test list must {again.format('train')}"
    with pytest.raises(ManifestError) as caught:
        open_dataset(write_lists([TRAIN], [NORMAL, ILL, NORMAL]))
    assert str(caught.value) == f"Line 3 of the test list must {again.format('test')}"


def test_an_absolute_path_is_refused_even_when_it_leads_into_the_set(write_lists: Callable):
    root = write_lists([TRAIN], [NORMAL])
    inside = {**NORMAL, "filename": str(root / "images" / NORMAL["filename"])}
    with pytest.raises(ManifestError, match=r"^Line 1 of the test list must have a filename that stays"):
        open_dataset(write_lists([TRAIN], [inside], images=False))


def test_links_may_lead_within_the_set_and_not_out_of_it(
    tmp_path: Path, write_lists: Callable, write: Callable
):
    root = write_lists([TRAIN], [NORMAL])
    linked = root / "images" / "test/normal/1.png"
    linked.unlink()
    linked.symlink_to(write(root / "objects" / "1.png"))
    assert open_dataset(root).test[0].image == linked
    linked.unlink()
    linked.symlink_to(write(tmp_path / "elsewhere.png"))
    with pytest.raises(ManifestError, match=r"^Line 1 of the test list must have a filename that stays"):
        open_dataset(root)
    linked.unlink()
    linked.symlink_to(linked)
    with pytest.raises(ManifestError, match=r"^Line 1 of the test list must have a filename that stays"):
        open_dataset(root)


def test_the_images_folder_may_itself_be_a_link(tmp_path: Path, write_lists: Callable):
    root = write_lists([TRAIN], [NORMAL])
    (root / "images").rename(tmp_path / "disk")
    (root / "images").symlink_to(tmp_path / "disk")
    assert len(open_dataset(root).test) == 1


@pytest.mark.parametrize("split", ["train", "test"])
def test_a_list_that_is_missing_empty_or_too_large_is_named(write_lists: Callable, split: str):
    root = write_lists([TRAIN], [NORMAL])
    path = root / "samples" / f"{split}.json"
    os.truncate(path, 2**26 + 1)
    with pytest.raises(ManifestError, match=rf"^The {split} list of 'set' must have at most 64 MiB, but"):
        open_dataset(root)
    path.write_bytes(b"\n  \n")
    with pytest.raises(ManifestError, match=rf"^The {split} list of 'set' must name at least one image, but"):
        open_dataset(root)
    path.unlink()
    with pytest.raises(ManifestError, match=rf"in 'samples', but {split}\.json is missing; add it\.$"):
        open_dataset(root)


def test_lists_need_the_images_folder(write_lists: Callable):
    root = write_lists([TRAIN], [NORMAL], images=False)
    (root / "images").rmdir()
    with pytest.raises(
        ManifestError, match=r"must have an 'images' folder beside 'samples', but it has none"
    ):
        open_dataset(root)
