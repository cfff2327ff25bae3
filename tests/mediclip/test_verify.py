"""Verification serves any case: cases made here by a plain second implementation, and damaged ones."""

import json

import numpy as np
import open_clip
import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from safetensors.torch import load_file, save_file

from mediclip.errors import VerificationError
from mediclip.verify import TOLERANCES, verify_case

PHRASES = {"normal": ["healthy", "no evidence of disease"], "abnormal": ["lesion", "pathological condition"]}


def config(**changes):
    vision = {"image_size": 48, "layers": 3, "width": 48, "head_width": 16, "patch_size": 16}
    text = {"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 2}
    return {"embed_dim": 24, "vision_cfg": vision, "text_cfg": text, "quick_gelu": True} | changes


def plain_text(clip, case, values):
    """One sequence at a time, unmasked over the whole context, as the published code does."""
    tokenizer = open_clip.get_tokenizer("ViT-B-32")
    n_ctx, columns = case["n_ctx"], []
    for name in ("normal", "abnormal"):
        features = []
        for position in case["class_token_positions"]:
            context = values[f"init.prompt.ctx.{name}_{position}"]
            for index, phrase in enumerate(case["prompts"][name]):
                ids = tokenizer(
                    [" ".join(["X"] * n_ctx) + f" {phrase}."], case["model_cfg"]["text_cfg"]["context_length"]
                )
                embedded, end = clip.token_embedding(ids)[0], int(ids.argmax())
                size = len(tokenizer.encode(phrase))
                own = context if context.ndim == 2 else context[index]
                words, rest = embedded[1 + n_ctx : 1 + n_ctx + size], embedded[1 + n_ctx + size :]
                half = {"end": n_ctx, "middle": n_ctx // 2, "front": 0}[position]
                row = torch.cat([embedded[:1], own[:half], words, own[half:], rest])
                hidden = clip.transformer((row + clip.positional_embedding)[None])
                features.append(clip.ln_final(hidden)[0, end] @ clip.text_projection)
        columns.append(F.normalize(torch.stack(features).mean(0), dim=0))
    return torch.stack(columns, 1)


def plain_losses(probability, label):
    hard = label.long()
    one_hot = torch.stack([1 - hard, hard], 1).float().clamp(1e-5, 1 - 1e-5)
    right = (one_hot * probability).sum(1) + 1e-5
    focal = (-((1 - right) ** 2) * right.log()).mean()
    overlap = [
        (2 * (p * g).sum() + 1) / (p.sum() + g.sum() + 1)
        for p, g in zip(probability[:, 1], label, strict=True)
    ]
    return focal, 1 - torch.stack(overlap).mean()


def make_case(
    folder, *, model=None, layers=(1, 3), n_ctx=4, specific=True, positions=("end",), steps=3, batch=2
):
    folder.mkdir(parents=True, exist_ok=True)
    model = model or config()
    case = {
        "model_cfg": model, "layers": list(layers), "prompts": PHRASES, "n_ctx": n_ctx,
        "class_specific_context": specific, "class_token_positions": list(positions),
        "adam": {"lr": 1e-3, "betas": [0.5, 0.999]}, "steps": steps,
    }  # fmt: skip
    (folder / "case.json").write_text(json.dumps(case))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        clip = open_clip.model.CLIP(**model).eval().requires_grad_(requires_grad=False)
        size, width, embed = (
            model["vision_cfg"]["image_size"],
            model["vision_cfg"]["width"],
            model["embed_dim"],
        )
        shape = (n_ctx, model["text_cfg"]["width"])
        values = {}
        for index in range(len(layers)):
            values[f"init.adapter.{index}_adapter.0.weight"] = torch.randn(embed, width, 1, 1) / width**0.5
            values[f"init.adapter.{index}_adapter.0.bias"] = torch.randn(embed) * 0.1
        for name, phrases in PHRASES.items():
            for position in positions:
                full = (len(phrases), *shape) if specific else shape
                values[f"init.prompt.ctx.{name}_{position}"] = torch.randn(full) * 0.02
        image = torch.randn(batch, 3, size, size)
        soft = torch.rand(batch, size, size)
        soft[:, : size // 3] = 1
        mask = (soft > 0.8).float()
    clip.half().float()  # as the published case: stored in half precision, every value exact
    save_file({k: v.half() for k, v in clip.state_dict().items()}, folder / "clip.safetensors")
    golden = {k: v.clone() for k, v in values.items()}
    golden |= {"input.image": image, "input.mask": mask, "input.soft_mask": soft}
    parameters = {k: torch.nn.Parameter(v.clone()) for k, v in values.items()}
    states, hidden = [], clip.visual._embeds(image)
    for block in clip.visual.transformer.resblocks:
        hidden = block(hidden)
        states.append(hidden)

    def forward(record=None):
        text, total = plain_text(clip, case, parameters), 0
        for index, layer in enumerate(layers):
            weight = parameters[f"init.adapter.{index}_adapter.0.weight"]
            grid = size // model["vision_cfg"]["patch_size"]
            feature = states[layer - 1][:, 1:].transpose(1, 2).unflatten(2, (grid, grid))
            adapted = F.conv2d(feature, weight, parameters[f"init.adapter.{index}_adapter.0.bias"])
            adapted = F.normalize(adapted, dim=1)
            if record is not None:
                record[f"tokens.{layer}"] = states[layer - 1]
                record[f"adapted.{layer}"] = adapted.permute(0, 2, 3, 1)
            total = total + torch.einsum("bdhw,dk->bkhw", adapted, text) / len(layers)
        if record is not None:
            record["text_features"] = text
        return F.interpolate(total, (size, size), mode="bilinear", align_corners=True).softmax(1)

    probability = forward(golden)
    golden["anomaly_probability"] = probability[:, 1]
    golden["image_score"] = probability[:, 1].flatten(1).max(1).values
    for group, label in (("loss", mask), ("loss_soft", soft)):
        focal, dice = plain_losses(probability, label)
        golden[f"{group}.focal"], golden[f"{group}.dice"] = focal[None], dice[None]
    sum(plain_losses(probability, soft)).backward()
    golden |= {k.replace("init.", "grad."): p.grad.clone() for k, p in parameters.items()}
    optimiser = torch.optim.Adam(parameters.values(), lr=1e-3, betas=(0.5, 0.999))
    trajectory = []
    for _ in range(steps):
        loss = sum(plain_losses(forward(), soft))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        trajectory.append(loss.detach())
    golden["trajectory.loss"] = torch.stack(trajectory)
    golden |= {k.replace("init.", "final."): p for k, p in parameters.items()}
    save_file({k: v.detach().contiguous().clone() for k, v in golden.items()}, folder / "golden.safetensors")
    return folder


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"specific": False},
        {"positions": ("front",)},
        {"positions": ("middle",), "n_ctx": 3},
        {"positions": ("front", "middle", "end"), "specific": False},
        {"layers": (2,)},
        {"layers": (1, 2, 3), "steps": 1},
        {"model": config(quick_gelu=False)},
        {"model": config(text_cfg=config()["text_cfg"] | {"context_length": 40})},
        {"model": config(vision_cfg=config()["vision_cfg"] | {"image_size": 16, "patch_size": 8})},
        {"model": config(vision_cfg=config()["vision_cfg"] | {"image_size": 56, "patch_size": 14})},
        {"layers": (3, 1)},
        {"batch": 1, "n_ctx": 1, "positions": ("middle",)},
        {"batch": 3, "n_ctx": 5, "positions": ("front", "middle")},
        {"n_ctx": 16, "specific": False, "positions": ("middle",)},
    ],
    ids=lambda options: str(options)[-70:],
)
def test_cases_of_every_kind_are_within_tolerance(options, tmp_path):
    outside = [d for d in verify_case(make_case(tmp_path, **options)) if not d.is_within]
    assert outside == []


def test_a_case_without_the_quick_gelu_key_uses_gelu(tmp_path):
    model = config(quick_gelu=False)
    make_case(tmp_path, model=model)
    case = json.loads((tmp_path / "case.json").read_text())
    del case["model_cfg"]["quick_gelu"]
    (tmp_path / "case.json").write_text(json.dumps(case | {"note": "for people"}))
    assert all(d.is_within for d in verify_case(tmp_path))


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    return make_case(tmp_path_factory.mktemp("case"))


def leave(golden):
    return golden


def altered(good, folder, change):
    for name in ("case.json", "clip.safetensors"):
        (folder / name).write_bytes((good / name).read_bytes())
    golden = load_file(good / "golden.safetensors")
    change(golden)
    save_file(golden, folder / "golden.safetensors")
    return folder


def golden_names():
    """Name every computed number of the good case, ours and theirs."""
    names = {
        name: name for name in ("text_features", "anomaly_probability", "image_score", "trajectory.loss")
    }
    names |= {name: name for tap in (1, 3) for name in (f"tokens.{tap}", f"adapted.{tap}")}
    names |= {name: name for group in ("loss", "loss_soft") for name in (f"{group}.focal", f"{group}.dice")}
    for kind in ("grad", "final"):
        for index, tap in enumerate((1, 3)):
            for part in ("weight", "bias"):
                names[f"{kind}.adapter.{tap}.{part}"] = f"{kind}.adapter.{index}_adapter.0.{part}"
        for side in ("normal", "abnormal"):
            names[f"{kind}.prompt.{side}.end"] = f"{kind}.prompt.ctx.{side}_end"
    return names


def test_the_names_of_the_numbers_are_complete(good):
    golden = load_file(good / "golden.safetensors")
    assert {d.name for d in verify_case(good)} == set(golden_names())
    assert {n for n in golden if not n.startswith(("init.", "input."))} == set(golden_names().values())


NOT_NUMBERS = [
    (name, float(by)) for by in ("nan", "inf") for name in ("tokens.3", "loss.focal", "grad.adapter.1.bias")
]


@pytest.mark.parametrize(("ours", "by"), [*((name, 1.5) for name in golden_names()), *NOT_NUMBERS])
def test_a_wrong_golden_number_is_found_and_it_alone_is_named(good, tmp_path, ours, by):
    kind = ours.split(".", maxsplit=1)[0].removesuffix("_soft")

    def change(golden):
        value = golden[golden_names()[ours]]
        scale = float(value.abs().max()) if kind == "grad" else 1.0
        value.view(-1)[-1] += by * TOLERANCES[kind] * scale

    assert [d.name for d in verify_case(altered(good, tmp_path, change)) if not d.is_within] == [ours]


def test_deviations_within_the_tolerance_pass(good, tmp_path):
    def change(golden):
        for ours, theirs in golden_names().items():
            kind = ours.split(".", maxsplit=1)[0].removesuffix("_soft")
            scale = float(golden[theirs].abs().max()) if kind == "grad" else 1.0
            golden[theirs].view(-1)[-1] += 0.5 * TOLERANCES[kind] * scale

    assert all(d.is_within for d in verify_case(altered(good, tmp_path, change)))


def test_the_tolerances_are_the_stated_ones():
    assert TOLERANCES == {
        "tokens": 1e-4, "adapted": 1e-5, "text_features": 1e-5, "anomaly_probability": 1e-5,
        "image_score": 1e-5, "loss": 1e-5, "grad": 1e-3, "trajectory": 1e-5, "final": 1e-4,
    }  # fmt: skip


DAMAGE = {
    "one value short": lambda value: value.flatten()[:-1] if value.numel() > 1 else torch.zeros(2),
    "another rank": lambda value: value[None].repeat(2, *[1] * value.ndim),
    "not a number": lambda value: torch.full_like(value, float("nan")),
    "empty": lambda value: value[:0],
}
EACH_KIND = [
    "init.adapter.0_adapter.0.weight", "init.prompt.ctx.normal_end", "input.image", "input.mask",
    "tokens.1", "adapted.1", "text_features", "image_score", "loss.dice", "grad.adapter.0_adapter.0.bias",
    "trajectory.loss", "final.prompt.ctx.abnormal_end",
]  # fmt: skip


def faults_of(folder):
    """Give what verification says of a case: an error's one sentence, or the quantities outside."""
    try:
        return [d.name for d in verify_case(folder) if not d.is_within]
    except VerificationError as error:
        return [str(error)]


@pytest.mark.parametrize("name", EACH_KIND)
def test_whatever_is_wrong_with_an_array_is_one_sentence_or_a_deviation(good, tmp_path, name):
    for damage in DAMAGE.values():

        def change(golden, damage=damage):
            golden[name] = damage(golden[name]).contiguous()

        found = faults_of(altered(good, tmp_path, change))
        assert found
        assert all("\n" not in fault for fault in found)


@pytest.mark.parametrize("name", [name for name in EACH_KIND if name != "adapted.1"])
def test_a_missing_golden_number_is_named(good, tmp_path, name):
    found = faults_of(altered(good, tmp_path, lambda golden: golden.pop(name)))
    assert found == [f"A case must hold the golden number {name!r}. It does not; write the case again."]


def test_some_adapted_tokens_without_the_others_are_no_case(good, tmp_path):
    with pytest.raises(VerificationError, match=r"'adapted\.3'"):
        verify_case(altered(good, tmp_path, lambda golden: golden.pop("adapted.3")))


@pytest.mark.parametrize("name", ["input.mask", "input.soft_mask"])
@pytest.mark.parametrize("value", [-0.1, 1.1, 7.0])
def test_labels_outside_their_range_are_named(good, tmp_path, name, value):
    def change(golden):
        golden[name][0, 0, 0] = value

    with pytest.raises(VerificationError, match=f"The case's {name} must be .* with values outside"):
        verify_case(altered(good, tmp_path, change))


def test_the_adapted_tokens_are_optional(good, tmp_path):
    def change(golden):
        del golden["adapted.1"], golden["adapted.3"]

    assert all(d.is_within for d in verify_case(altered(good, tmp_path, change)))


@pytest.mark.parametrize("broken", ["case.json", "clip.safetensors", "golden.safetensors"])
def test_a_folder_that_is_no_case_is_one_sentence(good, tmp_path, broken):
    altered(good, tmp_path, leave)
    (tmp_path / broken).write_bytes(b"{}")
    with pytest.raises(VerificationError) as raised:
        verify_case(tmp_path)
    assert "\n" not in str(raised.value)
    (tmp_path / broken).unlink()
    with pytest.raises(VerificationError):
        verify_case(tmp_path)


@pytest.mark.parametrize(
    "change",
    [
        {"layers": [1, 9]},
        {"layers": [2, 2]},
        {"layers": []},
        {"class_token_positions": ["last"]},
        {"class_token_positions": []},
        {"prompts": {}},
        {"prompts": {"normal": [], "abnormal": ["lesion"]}},
        {"prompts": PHRASES | {"third": ["class"]}},
        {"n_ctx": 0},
        {"n_ctx": 70},
        {"steps": 0},
        {"steps": 2},
        {"adam": {"lr": 0, "betas": [0.5, 0.999]}},
        {"adam": {"lr": 1e-3, "betas": [0.5, 0.999], "amsgrad": True}},
        {"model_cfg": {}},
        {"model_cfg": config(embed_dim=25)},
        {"model_cfg": config(vision_cfg="large")},
        {"model_cfg": config(text_cfg=config()["text_cfg"] | {"heads": 3})},
    ],
    ids=lambda change: str(change)[:70],
)
def test_settings_that_no_model_can_have_are_one_sentence(good, tmp_path, change):
    altered(good, tmp_path, leave)
    case = json.loads((tmp_path / "case.json").read_text())
    (tmp_path / "case.json").write_text(json.dumps(case | change))
    with pytest.raises(VerificationError) as raised:
        verify_case(tmp_path)
    assert "\n" not in str(raised.value)


def test_adams_other_settings_are_followed_when_a_case_has_them(good, tmp_path):
    def with_adam(**more):
        altered(good, tmp_path, leave)
        case = json.loads((good / "case.json").read_text())
        case["adam"] |= more
        (tmp_path / "case.json").write_text(json.dumps(case))
        return {d.name.split(".")[0] for d in verify_case(tmp_path) if not d.is_within}

    assert with_adam(eps=1e-8, weight_decay=0) == set()
    assert with_adam(eps=1.0) == {"trajectory", "final"}
    assert "final" in with_adam(weight_decay=1.0)


def test_a_case_of_another_activation_fails_in_its_tokens(good, tmp_path):
    altered(good, tmp_path, leave)
    case = json.loads((good / "case.json").read_text())
    case["model_cfg"]["quick_gelu"] = False
    (tmp_path / "case.json").write_text(json.dumps(case))
    outside = {d.name for d in verify_case(tmp_path) if not d.is_within}
    assert {"tokens.1", "text_features"} <= outside


def test_verification_leaves_torchs_global_random_state_and_the_case_alone(good):
    before = torch.random.get_rng_state()
    files = {path.name: path.read_bytes() for path in good.iterdir()}
    verify_case(good)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert {path.name: path.read_bytes() for path in good.iterdir()} == files


@pytest.mark.shared
def test_the_published_implementation_agrees_to_a_hundredth_of_the_tolerance(shared):
    found = verify_case(shared / "parity" / "small")
    assert len(found) == 30
    assert max(d.largest / d.tolerance for d in found) < 0.1
    assert np.median([d.largest / d.tolerance for d in found]) < 0.01
