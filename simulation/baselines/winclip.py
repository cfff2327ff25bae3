"""WinCLIP's zero-shot detector on any backbone whose text tower is real.

Source: Jeong et al., *WinCLIP* (arXiv 2303.14814), sections 4.1 and 4.2: windows of 2 by 2 and 3 by 3 patches
go through the image tower alone, and what their class tokens say is joined by harmonic means. What differs is
the text: the recipe's own phrases, which are about findings, in place of states of goods and photographs.
"""

from collections.abc import Sequence
from typing import Any, Final

import torch
from torch import Tensor, nn

from mediclip.config import Recipe
from mediclip.errors import BackboneError
from mediclip.model.backbone import Backbone
from mediclip.model.memory import Judgement

SCALES: Final = (2, 3)
TEMPERATURE: Final = 0.07


class WinClip:
    """Scores from phrases alone: nothing is trained and no image is needed.

    Args:
        backbone: Whose class token can be compared with text.
        recipe: Whose phrases are taken.

    Attributes:
        backbone: As given.
        taps: Empty: it reads no tapped block.

    Raises:
        BackboneError: If the image tower does not take its feature at the class token, as CLIP's does.
    """

    taps: tuple[int, ...] = ()

    def __init__(self, backbone: Backbone, recipe: Recipe) -> None:
        visual: Any = backbone.visual
        if visual.pool_type != "tok" or visual.attn_pool is not None or visual.proj is None:
            message = (
                "WinCLIP's backbone must take its feature at the class token, as CLIP does. "
                f"{backbone.name} does not; choose another, or leave winclip out."
            )
            raise BackboneError(message)
        self.backbone = backbone
        self._columns = phrase_columns(backbone, recipe)

    @torch.no_grad()
    def tokens(self, images: Tensor) -> list[Tensor]:
        """Embed patches of ``(B, S, S)`` images in [0, 1]: one ``(B, h, w, C)`` tensor, before all blocks."""
        visual: Any = self.backbone.visual
        patches = visual.conv1(self.backbone.normalise(images)).permute(0, 2, 3, 1)
        places = visual.positional_embedding[1:].view(patches.shape[1:])
        return [visual.ln_pre(patches + places)]

    @torch.no_grad()
    def judge(self, tokens: Sequence[Tensor]) -> Judgement:
        """Score images by their class token, and places by those of the windows around them."""
        patches = tokens[0]
        images, height, width = patches.shape[:3]
        whole = self._abnormal(patches.flatten(1, 2))
        maps = [whole.view(-1, 1, 1).expand(-1, height, width)]
        for side in SCALES:
            windows = window_patches(height, width, side).to(patches.device)  # (W, side²)
            cut = patches.flatten(1, 2)[:, windows].flatten(0, 1)  # (B·W, side², C)
            maps.append(harmonic_mean(self._abnormal(cut).view(images, -1), windows, height, width))
        joint = len(maps) / torch.stack([1 / one for one in maps]).sum(0)
        size = (self.backbone.image_size,) * 2
        full = nn.functional.interpolate(joint.unsqueeze(1), size=size, mode="bilinear", align_corners=False)
        return Judgement(full[:, 0], whole)

    def _abnormal(self, patches: Tensor) -> Tensor:
        """Ask a class token that sees ``(N, T, C)`` patches: ``(N,)`` probability of abnormal."""
        visual: Any = self.backbone.visual
        first = visual.ln_pre(visual.class_embedding + visual.positional_embedding[0])
        hidden = torch.cat([first.expand(len(patches), 1, -1), patches], dim=1)
        feature = visual.ln_post(visual.transformer(hidden)[:, 0]) @ visual.proj
        cosines = nn.functional.normalize(feature, dim=-1) @ self._columns
        return (cosines / TEMPERATURE).softmax(-1)[:, 1]


@torch.no_grad()
def phrase_columns(backbone: Backbone, recipe: Recipe) -> Tensor:
    """Return the mean features of the recipe's normal and abnormal phrases, ``(D, 2)``, each of length 1."""
    start, end = backbone.start_and_end
    columns = []
    for phrases in (recipe.prompts.normal, recipe.prompts.abnormal):
        rows = [[start, *backbone.token_ids(f"{phrase}."), end] for phrase in phrases]
        length = max(map(len, rows))
        ids = torch.tensor([row + [0] * (length - len(row)) for row in rows], device=backbone.device)
        ends = torch.tensor([len(row) - 1 for row in rows], device=backbone.device)
        features = backbone.encode_embedded_text(backbone.embed(ids), ends, causal=True)
        columns.append(nn.functional.normalize(features.mean(0), dim=0))
    return torch.stack(columns, dim=1)


def window_patches(height: int, width: int, side: int) -> Tensor:
    """List the patches of every square window of a grid: ``(W, side²)``, numbers in [0, height·width)."""
    grid = torch.arange(height * width).view(height, width)
    return grid.unfold(0, side, 1).unfold(1, side, 1).reshape(-1, side * side)


def harmonic_mean(scores: Tensor, windows: Tensor, height: int, width: int) -> Tensor:
    """Give each patch the harmonic mean of the scores of the windows that cover it.

    Args:
        scores: ``(B, W)`` above 0.
        windows: ``(W, n)`` patches of each window.
        height: Rows of the grid.
        width: Its columns; every patch lies in some window.

    Returns:
        ``(B, height, width)``.
    """
    covered = torch.zeros(len(windows), height * width, device=scores.device)
    covered.scatter_(1, windows, 1.0)
    mean = covered.sum(0) / ((1 / scores) @ covered)
    return mean.view(-1, height, width)
