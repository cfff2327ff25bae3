import json
import multiprocessing
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, strategies as st

from mediclip.data.dicom_tree.cache import Pseudonyms, ScanCache, cache_folder, open_pseudonyms
from mediclip.errors import SettingsError


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({"MEDICLIP_CACHE": "/one", "XDG_CACHE_HOME": "/two", "HOME": "/three"}, "/one"),
        ({"XDG_CACHE_HOME": "/two", "HOME": "/three"}, "/two/mediclip"),
        ({"XDG_CACHE_HOME": "two", "HOME": "/three"}, "/three/.cache/mediclip"),
        ({"HOME": "/three"}, "/three/.cache/mediclip"),
    ],
)
def test_the_cache_is_where_the_environment_says(
    variables: dict[str, str], expected: str, monkeypatch: pytest.MonkeyPatch
):
    for name in ("MEDICLIP_CACHE", "XDG_CACHE_HOME", "HOME"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert cache_folder() == Path(expected)


def test_a_user_without_a_home_is_asked_for_a_folder():
    # In a program of its own, whose password file knows nobody.
    code = (
        "import os; os.environ.clear()\n"
        "from mediclip.data.dicom_tree.cache import cache_folder\n"
        "from mediclip.errors import SettingsError\n"
        "import pwd; pwd.getpwuid = lambda number: {}[number]\n"
        "try: cache_folder()\n"
        "except SettingsError as error: print(error)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == (
        "MEDICLIP_CACHE must name a cache folder where the user has no home, but it is not set; set it."
    )


def test_the_key_is_made_once_and_is_its_owners_alone(tmp_path: Path):
    first = open_pseudonyms(tmp_path / "cache")
    key = tmp_path / "cache" / "key"
    assert (len(key.read_bytes()), key.stat().st_mode & 0o777) == (32, 0o600)
    assert (tmp_path / "cache").stat().st_mode & 0o777 == 0o700
    assert [path.name for path in (tmp_path / "cache").iterdir()] == ["key"]
    assert open_pseudonyms(tmp_path / "cache") == first
    assert open_pseudonyms(tmp_path / "other") != first
    assert first.key.hex() not in repr(first)
    assert str(first.key) not in repr(first)


def test_programs_that_start_at_once_use_one_key(tmp_path: Path):
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        keys = pool.map(open_pseudonyms, [tmp_path / "cache"] * 8)
    assert len({one.key for one in keys}) == 1


def test_a_key_that_others_can_read_is_refused(tmp_path: Path):
    open_pseudonyms(tmp_path)
    (tmp_path / "key").chmod(0o640)
    with pytest.raises(SettingsError) as error:
        open_pseudonyms(tmp_path)
    assert str(error.value) == (
        "The key file in the cache folder must have 32 bytes that its owner alone can read, but others can "
        "read it; remove it, and a new one is made."
    )


def test_a_key_of_another_length_is_refused(tmp_path: Path):
    (tmp_path / "key").write_bytes(b"short")
    with pytest.raises(SettingsError, match="but it has another length; remove it"):
        open_pseudonyms(tmp_path)


def test_without_a_place_for_it_the_key_is_that_of_one_run(tmp_path: Path):
    (tmp_path / "file").write_text("")
    first, second = (open_pseudonyms(tmp_path / "file" / "cache") for _ in range(2))
    assert first != second


@given(st.text(), st.text())
def test_names_are_equal_for_equal_things_only(one: str, other: str):
    names = Pseudonyms(b"k" * 32)
    assert (names.name("patient", one) == names.name("patient", other)) == (one == other)
    assert names.name("file", one) != names.name("patient", one)
    assert names.name("patient", one) != Pseudonyms(b"j" * 32).name("patient", one)


def test_a_name_is_an_hmac_that_anyone_with_the_key_can_check():
    # printf 'patient\0007' | openssl dgst -sha256 -mac HMAC -macopt hexkey:6b (32 times)
    assert Pseudonyms(b"k" * 32).name("patient", "7") == "1c26b64a64135700ec59cbe52eb22b43"


def cache_of(tmp_path: Path, version: str = "1") -> ScanCache:
    return ScanCache(tmp_path, Path("/data/canary"), Pseudonyms(b"k" * 32), version)


def test_facts_are_found_again_while_size_time_and_version_are_the_same(tmp_path: Path):
    cache = cache_of(tmp_path)
    assert cache.find("canary/a.dcm", 5, 6) is None
    cache.keep("canary/a.dcm", 5, 6, {"rows": 4})
    cache.save()
    assert cache_of(tmp_path).find("canary/a.dcm", 5, 6) == {"rows": 4}
    assert cache_of(tmp_path).find("canary/a.dcm", 5, 7) is None
    assert cache_of(tmp_path).find("canary/a.dcm", 4, 6) is None
    assert cache_of(tmp_path).find("canary/b.dcm", 5, 6) is None
    assert cache_of(tmp_path, "2").find("canary/a.dcm", 5, 6) is None


def test_files_that_are_gone_are_forgotten(tmp_path: Path):
    cache = cache_of(tmp_path)
    for name in ("a", "b"):
        cache.keep(name, 1, 1, [])
    cache.save()
    again = cache_of(tmp_path)
    again.find("a", 1, 1)
    again.save()
    assert cache_of(tmp_path).find("b", 1, 1) is None
    assert cache_of(tmp_path).find("a", 1, 1) == []


def test_the_cache_names_nobody_and_is_its_owners_alone(tmp_path: Path):
    cache = cache_of(tmp_path)
    cache.keep("canary/a.dcm", 5, 6, {"rows": 4})
    cache.save()
    (path,) = (tmp_path / "scans").iterdir()
    assert path.stat().st_mode & 0o777 == 0o600
    assert "canary" not in path.name + path.read_text()


@pytest.mark.parametrize(
    "content",
    [b"", b"\xff", b"[]", b'{"version": "1"}', b'{"version": "1", "files": []}', b"[" * 10**5],
    ids=range(6),
)
def test_a_damaged_cache_is_no_cache(content: bytes, tmp_path: Path):
    cache_of(tmp_path).keep("a", 1, 1, [])
    cache = cache_of(tmp_path)
    cache.keep("a", 1, 1, [])
    cache.save()
    (path,) = (tmp_path / "scans").iterdir()
    path.write_bytes(content)
    assert cache_of(tmp_path).find("a", 1, 1) is None


@pytest.mark.parametrize("entry", [None, 3, [], [1, 1], {"0": 1}])
def test_a_damaged_entry_is_no_entry(entry: object, tmp_path: Path):
    cache = cache_of(tmp_path)
    cache.keep("a", 1, 1, [])
    cache.save()
    (path,) = (tmp_path / "scans").iterdir()
    content = json.loads(path.read_text())
    path.write_text(json.dumps(content | {"files": dict.fromkeys(content["files"], entry)}))
    assert cache_of(tmp_path).find("a", 1, 1) is None


def test_a_folder_that_cannot_be_written_is_done_without(tmp_path: Path):
    (tmp_path / "scans").write_text("in the way")
    cache = cache_of(tmp_path)
    cache.keep("a", 1, 1, [])
    cache.save()
    assert [path.name for path in tmp_path.iterdir()] == ["scans"]
