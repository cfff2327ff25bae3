import base64
import gzip
import io
import sqlite3
import zipfile
import zlib

import numpy as np
import pytest

from tests.canaries import database_content, found_in

WORD = "Xanthippe-Canary"
NOISE = np.random.default_rng(0).bytes(5000)


def zipped(content):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.txt", content)
    return buffer.getvalue()


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16-le", "utf-16-be"])
@pytest.mark.parametrize("before", [b"", b"a", b"ab"])
@pytest.mark.parametrize(
    "hide",
    [
        lambda plain: plain,
        base64.b64encode,
        base64.urlsafe_b64encode,
        gzip.compress,
        zlib.compress,
        lambda plain: zlib.compress(plain, 9),
        zipped,
        lambda plain: zipped(gzip.compress(base64.b64encode(plain))),
        lambda plain: plain.hex().encode(),
    ],
    ids=["plain", "base64", "url", "gzip", "zlib", "zlib9", "zip", "nested", "hex"],
)
def test_a_word_is_found_however_it_is_hidden(encoding, before, hide):
    content = NOISE + hide(before + WORD.encode(encoding) + before) + NOISE
    assert found_in(content, [WORD, "another"]) == [WORD]


def test_a_word_that_is_not_there_is_not_found():
    assert found_in(NOISE + zipped(NOISE) + WORD[:-1].encode() + b"?", [WORD]) == []


def test_a_word_across_the_pages_of_a_database_is_found(tmp_path):
    path = tmp_path / "state.db"
    with sqlite3.connect(path) as database:
        database.execute("CREATE TABLE t (a BLOB, b TEXT)")
        for start in range(4000, 8200, 21):
            database.execute("INSERT INTO t VALUES (?, 'x')", ((b"." * start + WORD.encode()).ljust(20000),))
    assert database_content(path).count(WORD.encode()) == 200
    assert path.read_bytes().count(WORD.encode()) < 200
