import subprocess
import sys
from pathlib import Path

from mediclip.provenance import PACKAGES, digest_of, source_digest

ROOT = Path(__file__).resolve().parents[2]


def make_package(folder, files):
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return folder


def test_the_digest_is_that_of_names_and_contents_wherever_they_lie(tmp_path):
    first = make_package(tmp_path / "a", {"x.py": "1", "sub/y.py": "2"})
    second = make_package(tmp_path / "b" / "c", {"x.py": "1", "sub/y.py": "2"})
    assert digest_of({"p": first}) == digest_of({"p": second})
    assert digest_of({"p": first}) != digest_of({"q": first})


def test_the_digest_changes_with_any_source_and_with_nothing_else(tmp_path):
    package = make_package(tmp_path / "p", {"x.py": "1", "sub/y.py": "2"})
    before = digest_of({"p": package})
    make_package(package, {"notes": "n", "__pycache__/x.py": "3", "_bundle/client.py": "4"})
    assert digest_of({"p": package}) == before
    (package / "sub" / "y.py").write_text("3")
    changed = digest_of({"p": package})
    (package / "sub" / "y.py").rename(package / "sub" / "z.py")
    assert len({before, changed, digest_of({"p": package})}) == 3


def test_a_process_digests_the_code_that_it_would_import_and_not_the_one_beside_it(tmp_path):
    other = make_package(tmp_path / "client", {"__init__.py": "print('another checkout')"})
    code = "from mediclip.provenance import source_digest; print(source_digest())"
    found = []
    for entry in (ROOT, tmp_path):
        start = f"import sys; sys.path[:0] = [{str(entry)!r}, {str(ROOT)!r}]; {code}"
        done = subprocess.run(
            [sys.executable, "-c", start], cwd=ROOT, capture_output=True, text=True, check=True
        )
        found.append(done.stdout.strip())
    checkout = {name: ROOT / name for name in PACKAGES}
    assert found == [digest_of(checkout), digest_of(checkout | {"client": other})]


def test_the_digest_is_that_of_the_packages_in_use():
    assert source_digest.__wrapped__() == digest_of({name: ROOT / name for name in PACKAGES})
