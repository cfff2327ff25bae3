"""Looks for words in bytes as they are, in other encodings and inside compressed parts, and in databases."""

import base64
import re
import sqlite3
import zlib

# How compressed parts begin: gzip; zlib at its four usual levels; a deflated member of a zip archive.
_GZIP, _ZLIB, _ZIP = rb"\x1f\x8b\x08", rb"\x78[\x01\x5e\x9c\xda]", rb"PK\x03\x04.{4}\x08\x00"
_BEGINNING = re.compile(b"(?s)(?P<gzip>" + _GZIP + b")|(?P<zlib>" + _ZLIB + b")|(?P<zip>" + _ZIP + b")")
_DEPTH = 3


def forms(word):
    """Give the bytes by which a word would show, wherever in a base64 text it begins."""
    found = set()
    for encoding in ("utf-8", "utf-16-le", "utf-16-be"):
        plain = word.encode(encoding)
        found |= {plain, plain.lower(), plain.upper(), plain.hex().encode()}
        for shift in range(3):
            text = base64.b64encode(b"\0" * shift + plain)
            # What depends on the neighbours is cut off: it is not the word's alone.
            first, last = -(-8 * shift // 6), (shift + len(plain)) * 8 // 6
            found |= {text[first:last], text[first:last].translate(bytes.maketrans(b"+/", b"-_"))}
    return found


def compressed_parts(content):
    """Yield what parts of some bytes unpack to, as far as it can be unpacked."""
    for match in _BEGINNING.finditer(content):
        start, bits = match.start(), zlib.MAX_WBITS
        if match["gzip"]:
            bits += 16
        elif match["zip"]:
            names = content[start + 26 : start + 30]
            start += 30 + int.from_bytes(names[:2], "little") + int.from_bytes(names[2:], "little")
            bits = -zlib.MAX_WBITS
        unpacked = bytearray()
        unpacker = zlib.decompressobj(bits)
        for begin in range(start, len(content), 1 << 12):
            try:
                unpacked += unpacker.decompress(content[begin : begin + (1 << 12)])
            except zlib.error:
                break
            if unpacker.eof:
                break
        if unpacked:
            yield bytes(unpacked)


def found_in(content, words, depth=_DEPTH):
    """List the words that some bytes hold in any form."""
    found = {word for word in words if any(form in content for form in forms(word))}
    if depth:
        for part in compressed_parts(content):
            found |= set(found_in(part, words, depth - 1))
    return sorted(found)


def database_content(path):
    """Give every value of a SQLite database: in the file a long one is cut into pages."""
    with sqlite3.connect(f"file:{path}?mode=ro", uri=True) as database:
        tables = [name for (name,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        values = [v for table in tables for row in database.execute(f'SELECT * FROM "{table}"') for v in row]  # noqa: S608
    return b"\n".join(v if isinstance(v, bytes) else str(v).encode() for v in values)
