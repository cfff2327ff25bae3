from pathlib import Path

import pytest
from hypothesis import given, settings, strategies as st

from client.settings import SiteSettings, load_site_settings
from mediclip.errors import SettingsError
from mediclip.protocol import METRIC_NAMES

NEEDED = {"name": "north", "data": "scans", "shots": 8, "backbone": "embedded"}


def test_a_short_file_is_enough_and_its_data_folder_counts_from_the_file(tmp_path):
    path = tmp_path / "site.toml"
    path.write_text('name = "north"\ndata = "scans"\nshots = 8\nbackbone = "embedded"\n')
    read = load_site_settings(path)
    assert read.data == tmp_path / "scans"
    assert (read.shots, read.threads, read.metrics) == (8, 1, METRIC_NAMES)
    assert read.recipe is read.max_rounds is read.taps is None


@settings(deadline=None)
@given(
    data=st.text(st.characters(exclude_categories=["C"]), min_size=1).filter(lambda s: s.strip("/. ")),
    support=st.lists(st.integers(0, 10**6), min_size=1, max_size=5),
    taps=st.none() | st.lists(st.integers(1, 40), min_size=1, max_size=4),
    metrics=st.lists(st.sampled_from(METRIC_NAMES), unique=True),
)
def test_settings_written_as_toml_are_read_back_the_same(tmp_path_factory, data, support, taps, metrics):
    values = {"name": "St. Anna-2", "data": f"/d/{data}", "support": support, "backbone": "embedded"}
    written = SiteSettings.parse({**values, "taps": taps, "metrics": metrics}, source="test")
    path = tmp_path_factory.mktemp("site") / "site.toml"
    path.write_text(written.to_toml(), encoding="utf-8")
    assert load_site_settings(path) == written


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"colour": "red"}, "'colour'"),
        ({"name": "north\nsouth"}, "'name'"),
        ({"name": ""}, "'name'"),
        ({"shots": 0}, "'shots'"),
        ({"shots": None}, "either the indexes in 'support' or the number of 'shots'"),
        ({"support": [1]}, "either the indexes in 'support' or the number of 'shots'"),
        ({"taps": [0]}, "'taps.0'"),
        ({"threads": 0}, "'threads'"),
        ({"metrics": ["patient_age"]}, "'metrics.0'"),
        ({"backbone_sha256": "abc"}, "'backbone_sha256'"),
        ({"max_rounds": 0}, "'max_rounds'"),
    ],
)
def test_a_key_that_is_unknown_or_out_of_range_is_named(change, words):
    with pytest.raises(SettingsError, match=words):
        SiteSettings.parse({**NEEDED, **change}, source="site.toml")


@pytest.mark.parametrize("content", ["name = ", None, "\x00"])
def test_a_file_that_is_missing_or_no_toml_is_one_sentence(tmp_path, content):
    path = tmp_path / "site.toml"
    if content is not None:
        path.write_text(content)
    with pytest.raises(SettingsError, match=r"A site's settings must be a readable TOML file. site\.toml"):
        load_site_settings(path)


def test_the_message_names_the_file_and_not_its_folder(tmp_path):
    path = Path(tmp_path) / "site.toml"
    path.write_text("shots = 3\n")
    with pytest.raises(SettingsError) as caught:
        load_site_settings(path)
    assert str(tmp_path) not in str(caught.value)
