import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import ndimage

from mediclip.config import MemorySettings
from mediclip.errors import CheckpointError, SettingsError
from mediclip.model.anomaly_map import image_score
from mediclip.model.memory import Norm, NormalityMemory, build_memory
from mediclip.model.network import MediClip
from mediclip.training.checkpoint import load_model, save_model
from mediclip.training.private import private_parts, stored_memory
from tests.tiny import tiny_backbone, tiny_recipe, tiny_scans, tiny_tensors


def with_memory(**changes):
    recipe = tiny_recipe().model_copy(update={"memory": MemorySettings(**changes)})
    return MediClip(tiny_backbone(), recipe).initialise(0)


@pytest.fixture
def network():
    return with_memory()


@pytest.fixture
def support():
    return np.concatenate([tiny_scans(number) for number in range(2)])


def judged(network, memory, scans):
    network.memory = memory
    with torch.no_grad():
        return network.judge(network.tokens(torch.from_numpy(scans)))


def spoilt(scans):
    """Put a chequered square where none belongs."""
    worse = scans.copy()
    worse[:, 8:40, 8:40] = np.indices((32, 32)).sum(0) // 4 % 2
    return worse


def test_smoothing_calms_the_map_as_scipy_would_and_leaves_the_score(network, support):
    memory = build_memory(network, support, seed=0)
    plain, smooth = (
        replace(memory, settings=memory.settings.model_copy(update={"smoothing": sigma}))
        for sigma in (0, 1.3)
    )
    tokens = network.tokens(torch.from_numpy(spoilt(tiny_scans(7))))
    margin = torch.zeros(tokens[0].shape[:3])
    side = margin.shape[-1]
    with torch.no_grad():
        before, after = plain.judge(tokens, margin, side), smooth.judge(tokens, margin, side)
    assert torch.equal(before.scores, after.scores)
    # A bounded value b says 4 (2b - 1) / (1 - |2b - 1|) spreads.
    grids = [2 * said.maps.double().numpy() - 1 for said in (before, after)]
    spreads = [4 * grid / (1 - np.abs(grid)) for grid in grids]
    expected = ndimage.gaussian_filter(spreads[0], (0, 1.3, 1.3), mode="nearest")
    np.testing.assert_allclose(spreads[1], expected, rtol=1e-3, atol=1e-3)


def test_an_image_with_a_foreign_patch_scores_above_the_same_image_without(network, support):
    memory = build_memory(network, support, seed=0)
    scans = tiny_scans(7)
    assert (judged(network, memory, spoilt(scans)).scores > judged(network, memory, scans).scores).all()


def test_maps_and_scores_lie_in_the_unit_interval_and_the_usual_is_half(network, support):
    memory = build_memory(network, support, seed=0)
    said = judged(network, memory, np.concatenate([tiny_scans(7), spoilt(tiny_scans(7))]))
    for values in (said.maps, said.scores):
        assert values.min() > 0
        assert values.max() < 1
    assert said.maps.shape == (8, 64, 64)
    middle = NormalityMemory(
        memory.settings, 0.0, memory.focal, memory.diffuse[:0], {n: Norm(0.0, 1.0) for n in memory.norms}
    )
    assert judged(with_memory(text_weight=0), middle, support).scores == pytest.approx(0.5, abs=0.02)


def test_without_text_and_diffuse_part_the_score_follows_the_distance_alone(support):
    network = with_memory(text_weight=0, diffuse_tokens=0, views=0)
    memory = build_memory(network, support, seed=0)
    assert memory.diffuse.shape[0] == 0
    other = with_memory(text_weight=0, diffuse_tokens=0, views=0)
    other.load(tiny_tensors(seed=9))
    scans = tiny_scans(7)
    torch.testing.assert_close(judged(network, memory, scans).scores, judged(other, memory, scans).scores)


def test_a_huge_text_weight_orders_images_as_the_text_map_does(support):
    network = with_memory(text_weight=4, diffuse_tokens=0)
    memory = build_memory(network, support, seed=0)
    loud = {**memory.norms, "distance": Norm(0.0, 1e9)}
    deaf = NormalityMemory(memory.settings, memory.top_share, memory.focal, memory.diffuse, loud)
    scans = np.concatenate([tiny_scans(7), spoilt(tiny_scans(8))])
    with torch.no_grad():
        margin = network.contrast(network.tokens(torch.from_numpy(scans)))
    wanted = image_score(margin, memory.top_share).argsort()
    assert judged(network, deaf, scans).scores.argsort().tolist() == wanted.tolist()


def test_more_evidence_never_lowers_a_score_however_much_there_is():
    memory = NormalityMemory(
        MemorySettings(text_weight=1, neighbourhood=1),
        0.0,
        torch.tensor([[[[1.0, 0.0]]]]).half(),
        torch.empty(0, 2).half(),
        {n: Norm(0.0, 1.0) for n in ("distance", "text", "focal", "diffuse")},
    )
    tokens = [torch.tensor([[[[1.0, 0.0]]]])]
    margins = [-1e6, -3.0, 0.0, 1e-3, 5.0, 100.0, 1e4]
    scores = [float(memory.judge(tokens, torch.full((1, 1, 1), m), 4).scores[0]) for m in margins]
    assert scores == sorted(set(scores))
    assert scores[2] == 0.5
    assert scores[-1] < 1


def test_what_is_usual_is_what_images_show_that_are_left_out_in_turn(support):
    network = with_memory(text_weight=0, diffuse_tokens=8192)
    memory = build_memory(network, support, seed=0)
    focal, diffuse = [], []
    for left_out in range(len(support)):
        rest = np.delete(support, left_out, axis=0)
        part = build_memory(network, rest, seed=0)
        neutral = NormalityMemory(
            part.settings,
            part.top_share,
            part.focal,
            part.diffuse,
            {**memory.norms, "focal": Norm(0.0, 1.0), "diffuse": Norm(-1e6, 1.0)},
        )
        for values, norms in ((focal, {}), (diffuse, {"focal": Norm(1e9, 1.0), "diffuse": Norm(0.0, 1.0)})):
            one = NormalityMemory(
                neutral.settings,
                neutral.top_share,
                neutral.focal,
                neutral.diffuse[: 0 if not norms else None],
                {**neutral.norms, **norms},
            )
            score = float(judged(network, one, support[left_out : left_out + 1]).scores[0])
            z = (score - 0.5) * 2
            values.append(4 * z / (1 - abs(z)))
    assert memory.norms["focal"].mean == pytest.approx(np.mean(focal), abs=2e-3)
    assert memory.norms["focal"].spread == pytest.approx(np.std(focal, ddof=1), rel=2e-2)
    assert memory.norms["diffuse"].mean == pytest.approx(np.mean(diffuse), abs=1e-3)


@pytest.mark.parametrize("shots", [2, 4, 64])
def test_it_works_with_few_and_many_images_in_a_bounded_size(network, shots):
    support = np.concatenate([tiny_scans(number) for number in range(17)])[: max(shots, 2)]
    many = np.concatenate([support, support])[:68] if shots == 64 else support
    memory = build_memory(network, many, seed=0)
    places, width = 4 * 4, tiny_backbone().shapes.width
    assert memory.focal.dtype == memory.diffuse.dtype == torch.float16
    assert len(memory.focal) == min(64, len(many))
    size = sum(array.nbytes for array in memory.arrays().values())
    assert size <= 2 * width * (64 * places * len(network.taps) + 1024)
    assert torch.isfinite(judged(network, memory, tiny_scans(5)).scores).all()


def test_one_image_is_too_few(network):
    with pytest.raises(SettingsError) as error:
        build_memory(network, tiny_scans(0)[:1], seed=0)
    assert str(error.value) == (
        "A memory must be asked for by the recipe and have at least 2 support images. There are 1 images, "
        "and [memory] is there; raise --shots, or take a recipe without [memory]."
    )


def test_the_same_seed_remembers_the_same(network, support):
    first, second = (build_memory(network, support, seed=3, stream=("site", "a")) for _ in range(2))
    for name, array in first.arrays().items():
        np.testing.assert_array_equal(array, second.arrays()[name])
    assert first.facts() == second.facts()


def test_a_memory_is_no_part_of_what_may_leave_and_is_void_once_the_model_changes(network, support):
    before = network.trainables()
    network.memory = build_memory(network, support, seed=0)
    assert network.trainables().keys() == before.keys()
    assert not any("memory" in name for name in network.state_dict())
    assert not any("memory" in tensor.name for tensor in network.schema.tensors)
    network.load(tiny_tensors(seed=1))
    assert network.memory is None


def test_without_a_memory_a_network_judges_by_its_map_as_ever():
    recipe = tiny_recipe().model_copy(update={"memory": None, "top_share": 0.0})
    plain = MediClip(tiny_backbone(), recipe).initialise(0)
    with torch.no_grad():
        tokens = plain.tokens(torch.from_numpy(tiny_scans(0)))
        said, maps = plain.judge(tokens), plain(torch.from_numpy(tiny_scans(0)))
    assert torch.equal(said.maps, maps)
    assert torch.equal(said.scores, maps.amax((1, 2)))


def test_a_memory_comes_back_from_a_file_and_scores_the_same(network, support, tmp_path):
    memory = build_memory(network, support, seed=0)
    tensors, facts = private_parts(memory, support=["ab"])
    save_model(
        tmp_path / "model.safetensors",
        network.trainables(),
        recipe=network.recipe,
        taps=network.taps,
        backbone={"spec": "embedded", "sha256": tiny_backbone().sha256},
        facts={},
        private_tensors=tensors,
        private_facts=facts,
    )
    file = load_model(tmp_path / "model.safetensors")
    assert file.tensors.keys() == network.trainables().keys()
    scans = tiny_scans(7)
    again = judged(network, stored_memory(file), scans)
    assert torch.equal(again.scores, judged(network, memory, scans).scores)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda arrays, _: arrays.pop("focal"),
        lambda arrays, _: arrays.update(focal=arrays["focal"][0]),
        lambda _, facts: facts["norms"].pop("text"),
        lambda _, facts: facts["norms"]["text"].update(spread=0),
        lambda _, facts: facts["settings"].update(radius=-1),
        lambda _, facts: facts.update(top_share=None),
    ],
)
def test_a_damaged_memory_is_refused(network, support, spoil):
    memory = build_memory(network, support, seed=0)
    arrays, facts = memory.arrays(), memory.facts()
    spoil(arrays, facts)
    with pytest.raises(CheckpointError, match="private memory of a model file must be as this"):
        NormalityMemory.restore(arrays, facts)


@pytest.mark.parametrize(("share", "count"), [(0.0, 1), (0.01, 1), (0.25, 4), (0.3, 4), (0.99, 15)])
def test_a_share_of_the_highest_values_is_averaged(share, count):
    maps = torch.rand(3, 4, 4, generator=torch.Generator().manual_seed(0))
    wanted = [sorted(one.flatten().tolist())[-count:] for one in maps]
    found = image_score(maps, share).tolist()
    assert found == pytest.approx([math.fsum(values) / count for values in wanted], rel=1e-6)
