import json

import numpy as np
import pytest
from PIL import Image

from client.leakage import measure_leakage
from client.policy import Policy
from client.settings import SiteSettings
from mediclip.cli.main import main
from mediclip.errors import SupportSetError
from tests.kits import make_kit
from tests.tiny import SHOTS, tiny_backbone, tiny_recipe, tiny_scans

NOISE = {"mode": "image", "clip": 0.01, "noise_multiplier": 4.0, "budget": 99.0}


def write_scans(folder, sets):
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(sets):
        for index, scan in enumerate(tiny_scans(number)):
            Image.fromarray((scan * 255).astype(np.uint8)).save(folder / f"{number}-{index}.png")


def settings(data, **changes):
    values = {"name": "site-0", "data": data, "shots": SHOTS, "backbone": "embedded"}
    values["backbone_sha256"] = tiny_backbone().sha256
    return SiteSettings.parse({**values, **changes}, source="test")


@pytest.mark.parametrize(("changes", "rank"), [({}, None), ({"privacy": NOISE}, 0)])
def test_a_site_tests_what_would_leave_by_its_own_settings(tmp_path, changes, rank):
    write_scans(tmp_path / "normal", 5)
    recipe = tiny_recipe().model_copy(update={"adapter_rank": rank})
    told = []
    found = measure_leakage(
        settings(tmp_path, **changes),
        Policy(is_private=bool(changes)),
        recipe,
        trainings=2,
        steps=2,
        seed=3,
        on_training=lambda *news: told.append(news),
    )
    assert (found.shots, found.pool, found.trainings, found.steps) == (SHOTS, 20, 2, 2)
    assert found.mode == ("image" if changes else "none")
    assert (found.span is None) is (rank == 0)
    assert (found.loss.members, found.loss.others) == (2 * SHOTS, 2 * 16)
    assert found.loss.false_positive_rate <= 0.05
    assert told == [(1, 2), (2, 2)]


def test_an_image_that_stands_twice_is_no_outsider(tmp_path):
    write_scans(tmp_path / "normal", 1)
    content = next((tmp_path / "normal").iterdir()).read_bytes()
    for number in range(4):
        (tmp_path / "normal" / f"copy-{number}.png").write_bytes(content)
    with pytest.raises(SupportSetError, match=r"at least 8 different normal images.*It has 4"):
        measure_leakage(settings(tmp_path), Policy(), tiny_recipe(), trainings=1, steps=1, seed=0)


@pytest.mark.slow
def test_the_command_prints_rates_with_intervals_and_keeps_nothing(tmp_path, capsys):
    values = tiny_recipe().model_dump(mode="json", exclude_none=True)
    tables = {key: value for key, value in values.items() if isinstance(value, dict)}
    lines = [f"{key} = {json.dumps(value)}" for key, value in values.items() if key not in tables]
    for key, table in tables.items():
        lines += [f"[{key}]", *(f"{k} = {json.dumps(v)}" for k, v in table.items())]
    (tmp_path / "tiny.toml").write_text("\n".join(lines))
    kit = make_kit(tmp_path, recipe=str(tmp_path / "tiny.toml"))
    write_scans(kit.site().data / "normal", 5)
    shown = []
    for flags in ([], ["--json"]):
        with pytest.raises(SystemExit) as caught:
            main(["client", "audit", "--kit", str(kit.folder), "--trainings", "2", "--steps", "2", *flags])
        assert caught.value.code == 0
        shown.append(capsys.readouterr().out)
    assert "span of the update" in shown[0]
    assert "loss lowered" in shown[0]
    loss = json.loads(shown[1])["loss"]
    assert loss["low"] <= loss["true_positive_rate"] <= loss["high"]
    assert not kit.state.exists()
