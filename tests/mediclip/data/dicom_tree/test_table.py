import csv
import io
import json
from pathlib import Path

import pytest
from hypothesis import given, strategies as st

from mediclip.data.dicom_tree.table import Row, find_table, read_table
from mediclip.errors import ManifestError

HEADING = "file,label,mask,split,patient,frame,both_sides\n"


def rows_of(tmp_path: Path, text: str | bytes, suffix: str = ".csv") -> list[Row]:
    path = tmp_path / f"manifest{suffix}"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return read_table(path, "mine")


def test_all_columns_are_read(tmp_path: Path):
    text = HEADING + "a/1.dcm,normal,,train,p 1,,\n./b/2.dcm,1,m/2.png,test,p2,3,yes\n"
    assert rows_of(tmp_path, text) == [
        Row(2, "a/1.dcm", 0, None, "train", "p 1", None, both_sides=False),
        Row(3, "b/2.dcm", 1, "m/2.png", "test", "p2", 3, both_sides=True),
    ]


def test_json_lines_say_the_same_as_csv(tmp_path: Path):
    lines = [
        {"file": "a/1.dcm", "label": 0, "split": "train", "patient": "p 1", "note": [1]},
        {"file": "b/2.dcm", "label": "abnormal", "mask": "m/2.png", "split": "test", "frame": 3},
        {"file": "c.dcm", "label": 1, "mask": None, "split": "test", "patient": 7, "both_sides": True},
    ]
    text = HEADING + "a/1.dcm,0,,train,p 1,,\nb/2.dcm,1,m/2.png,test,,3,\nc.dcm,1,,test,7,,true\n"
    from_json = rows_of(tmp_path, "\n".join(map(json.dumps, lines)), ".jsonl")
    assert [vars(row) | {"line": 0} for row in from_json] == [
        vars(row) | {"line": 0} for row in rows_of(tmp_path, text)
    ]


@pytest.mark.parametrize(
    "text",
    [
        "file\na.dcm\n",
        "\ufefffile\r\na.dcm\r\n",
        "File ; Label;note\na.dcm;;x\n",
        'note,"file"\n"several, things","a.dcm"\n',
        "file,label\na.dcm\n",
    ],
    ids=["one column", "byte order mark", "semicolons", "quotes", "short row"],
)
def test_tables_are_read_as_spreadsheets_write_them(text: str, tmp_path: Path):
    (row,) = rows_of(tmp_path, text)
    assert (row.file, row.label, row.split, row.patient) == ("a.dcm", 0, None, None)


@given(
    st.lists(
        st.text(st.characters(codec="utf-8", exclude_characters="\0\r\n"), min_size=1).filter(
            lambda s: (
                s == s.strip()
                and not s.startswith("/")
                and Path(s).as_posix() == s
                and ".." not in s.split("/")
                and s != "."
            )
        ),
        min_size=1,
        max_size=8,
        unique=True,
    )
)
def test_any_name_of_a_file_survives_both_forms(tmp_path_factory: pytest.TempPathFactory, names: list[str]):
    folder = tmp_path_factory.mktemp("table")
    stream = io.StringIO(newline="")
    csv.writer(stream).writerows([["file"], *([name] for name in names)])
    assert [row.file for row in rows_of(folder, stream.getvalue())] == names
    text = "\n".join(json.dumps({"file": name}, ensure_ascii=False) for name in names)
    assert [row.file for row in rows_of(folder, text, ".jsonl")] == names


def test_a_row_keeps_names_to_itself(tmp_path: Path):
    (row,) = rows_of(tmp_path, "file,label,mask,patient\ncanary/a.dcm,1,canary/m.png,canary-7\n")
    assert "canary" not in repr(row)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "name,label\nx,0\n",
            (
                "The table of 'mine' must have a heading with a 'file' column and no column twice, but it "
                "has another; correct its first line."
            ),
        ),
        ("file\n", "The table of 'mine' must name at least one image, but it is empty; fill or remove it."),
        ("file\na,b\n", "Line 2 of the table must have a cell for each column, but it has more; correct it."),
        (
            'file\na\n"canary',
            (
                "The table of 'mine' must be a CSV file throughout, but a cell after line 2 has wrong quotes "
                "or is too long; correct it."
            ),
        ),
        (
            "file,label\na,canary\n",
            (
                "Line 2 of the table must have normal (or 0) or abnormal (or 1) as its label, but it has "
                "another; correct it."
            ),
        ),
        (
            "file,split\na,canary\n",
            "Line 2 of the table must have train or test as its split, but it has another; correct it.",
        ),
        (
            "file,both_sides\na,canary\n",
            "Line 2 of the table must have yes or no as its both_sides, but it has another; correct it.",
        ),
        (
            "file,frame\na,-1\n",
            (
                "Line 2 of the table must have a whole number from 0 as its frame, but it has another; "
                "correct it."
            ),
        ),
        (
            "file,label,mask\na,0,canary\n",
            (
                "Line 2 of the table must have a mask only where it is abnormal, but it is normal and has "
                "one; correct the label or remove the mask."
            ),
        ),
        (
            "file,label\n,0\n",
            "Line 2 of the table must have a file in the form of a path, but it has none; correct it.",
        ),
        (
            "file\nx\ncanary/../../y\n",
            (
                "Line 3 of the table must have a file that stays inside the folder, but it leads out of it; "
                "correct it."
            ),
        ),
        (
            "file\n/canary\n",
            (
                "Line 2 of the table must have a file that stays inside the folder, but it leads out of it; "
                "correct it."
            ),
        ),
        (
            "file,label,mask\nx,1,../canary\n",
            (
                "Line 2 of the table must have a mask that stays inside the folder, but it leads out of it; "
                "correct it."
            ),
        ),
        (
            "file\ncanary\nb\n./canary\n",
            "Line 4 of the table must name a new image, but line 2 names the same one; remove one of them.",
        ),
        (
            "file,split\na,train\nb,\n",
            (
                "The table of 'mine' must give a split in every row or in none, but it does in 1 of 2; fill "
                "in the rest or remove the column."
            ),
        ),
        (b"file\n\xff\n", "The table of 'mine' must be in UTF-8, but it is not; save it again as UTF-8."),
    ],
)
def test_a_faulty_table_is_told_by_line_and_without_what_it_holds(
    text: str | bytes, message: str, tmp_path: Path
):
    with pytest.raises(ManifestError) as error:
        rows_of(tmp_path, text)
    assert str(error.value) == message
    assert "canary" not in str(error.value)


@pytest.mark.parametrize("line", ["[1]", "{", '{"file": 1.5}', "nul", "[" * 100_000])
def test_a_faulty_json_line_is_told(line: str, tmp_path: Path):
    with pytest.raises(ManifestError, match=r"^Line 2 of the table must "):
        rows_of(tmp_path, '{"file": "a"}\n' + line, ".jsonl")


@pytest.mark.parametrize(
    "place", ["scans/manifest.csv", "scans/manifest.jsonl", "scans.csv", "scans.jsonl", None]
)
def test_the_table_is_found_in_the_folder_and_beside_it(place: str | None, tmp_path: Path):
    (tmp_path / "scans").mkdir()
    if place is not None:
        (tmp_path / place).write_text("file\n")
    found = find_table(tmp_path / "scans", "mine")
    assert found == (None if place is None else tmp_path / place)


def test_two_tables_are_one_too_many(tmp_path: Path):
    (tmp_path / "scans").mkdir()
    for place in ("scans.csv", "scans/manifest.jsonl"):
        (tmp_path / place).write_text("file\n")
    with pytest.raises(ManifestError) as error:
        find_table(tmp_path / "scans", "mine")
    assert str(error.value) == (
        "The data folder of 'mine' must have one table of labels at most, but there are 2 in and beside it; "
        "keep one of them."
    )


def test_a_table_that_is_a_link_is_not_followed(tmp_path: Path):
    (tmp_path / "scans").mkdir()
    (tmp_path / "elsewhere.csv").write_text("file\n")
    (tmp_path / "scans" / "manifest.csv").symlink_to(tmp_path / "elsewhere.csv")
    assert find_table(tmp_path / "scans", "mine") is None
