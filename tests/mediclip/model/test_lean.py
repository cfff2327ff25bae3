"""The lean forms give the numbers of the plain ones: towers, prompts, map, loss and gradients."""

import pytest
import torch
from open_clip.model import CLIP
from torch.utils._python_dispatch import TorchDispatchMode

from mediclip.config import load_recipe
from mediclip.model.backbone_loading import backbone_from_weights, load_backbone
from mediclip.model.contrast import contrast, enlarge, upsampling_matrix
from mediclip.model.frozen_blocks import Packing, _attend_by_products, freeze_blocks, has_native_bfloat16
from mediclip.model.network import MediClip
from mediclip.training.batch import Batch
from mediclip.training.fused_loss import _loss_of, fused_anomaly_loss
from mediclip.training.loop import step_loss, train
from mediclip.training.losses import anomaly_loss
from tests.tiny import SIZE, tiny_backbone, tiny_recipe, tiny_scans


def network(backbone=None, **changes):
    recipe = tiny_recipe().model_copy(update=changes)
    return MediClip(backbone or tiny_backbone(), recipe).initialise(1)


def batch_of(net, number=0):
    generator = torch.Generator().manual_seed(number)
    images = torch.rand(3, SIZE, SIZE, generator=generator)
    drawn = torch.rand(3, SIZE, SIZE, generator=generator)
    labels = torch.where(drawn > 0.8, 1.0, torch.where(drawn > 0.7, drawn, 0.0))
    labels[2] = 0
    return Batch(net.tokens(images), labels), images


def quick_backbone():
    """A CLIP with QuickGELU and layer scales, as some pretrained ones have."""
    config = {
        "embed_dim": 24,
        "vision_cfg": {
            "image_size": SIZE,
            "layers": 3,
            "width": 32,
            "head_width": 16,
            "patch_size": 16,
            "ls_init_value": 0.3,
        },
        "text_cfg": {
            "context_length": 77,
            "vocab_size": 49408,
            "width": 32,
            "heads": 2,
            "layers": 2,
            "ls_init_value": 0.3,
        },
        "quick_gelu": True,
    }
    torch.manual_seed(0)
    return backbone_from_weights(config, CLIP(**config).state_dict(), spec="quick")


@pytest.fixture(scope="module", params=["embedded", "quick"])
def backbone(request):
    return tiny_backbone() if request.param == "embedded" else quick_backbone()


def test_the_lean_image_tower_gives_the_tokens_of_open_clips(backbone):
    images = torch.rand(3, SIZE, SIZE, generator=torch.Generator().manual_seed(0))
    taps = (1, backbone.depth)
    want = backbone.patch_tokens(backbone.normalise(images), taps)
    for lean, plain in zip(backbone.grey_tokens(images, taps, precision="float32"), want, strict=True):
        assert lean.shape == plain.shape
        assert torch.allclose(lean, plain, atol=2e-5, rtol=1e-4)


def test_bfloat16_products_stay_within_two_percent(backbone):
    images = torch.rand(3, SIZE, SIZE, generator=torch.Generator().manual_seed(0))
    exact = backbone.grey_tokens(images, (backbone.depth,), precision="float32")[0]
    half = backbone.grey_tokens(images, (backbone.depth,), precision="bfloat16")[0]
    assert half.dtype == torch.float32
    difference = (half - exact).norm() / exact.norm()
    assert difference < 0.02
    assert (difference > 0) == has_native_bfloat16(backbone.device)


def test_the_lean_text_tower_gives_features_and_gradients_of_the_plain_one(backbone):
    lean, plain = network(backbone), network(backbone, lean=False)
    gradients = []
    for net in (lean, plain):
        features = net.text_features()
        (features * torch.linspace(-1, 1, features.numel()).view_as(features)).sum().backward()
        gradients.append([p.grad for p in net.prompt.parameters()])
    assert torch.allclose(lean.text_features(), plain.text_features(), atol=1e-6)
    for one, other in zip(*gradients, strict=True):
        assert torch.allclose(one, other, atol=1e-5 * float(other.abs().max()), rtol=1e-4)


@pytest.mark.parametrize("rank", [None, 0, 3])
def test_loss_map_and_gradients_are_those_of_the_plain_forms(rank):
    lean, plain = network(adapter_rank=rank), network(adapter_rank=rank, lean=False)
    batch, images = batch_of(plain)
    losses = [step_loss(net, batch) for net in (lean, plain)]
    assert losses[0].item() == pytest.approx(losses[1].item(), rel=1e-6)
    for net, loss in zip((lean, plain), losses, strict=True):
        loss.backward()
        assert all(p.grad is not None for p in net.parameters())
    for (name, one), (_, other) in zip(lean.named_parameters(), plain.named_parameters(), strict=True):
        assert torch.allclose(one.grad, other.grad, atol=1e-5 * float(other.grad.abs().max()), rtol=1e-4), (
            name
        )
    with torch.no_grad():
        assert torch.allclose(lean(images), plain(images), atol=1e-6)


def test_the_fused_loss_agrees_with_the_losses_and_finite_differences():
    rows, columns = upsampling_matrix(9, 4, torch.device("cpu")), upsampling_matrix(9, 3, torch.device("cpu"))
    generator = torch.Generator().manual_seed(3)
    grid = 3 * torch.randn(2, 4, 3, generator=generator, dtype=torch.float64)
    drawn = torch.rand(2, 9, 9, generator=generator, dtype=torch.float64)
    labels = torch.where(drawn > 0.6, torch.ones(()).double(), drawn * (drawn > 0.4))
    rows, columns = rows.double(), columns.double()
    anomaly = enlarge(grid, rows, columns).sigmoid()
    want = anomaly_loss(torch.stack([1 - anomaly, anomaly], dim=1), labels)
    assert fused_anomaly_loss(grid, labels, rows, columns).item() == pytest.approx(want.item(), rel=1e-9)
    assert torch.autograd.gradcheck(
        lambda g: fused_anomaly_loss(g, labels, rows, columns), grid.requires_grad_(), atol=1e-6
    )


def test_all_images_at_once_as_on_a_gpu_give_the_loss_of_one_after_the_other():
    generator = torch.Generator().manual_seed(3)
    grid = torch.randn(4, 3, 5, generator=generator, dtype=torch.float64)
    labels = torch.rand(4, 16, 20, generator=generator, dtype=torch.float64).round(decimals=1)
    cpu = torch.device("cpu")
    rows, columns = upsampling_matrix(16, 3, cpu).double(), upsampling_matrix(20, 5, cpu).double()
    found = []
    for size in (1, 4):
        spaces, slope = [grid.new_empty(size, 16, 20) for _ in range(5)], torch.empty_like(grid)
        parts = [slice(i, i + size) for i in range(0, 4, size)]
        losses = [_loss_of(grid[p], labels[p], rows, columns, spaces, slope[p]) for p in parts]
        found.append((torch.stack(losses).sum(), slope))
    torch.testing.assert_close(found[0], found[1])


def test_attention_by_products_is_torchs():
    generator = torch.Generator().manual_seed(4)
    joint = torch.randn(2, 7, 3 * 12, generator=generator)
    query, key, value = (part.view(2, 7, 3, 4).transpose(1, 2) for part in joint.chunk(3, dim=-1))
    want = torch.nn.functional.scaled_dot_product_attention(query, key, value)
    torch.testing.assert_close(_attend_by_products(query, key, value), want)


def test_the_contrasts_gradient_agrees_with_finite_differences():
    generator = torch.Generator().manual_seed(3)

    def drawn(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    tokens, weight, bias, text = drawn(1, 2, 3, 5), drawn(4, 5), drawn(4), drawn(4, 2)
    assert torch.autograd.gradcheck(
        lambda w, b, t: contrast([(w, b)], [tokens], t),
        (weight.requires_grad_(), bias.requires_grad_(), text.requires_grad_()),
    )


@pytest.mark.parametrize(("size", "cells"), [(64, 4), (224, 14), (7, 7), (5, 1), (1, 3)])
def test_enlarging_is_torchs_bilinear_interpolation_with_aligned_corners(size, cells):
    grid = torch.rand(2, cells, cells, generator=torch.Generator().manual_seed(0))
    matrix = upsampling_matrix(size, cells, torch.device("cpu"))
    want = torch.nn.functional.interpolate(grid[:, None], (size, size), mode="bilinear", align_corners=True)
    assert torch.allclose(enlarge(grid, matrix, matrix), want[:, 0], atol=1e-6)


def test_packing_and_padding_undo_each_other():
    packing = Packing.of(torch.tensor([2, 5, 1]))
    padded = torch.arange(30.0).view(3, 5, 2)
    packed = packing.pack(padded)
    assert packed.shape == (8, 2)
    assert torch.equal(packed[packing.last], padded[[0, 1, 2], [1, 4, 0]])
    back = packing.pad(packed)
    assert torch.equal(packing.pack(back), packed)
    assert back[0, 2:].abs().sum() == back[2, 1:].abs().sum() == 0


def test_blocks_of_another_kind_are_left_to_open_clip():
    class Odd(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.resblocks = torch.nn.ModuleList([torch.nn.Linear(2, 2)])

    assert freeze_blocks(Odd(), torch.float32) is None


class Waits(TorchDispatchMode):
    """Notes what would make the processor wait for a GPU: values read, and shapes that hang on values."""

    READS = ("_local_scalar_dense", "nonzero", "masked_select", "unique", "equal")

    def __init__(self):
        super().__init__()
        self.names = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__
        if name.startswith(self.READS):
            self.names.append(name)
        return func(*args, **(kwargs or {}))


def test_a_step_reads_nothing_back_from_the_device():
    net, scans = network(bank_views=2), tiny_scans(1)
    counts = []
    for steps in (2, 12):
        with Waits() as waits:
            train(net, scans, seed=1, steps=steps, report_every=100)
        counts.append(waits.names)
    assert counts[0] == counts[1] == []


def test_losses_that_are_read_seldom_are_all_there():
    told, losses = [], []
    for every in (1, 4):
        net = network(bank_views=2)
        result = train(
            net, tiny_scans(1), seed=1, steps=6, report_every=every, on_step=lambda *news: told.append(news)
        )
        losses.append(result.losses)
    assert losses[0] == losses[1]
    assert [news[0] for news in told] == [1, 2, 3, 4, 5, 6, 4, 6]


@pytest.mark.shared
@pytest.mark.slow
def test_a_real_backbone_keeps_its_tokens_and_features(shared):
    real = load_backbone(f"local-dir:{shared / 'weights' / 'vit-tiny-imagenet'}", image_size=224)
    images = torch.rand(2, 224, 224, generator=torch.Generator().manual_seed(0))
    want = real.patch_tokens(real.normalise(images), (6, 9, 12))
    for lean, plain in zip(real.grey_tokens(images, (6, 9, 12), precision="float32"), want, strict=True):
        assert (lean - plain).norm() < 1e-5 * plain.norm()
    recipe = load_recipe("default").model_copy(update={"precision": "float32"})
    nets = [
        MediClip(real, recipe.model_copy(update={"lean": lean}), (6, 9, 12)).initialise(0)
        for lean in (True, False)
    ]
    with torch.no_grad():
        assert torch.allclose(nets[0].text_features(), nets[1].text_features(), atol=1e-6)
