"""Who holds which scans."""

import pytest

from mediclip.errors import ManifestError, SettingsError, SupportSetError
from simulation.phantom import write_phantom_dicom, write_phantom_set
from simulation.scenario import make_scenario


@pytest.fixture(scope="module")
def sets(tmp_path_factory):
    root = tmp_path_factory.mktemp("sets")
    return {
        organ: write_phantom_set(
            root / organ, organ, seed=1, train_normal=12, test_normal=1, test_abnormal=1, size=64
        )
        for organ in ("brain", "breast")
    }


def scenario(sets, **changes):
    return make_scenario(sets, **{"sites": 4, "shots": 3, "seed": 0, "image_size": 64} | changes)


@pytest.mark.parametrize("partition", ["iid", "dirichlet"])
def test_no_two_sites_of_a_set_share_a_scan_and_each_has_its_shots(sets, partition):
    made = scenario(sets, partition=partition, alpha=0.3)
    assert [site.name for site in made.sites] == ["site-1", "site-2", "site-3", "site-4"]
    assert [site.set_name for site in made.sites] == ["brain", "breast", "brain", "breast"]
    for name in sets:
        mine = [index for site in made.sites_of(name) for index in site.support]
        assert len(mine) == len(set(mine)) == 6
        assert all(0 <= index < 12 for index in mine)


def test_no_two_sites_share_a_patient_where_patients_are_known(tmp_path, monkeypatch):
    monkeypatch.setenv("MEDICLIP_CACHE", str(tmp_path / "cache"))
    tree = write_phantom_dicom(
        tmp_path / "tree",
        "brain",
        seed=1,
        train_normal=12,
        test_normal=1,
        test_abnormal=1,
        size=64,
        images_per_patient=2,
    )
    made = make_scenario({"brain": tree}, sites=3, shots=4, seed=0)
    patients = [{made.datasets["brain"].train[i].group for i in site.support} for site in made.sites]
    assert [len(mine) for mine in patients] == [2, 2, 2]
    assert len(set.union(*patients)) == 6


def test_the_same_seed_makes_the_same_scenario_and_another_seed_another(sets):
    assert scenario(sets).sites == scenario(sets).sites
    assert scenario(sets).sites != scenario(sets, seed=1).sites


def test_more_shots_than_the_sites_can_have_is_refused(sets):
    with pytest.raises(SupportSetError, match="7"):
        scenario(sets, shots=7)


def test_fewer_sites_than_sets_is_refused(sets):
    with pytest.raises(SettingsError):
        scenario(sets, sites=1)


def test_no_shots_at_all_is_refused(sets):
    with pytest.raises(SettingsError, match="at least 1"):
        scenario(sets, shots=0)


def test_a_set_without_test_images_is_refused_by_name(tmp_path):
    lone = write_phantom_set(
        tmp_path / "lone", "chest", seed=1, train_normal=12, test_normal=1, test_abnormal=0, size=64
    )
    (tmp_path / "bare" / "normal").mkdir(parents=True)
    for image in (lone / "images" / "train" / "normal").iterdir():
        (tmp_path / "bare" / "normal" / image.name).write_bytes(image.read_bytes())
    with pytest.raises(ManifestError, match="'bare' must have test images"):
        make_scenario({"bare": tmp_path / "bare"}, sites=1, shots=2, seed=0)
