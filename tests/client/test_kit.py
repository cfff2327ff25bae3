import json
from datetime import UTC, datetime, timedelta

import pytest

from client.kit import Kit
from mediclip.cli.main import main
from mediclip.errors import FederationError, SettingsError
from mediclip.provenance import source_digest
from server.federation import load_federation
from server.provision import provision
from tests.kits import FEDERATION, make_kit


def edit(kit, old, new):
    path = kit.folder / "kit.toml"
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))
    return kit.folder


def test_a_kit_gives_address_expiry_and_policy(tmp_path):
    kit = make_kit(
        tmp_path, superlink="fl.example.org:9443", max_rounds=7, min_images=4, metrics=["val_loss"]
    )
    assert kit.settings.address == ("fl.example.org", 9443)
    assert kit.settings.not_after == datetime(2100, 1, 1, tzinfo=UTC)
    policy = kit.policy()
    assert (policy.federation, policy.source_digest) == (FEDERATION, kit.settings.app_source_sha256)
    assert (policy.max_rounds, policy.min_images, policy.metrics) == (7, 4, {"val_loss"})


def test_a_kit_as_the_coordinator_provisions_it_is_read_and_its_site_needs_nothing_but_scans(tmp_path):
    (tmp_path / "federation.toml").write_text(
        f'name = "{FEDERATION}"\naddress = "fl.example.org:9443"\nsites = ["north"]\ntaps = [2, 3]\n'
        "rounds = 7\nshots = 8\nmin_sites = 1\n"
        f'[backbone]\nspec = "embedded"\nsha256 = "{"a" * 64}"\n'
        "width = 192\nembed_dim = 192\ntext_width = 128\n"
    )
    settings, _ = load_federation(tmp_path / "federation.toml")
    provision(settings, tmp_path / "kits")
    kit = Kit(tmp_path / "kits" / "north")
    assert kit.settings.address == ("fl.example.org", 9443)
    assert kit.settings.not_after > datetime.now(UTC)
    assert kit.key.stat().st_mode & 0o777 == 0o600
    assert kit.certificate.is_file()
    policy = kit.policy()
    assert (policy.federation, policy.source_digest) == (FEDERATION, source_digest())
    assert (policy.max_rounds, policy.min_images, policy.metrics) == (7, 4, {"train_loss"})
    site = kit.site()
    assert (site.backbone, site.backbone_sha256, site.taps, site.shots) == ("embedded", "a" * 64, (2, 3), 8)


def test_an_address_of_version_six_keeps_its_colons(tmp_path):
    assert make_kit(tmp_path, superlink="[2001:db8::1]:9443").settings.address == ("2001:db8::1", 9443)


def test_the_state_is_for_the_sites_user_alone(tmp_path):
    kit = make_kit(tmp_path)
    kit.state.mkdir(mode=0o755)
    kit.make_state()
    assert kit.state.stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ('federation = "', 'colour = "', "'colour'|'federation'"),
        ("127.0.0.1:9", "127.0.0.1", "'superlink'"),
        ("127.0.0.1:9", "https://a.b:9", "'superlink'"),
        ('app_source_sha256 = "', 'app_source_sha256 = "x', "'app_source_sha256'"),
        ("2100-01-01T00:00:00Z", "soon", "'not_after'"),
        ('federation = "', "federation = ", "readable kit.toml"),
    ],
)
def test_a_kit_with_a_fault_is_one_sentence_that_names_it(tmp_path, old, new, words):
    folder = edit(make_kit(tmp_path), old, new)
    with pytest.raises(SettingsError, match=words):
        Kit(folder)


def test_a_folder_that_is_no_kit_says_where_to_get_one(tmp_path):
    with pytest.raises(SettingsError, match=r"must be a folder with a readable kit\.toml"):
        Kit(tmp_path)


def test_the_settings_of_another_site_do_not_fit(tmp_path):
    kit = Kit(edit(make_kit(tmp_path), 'site = "site-0"', 'site = "north"'))
    with pytest.raises(SettingsError, match=r"must be the kit's, 'north'\. Got 'site-0'"):
        kit.site()


def test_a_path_too_long_for_a_socket_is_said_before_anything_fails(tmp_path):
    folder = tmp_path / ("x" * 100)
    folder.mkdir()
    with pytest.raises(SettingsError, match="move the kit to a shorter path"):
        _ = make_kit(folder).socket


@pytest.mark.parametrize(
    ("days", "words"),
    [(31, ""), (29, "in 29 days: ask the coordinator to renew it"), (0.5, "in 0 days")],
)
def test_a_kit_that_expires_soon_says_so(tmp_path, days, words):
    kit = make_kit(tmp_path)
    warning = kit.check_term(kit.settings.not_after - timedelta(days=days))
    assert words in warning
    assert bool(warning) == bool(words)


@pytest.mark.parametrize("days", [0, 1])
def test_a_kit_that_has_expired_is_refused(tmp_path, days):
    kit = make_kit(tmp_path)
    with pytest.raises(FederationError, match="This one expired on 2100-01-01; ask the coordinator"):
        kit.check_term(kit.settings.not_after + timedelta(days=days))


def test_a_site_whose_kit_has_expired_is_not_started_and_its_status_says_so(tmp_path, capsys):
    kit = make_kit(tmp_path)
    edit(kit, "2100-01-01", "2020-01-01")
    for arguments, code in ((["start"], 7), (["status", "--json"], 7)):
        with pytest.raises(SystemExit) as end:
            main(["client", *arguments, "--kit", str(tmp_path)])
        assert end.value.code == code
    written = capsys.readouterr()
    assert "expired on 2020-01-01" in json.loads(written.out)["term"]
    assert "expired on 2020-01-01" in written.err
    assert not kit.socket.exists()
