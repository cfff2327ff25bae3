"""Verification serves any case: cases made here by a plain second implementation, and damaged ones."""

import json

import numpy as np
import open_clip
import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from safetensors.torch import load_file, save_file

from mediclip.errors import VerificationError
from mediclip.verify import verify_case

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


def make_case(folder, *, model=None, layers=(1, 3), n_ctx=4, specific=True, positions=("end",), steps=3):
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
        image = torch.randn(2, 3, size, size)
        soft = torch.rand(2, size, size)
        soft[:, : size // 3] = 1
        mask = (soft > 0.8).float()
    save_file(clip.state_dict(), folder / "clip.safetensors")
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
    ],
    ids=str,
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


@pytest.mark.parametrize(
    "name",
    ["tokens.3", "text_features", "image_score", "loss.focal", "trajectory.loss", "anomaly_probability"],
)
@pytest.mark.parametrize("by", [1e-2, float("nan")])
def test_a_wrong_golden_number_is_found_and_named(good, tmp_path, name, by):
    def change(golden):
        golden[name].view(-1)[-1] += by

    outside = [d.name for d in verify_case(altered(good, tmp_path, change)) if not d.is_within]
    assert outside == [name]


@pytest.mark.parametrize(("ours", "theirs"), [("grad.adapter.1.bias", "grad.adapter.0_adapter.0.bias")])
def test_a_wrong_gradient_is_named_by_our_name(good, tmp_path, ours, theirs):
    def change(golden):
        golden[theirs][0] += golden[theirs].abs().max() * 0.01

    assert [d.name for d in verify_case(altered(good, tmp_path, change)) if not d.is_within] == [ours]


def test_a_missing_golden_number_is_named(good, tmp_path):
    folder = altered(good, tmp_path, lambda golden: golden.pop("text_features"))
    with pytest.raises(VerificationError, match="'text_features'"):
        verify_case(folder)


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


@pytest.mark.parametrize("change", [{"layers": [1, 9]}, {"class_token_positions": ["last"]}, {"prompts": {}}])
def test_settings_that_no_model_can_have_are_one_sentence(good, tmp_path, change):
    altered(good, tmp_path, leave)
    case = json.loads((tmp_path / "case.json").read_text())
    (tmp_path / "case.json").write_text(json.dumps(case | change))
    with pytest.raises(VerificationError) as raised:
        verify_case(tmp_path)
    assert "\n" not in str(raised.value)


@pytest.mark.shared
def test_the_published_implementation_agrees_to_a_hundredth_of_the_tolerance(shared):
    found = verify_case(shared / "parity" / "small")
    assert len(found) == 30
    assert max(d.largest / d.tolerance for d in found) < 0.1
    assert np.median([d.largest / d.tolerance for d in found]) < 0.01
