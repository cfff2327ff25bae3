import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from client.service.material import Material
from client.service.site import Site
from client.settings import SiteSettings
from mediclip.data.array_cache import ArrayCache
from mediclip.errors import (
    BackboneError,
    FederationError,
    ManifestError,
    PromptError,
    SchemaError,
    SettingsError,
    SupportSetError,
    TapError,
)
from mediclip.model.network import MediClip
from mediclip.model.trainables import check_trainables
from mediclip.privacy.gaussian import release_update
from mediclip.privacy.settings import PrivacySettings
from mediclip.training.loop import train
from simulation.phantom import write_phantom_dicom
from tests.tiny import (
    ALL_METRICS,
    SHOTS,
    largest_difference,
    tiny_backbone,
    tiny_recipe,
    tiny_request,
    tiny_scans,
    tiny_schema,
    tiny_site,
    tiny_tensors,
)


@pytest.fixture(autouse=True, scope="module")
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def folder(tmp_path):
    for number, scan in enumerate(tiny_scans(0)):
        path = tmp_path / "DOE^JANE" / "normal" / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray((scan * 255).astype(np.uint8)).save(path)
    return tmp_path / "DOE^JANE"


def settings(folder, **changes):
    values = {"name": "site-0", "data": folder, "shots": SHOTS, "backbone": "embedded"}
    return SiteSettings.parse({**values, **changes}, source="test")


def test_a_round_gives_trained_tensors_examples_and_the_three_numbers():
    reply = tiny_site(0).fit(tiny_request())
    check_trainables(tiny_schema(), reply.tensors)
    assert reply.examples == SHOTS
    assert set(reply.metrics) == ALL_METRICS
    assert 0 <= reply.metrics["val_pixel_auroc"] <= 1
    assert 0 < largest_difference(reply.tensors, tiny_tensors()) < 0.01


def test_the_same_request_gets_the_same_reply_from_a_site_old_or_new():
    site = tiny_site(0)
    second = replace(tiny_request(2), tensors=site.fit(tiny_request(1)).tensors)
    first_time = site.fit(second)
    site.fit(tiny_request(5))
    for replayed in (site.fit(second), tiny_site(0).fit(second)):
        assert largest_difference(replayed.tensors, first_time.tensors) == 0
        assert replayed.metrics == first_time.metrics


@pytest.mark.parametrize("change", [{"seed": 8}, {"number": 2}, {"local_steps": 3}, {"proximal_mu": 10.0}])
def test_seed_round_steps_and_proximal_weight_each_change_the_update(change):
    site = tiny_site(0)
    changed, plain = site.fit(tiny_request(**change)), site.fit(tiny_request())
    assert largest_difference(changed.tensors, plain.tensors) > 0


def test_sites_of_the_same_scans_differ_by_their_name_alone():
    scans = tiny_scans(0)
    replies = [tiny_site(number, scans=scans).fit(tiny_request()) for number in (1, 2)]
    assert largest_difference(replies[0].tensors, replies[1].tensors) > 0


def test_a_round_is_exactly_a_part_of_the_training_loop():
    # The independent reference: one uninterrupted piece of the loop with the site's stream.
    network = MediClip(tiny_backbone(), tiny_recipe())
    network.load(tiny_tensors())
    train(network, tiny_scans(0), seed=7, stream=("site", "site-0"), steps=2, first_step=4)
    reply = tiny_site(0).fit(tiny_request(3))
    assert largest_difference(reply.tensors, network.trainables()) == 0


def test_validation_judges_the_incoming_model_before_training():
    site = tiny_site(0)
    metrics = [site.fit(tiny_request(local_steps=steps)).metrics for steps in (1, 5)]
    assert metrics[0]["val_loss"] == metrics[1]["val_loss"]
    other = site.fit(tiny_request(tensors=tiny_tensors(1))).metrics
    assert other["val_loss"] != metrics[0]["val_loss"]


def test_the_global_model_that_was_sent_is_left_as_it_is():
    request = tiny_request()
    before = {name: value.copy() for name, value in request.tensors.items()}
    tiny_site(0).fit(request)
    assert largest_difference(request.tensors, before) == 0


def test_only_metrics_that_the_settings_name_leave():
    assert tiny_site(0, metrics=()).fit(tiny_request()).metrics == {}
    assert set(tiny_site(0, metrics=("val_loss",)).fit(tiny_request()).metrics) == {"val_loss"}


def test_a_change_of_recipe_makes_a_new_network_and_going_back_gives_the_old_numbers():
    site, plain = tiny_site(0), tiny_request()
    before = site.fit(plain)
    wider = tiny_recipe().model_copy(
        update={"prompts": tiny_recipe().prompts.model_copy(update={"n_ctx": 3})}
    )
    assert site.schema_digest(wider.model_dump_json()) != tiny_schema().digest()
    assert largest_difference(site.fit(plain).tensors, before.tensors) == 0


def test_an_opened_site_trains_on_the_scans_of_its_folder(folder):
    site = Site.open(settings(folder, shots=None, support=[2, 0]), tiny_backbone())
    reply = site.fit(tiny_request())
    assert reply.examples == 2
    stored = (tiny_scans(0)[[2, 0]] * 255).astype(np.uint8)
    direct = tiny_site(0, scans=stored.astype(np.float32) / np.float32(255))
    assert largest_difference(direct.fit(tiny_request()).tensors, reply.tensors) < 1e-6


def test_a_site_loads_the_backbone_of_its_settings_when_none_is_shared(folder):
    own = Site.open(settings(folder, backbone_sha256=tiny_backbone().sha256))
    shared = Site.open(settings(folder), tiny_backbone())
    request = tiny_request()
    assert largest_difference(own.fit(request).tensors, shared.fit(request).tensors) == 0


def strange_recipe(**changes):
    return json.dumps({**tiny_recipe().model_dump(mode="json"), **changes})


@pytest.mark.parametrize(
    ("options", "change", "error", "words"),
    [
        ({}, {"schema_digest": "other"}, SchemaError, "must have the server's tensors"),
        ({}, {"tensors": {}}, SchemaError, "Missing"),
        ({}, {"recipe": "not JSON"}, SettingsError, "must be JSON"),
        ({}, {"recipe": strange_recipe(colour="red")}, SettingsError, "'colour'"),
        ({}, {"recipe": strange_recipe(image_size=96)}, SettingsError, "64 px"),
        (
            {},
            {"recipe": strange_recipe(prompts={"normal": [], "abnormal": ["lesion"]})},
            (PromptError, SettingsError),
            "at least one phrase",
        ),
        ({"taps": (1, 10)}, {}, TapError, r"\[1, 9\]"),
        ({"max_rounds": 3}, {"number": 4}, FederationError, "at most 3"),
        (
            {"recipe": tiny_recipe().model_copy(update={"name": "ours", "epochs": 3})},
            {},
            SettingsError,
            "must be 'ours'",
        ),
    ],
)
def test_a_request_that_does_not_fit_is_refused_in_one_sentence(options, change, error, words):
    with pytest.raises(error, match=words):
        tiny_site(0, **options).fit(tiny_request(**change))


def test_a_refused_request_leaves_the_site_as_it_was():
    site = tiny_site(0)
    before = site.fit(tiny_request())
    for change in ({"schema_digest": "x"}, {"tensors": {}}, {"recipe": "x"}):
        with pytest.raises((SchemaError, SettingsError)):
            site.fit(tiny_request(**change))
    assert largest_difference(site.fit(tiny_request()).tensors, before.tensors) == 0


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"data": "nowhere"}, ManifestError),
        ({"shots": SHOTS + 1}, SupportSetError),
        ({"shots": None, "support": [SHOTS]}, SupportSetError),
        ({"backbone_sha256": "0" * 64}, BackboneError),
        ({"taps": [10]}, TapError),
    ],
)
def test_a_site_that_cannot_work_says_so_when_it_is_asked_without_a_path(folder, change, error):
    site = Site.open(settings(folder, **change), tiny_backbone())
    with pytest.raises(error) as caught:
        site.schema_digest(tiny_recipe().model_dump_json())
    assert str(folder) not in str(caught.value)
    assert "normal/" not in str(caught.value)


def test_training_that_does_not_stay_finite_is_an_error_and_no_update():
    hot = tiny_recipe().model_copy(update={"learning_rate": 1e38})
    with pytest.raises(SettingsError, match="loss must stay finite"):
        tiny_site(0).fit(tiny_request(recipe=hot.model_dump_json(), local_steps=4))


def test_support_images_are_kept_from_start_to_start(folder, tmp_path):
    cache = ArrayCache(tmp_path / "squares")
    recipe = tiny_recipe().model_dump_json()
    for site in (Site.open(settings(folder), tiny_backbone(), cache) for _ in range(2)):
        assert site.count_images(recipe) == SHOTS == len(list(tmp_path.glob("squares/*.square")))


def test_a_folder_that_asks_for_another_policy_than_the_recipe_is_refused(tmp_path):
    tree = write_phantom_dicom(tmp_path / "tree", "brain", seed=1, size=64, train_normal=SHOTS)
    (tree / "dicom.toml").write_text('[policy]\nMR = "stored-range"\n')
    site = Site.open(settings(tree), tiny_backbone())
    with pytest.raises(
        SettingsError, match=r"^The policy of MR must be the same for the model and for site-0"
    ):
        site.count_images(tiny_recipe().model_dump_json())
    agreed = tiny_recipe().model_copy(update={"policies": {"MR": "stored-range"}})
    assert site.count_images(agreed.model_dump_json()) == SHOTS


SITE_NOISE = PrivacySettings(mode="site", clip=0.2, noise_multiplier=3.0, budget=99.0)
IMAGE_NOISE = PrivacySettings(mode="image", clip=0.2, noise_multiplier=3.0, budget=99.0)


@pytest.mark.parametrize("privacy", [SITE_NOISE, IMAGE_NOISE])
def test_with_noise_no_number_leaves_and_no_two_answers_are_the_same(privacy):
    site = tiny_site(0, privacy=privacy)
    replies = [site.fit(tiny_request()) for _ in range(2)]
    for reply in replies:
        check_trainables(tiny_schema(), reply.tensors)
        assert (reply.examples, reply.metrics) == (1, {})
    assert largest_difference(replies[0].tensors, replies[1].tensors) > 0


def test_noise_on_the_whole_update_is_the_plain_update_clipped_and_noised():
    clip, noise = 0.01, PrivacySettings(mode="site", clip=0.01, noise_multiplier=2.0, budget=99.0)
    plain = tiny_site(0).fit(tiny_request()).tensors
    noised = tiny_site(0, privacy=noise, random=np.random.default_rng(3)).fit(tiny_request()).tensors
    expected = release_update(
        tiny_tensors(), plain, clip=clip, noise_std=0.02, random=np.random.default_rng(3)
    )
    assert largest_difference(noised, expected) == 0


def test_a_site_knows_its_images_by_their_files_whatever_the_recipe(folder):
    site = Site.open(settings(folder), tiny_backbone())
    digests = site.image_digests(tiny_recipe().model_dump_json())
    assert len(set(digests)) == SHOTS
    other = Site.open(settings(folder, seed=5), tiny_backbone())
    assert set(other.image_digests(tiny_recipe().model_dump_json())) == set(digests)


def test_an_image_that_stands_twice_is_no_unit(folder):
    (first, second, *_) = sorted((folder / "normal").glob("*.png"))
    second.write_bytes(first.read_bytes())
    with pytest.raises(SupportSetError, match=r"1 of 4 do not; choose others in 'support'"):
        Site.open(settings(folder, privacy=IMAGE_NOISE.model_dump()), tiny_backbone()).fit(tiny_request())


@pytest.mark.parametrize(
    ("patients", "is_good"),
    [
        (("a", "b", "c", "d"), True),
        (("a", "b", "c", "a"), False),
        (("a", "b", "c", None), False),
        ((), False),
    ],
)
def test_a_patient_is_a_unit_where_each_is_known_and_gives_one_image(patients, is_good):
    material = Material(tiny_backbone(), tiny_scans(0), patients=patients)
    privacy = IMAGE_NOISE.model_copy(update={"unit": "patient"})
    if is_good:
        material.check_units(privacy)
    else:
        with pytest.raises(SupportSetError, match="Each patient must be known and give one image"):
            material.check_units(privacy)
    material.check_units(PrivacySettings())
