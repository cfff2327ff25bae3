import pytest

from client.service import registry
from client.settings import SiteSettings
from mediclip.errors import SettingsError
from tests.tiny import tiny_site


@pytest.fixture
def served():
    site = tiny_site(0)
    registry.serve("here", site)
    yield site
    registry.withdraw("here")


def test_a_site_of_this_process_is_found_by_its_name(served):
    found = registry.find({"site": "here"}, {})
    assert found.name == served.name
    assert registry.find({"site": "here"}, {}) is found


def test_a_name_can_be_served_once(served):
    with pytest.raises(SettingsError, match="'here' is served already"):
        registry.serve("here", served)


@pytest.mark.usefixtures("served")
def test_a_site_that_was_withdrawn_is_gone():
    registry.withdraw("here")
    registry.withdraw("here")
    with pytest.raises(SettingsError, match="start the site first"):
        registry.find({"site": "here"}, {})


def test_a_simulated_node_opens_the_file_of_its_number_once(tmp_path):
    for number in (0, 1):
        settings = SiteSettings(name=f"file-{number}", data=tmp_path, shots=1, backbone="embedded")
        (tmp_path / f"site-{number}.toml").write_text(settings.to_toml())
    run_config = {"sites-dir": str(tmp_path)}
    sites = [registry.find({"partition-id": n, "num-partitions": 2}, run_config) for n in (0, 1, 0)]
    assert [site.name for site in sites] == ["file-0", "file-1", "file-0"]
    assert sites[0] is sites[2]


@pytest.mark.parametrize(
    ("node_config", "run_config"),
    [({}, {}), ({"partition-id": 0}, {"sites-dir": ""}), ({}, {"sites-dir": "/sites"})],
)
def test_a_node_that_knows_no_site_says_what_to_set(node_config, run_config):
    with pytest.raises(SettingsError, match="must know its site by 'site'"):
        registry.find(node_config, run_config)


def test_a_missing_site_file_is_named(tmp_path):
    with pytest.raises(SettingsError, match=r"site-5\.toml"):
        registry.find({"partition-id": 5}, {"sites-dir": str(tmp_path)})


def test_a_node_with_a_socket_reaches_the_daemon_behind_it_once_for_a_federation(tmp_path):
    node = {"socket": str(tmp_path / "site.sock"), "site": "served elsewhere"}
    sites = [registry.find(node, {"federation": name}) for name in ("a", "b", "a")]
    assert sites[0] is sites[2]
    assert sites[0] is not sites[1]
