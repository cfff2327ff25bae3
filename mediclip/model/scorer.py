"""A trained detector folded into one module that needs no text tower: what is exported."""

from typing import Any

import torch
from torch import Tensor, nn

from mediclip.errors import BackboneError
from mediclip.model.anomaly_map import image_score
from mediclip.model.contrast import contrast, enlarge
from mediclip.model.network import MediClip


class Scorer(nn.Module):
    """Scores and maps of grey images, in float32, with all that does not depend on the image worked out.

    Prompts and text tower are two columns, the adapters plain linear maps, the normalisation a part of the
    first convolution. A site's memory is private and stays out: the text map decides alone.

    Args:
        network: The trained detector.

    Raises:
        BackboneError: If its image tower has blocks that are not CLIP's plain ones.
    """

    weight: Tensor
    bias: Tensor
    first: Tensor
    positions: Tensor

    def __init__(self, network: MediClip) -> None:
        super().__init__()
        backbone = network.backbone
        blocks = backbone.frozen_blocks("visual", "float32")
        if blocks is None:
            message = (
                "An exported detector must have CLIP's plain image tower. The backbone has other blocks; "
                "score with 'mediclip score' instead."
            )
            raise BackboneError(message)
        visual: Any = backbone.visual
        self.top_share = network.recipe.top_share
        self.size = network.recipe.image_size
        self.taps = network.taps
        self.blocks = blocks[: self.taps[-1]]
        self.norm = visual.ln_pre
        self.stride = visual.conv1.stride
        with torch.no_grad():
            weight, bias = backbone.grey_convolution()
            constants = {
                "text": network.text_features(),
                "weight": weight,
                "bias": bias,
                "first": visual.class_embedding.view(1, 1, -1),
                "positions": visual.positional_embedding,
            }
            for tap, (matrix, offset) in zip(self.taps, network.adapter.maps(), strict=True):
                constants |= {f"adapter_{tap}": matrix, f"offset_{tap}": offset}
            for name, matrix in zip(("rows", "columns"), network.upsampling(visual.grid_size), strict=True):
                constants[name] = matrix
        for name, value in constants.items():
            self.register_buffer(name, value.detach().clone())

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Score images.

        Args:
            images: ``(B, S, S)`` float32 in [0, 1].

        Returns:
            Scores ``(B,)`` and anomaly maps ``(B, S, S)``, both in [0, 1].
        """
        patches = nn.functional.conv2d(images.unsqueeze(1), self.weight, self.bias, stride=self.stride)
        height, width = patches.shape[2], patches.shape[3]
        tokens = patches.flatten(2).transpose(1, 2)
        hidden = torch.cat([self.first.expand(tokens.shape[0], -1, -1), tokens], dim=1) + self.positions
        hidden = self.norm(hidden)
        tapped = []
        for number, block in enumerate(self.blocks, start=1):
            hidden = block(hidden)
            if number in self.taps:
                tapped.append(hidden[:, 1:].reshape(-1, height, width, hidden.shape[-1]))
        layers = [(self.get_buffer(f"adapter_{t}"), self.get_buffer(f"offset_{t}")) for t in self.taps]
        grid = contrast(layers, tapped, self.get_buffer("text"))
        maps = enlarge(grid, self.get_buffer("rows"), self.get_buffer("columns")).sigmoid()
        return image_score(maps, self.top_share), maps
