"""What a pretraining run is made of, as a TOML file states it."""

import tomllib
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from mediclip.config import Settings
from mediclip.errors import SettingsError


class Tower(Settings):
    """Sizes of the compact CLIP; the text tower takes CLIP's own tokenizer.

    Attributes:
        embed_dim: Width D that both towers project to.
        image_layers: Blocks of the image tower.
        image_width: Width C of the image tower, a multiple of 64, the width of a head.
        text_layers: Blocks of the text tower.
        text_width: Width W of the text tower; its token table is most of it.
    """

    embed_dim: Annotated[int, Field(ge=16, le=1024)] = 128
    image_layers: Annotated[int, Field(ge=1, le=24)] = 9
    image_width: Annotated[int, Field(ge=64, le=1024, multiple_of=64)] = 192
    text_layers: Annotated[int, Field(ge=1, le=12)] = 3
    text_width: Annotated[int, Field(ge=32, le=512, multiple_of=32)] = 64

    def model_cfg(self, image_size: int, patch_size: int) -> dict[str, Any]:
        """Say it in open_clip's words."""
        return {
            "embed_dim": self.embed_dim,
            "vision_cfg": {
                "image_size": image_size,
                "layers": self.image_layers,
                "width": self.image_width,
                "head_width": 64,
                "patch_size": patch_size,
            },
            "text_cfg": {
                "context_length": 77,
                "vocab_size": 49408,
                "width": self.text_width,
                "heads": self.text_width // 32,
                "layers": self.text_layers,
            },
        }


class PretrainSettings(Settings):
    """A pretraining run.

    Attributes:
        seed: Seed of corpus, initial weights, order and augmentation.
        image_size: Side S of the square images in pixels, a multiple of ``patch_size``.
        patch_size: Side of a patch in pixels.
        early_size: Side at which the early steps see the images, a whole part of ``image_size``; None for the
            full size at every step.
        early_share: Share of the steps that are early. An image of half the side costs a quarter, and a CLIP
            that is trained so and finished at full size loses little (Li et al., CLIPA, arXiv 2305.07017).
        examples: Images of the corpus, drawn once and augmented at every use.
        steps: Optimiser steps.
        batch_size: Images a step.
        masked_share: Share of each batch that is masked and restored instead of captioned.
        mask_ratio: Share of the patches hidden in those images.
        learning_rate: Peak of AdamW's rate, after a linear rise and before a cosine fall.
        warmup: Share of the steps in which it rises.
        weight_decay: AdamW's, on matrices alone.
        average: Decay of the running mean of the weights, which is what is kept.
        contrastive, dense, taps, restoration: Weights of the four losses.
        precision: What the towers compute in where torch's autocast allows it; weights stay float32.
        tower: Sizes of the model.
    """

    seed: int = 0
    image_size: Annotated[int, Field(ge=64, le=448)] = 224
    patch_size: Annotated[int, Field(ge=8, le=32)] = 16
    early_size: Annotated[int, Field(ge=16, le=448)] | None = None
    early_share: Annotated[float, Field(ge=0, le=1)] = 0.85
    examples: Annotated[int, Field(ge=8, le=10_000_000)] = 24_000
    steps: Annotated[int, Field(ge=1, le=10_000_000)] = 3_000
    batch_size: Annotated[int, Field(ge=4, le=4096)] = 64
    masked_share: Annotated[float, Field(ge=0, lt=1)] = 0.25
    mask_ratio: Annotated[float, Field(gt=0, lt=1)] = 0.5
    learning_rate: Annotated[float, Field(gt=0, lt=1)] = 1e-3
    warmup: Annotated[float, Field(ge=0, lt=1)] = 0.06
    weight_decay: Annotated[float, Field(ge=0, lt=1)] = 0.05
    average: Annotated[float, Field(ge=0, lt=1)] = 0.997
    contrastive: Annotated[float, Field(ge=0)] = 1.0
    dense: Annotated[float, Field(ge=0)] = 1.0
    taps: Annotated[float, Field(ge=0)] = 0.5
    restoration: Annotated[float, Field(ge=0)] = 1.0
    precision: Literal["float32", "bfloat16"] = "float32"
    tower: Tower = Tower()

    @model_validator(mode="after")
    def _patches_fill_the_image(self) -> "PretrainSettings":
        if self.image_size % self.patch_size:
            message = "'image_size' must be a multiple of 'patch_size'"
            raise ValueError(message)
        early = self.early_size or self.image_size
        if self.image_size % early or early % self.patch_size:
            message = "'early_size' must divide 'image_size' and be a multiple of 'patch_size'"
            raise ValueError(message)
        return self

    def model_cfg(self) -> dict[str, Any]:
        """Return open_clip's configuration of the model."""
        return self.tower.model_cfg(self.image_size, self.patch_size)

    def size_at(self, step: int) -> int:
        """Return the side in pixels of the images of one step, from 0 on."""
        early = step < round(self.early_share * self.steps)
        return (early and self.early_size) or self.image_size

    @property
    def masked(self) -> int:
        """Images of a batch that are masked."""
        return round(self.batch_size * self.masked_share)


def load_settings(path: Path | None = None, **changes: Any) -> PretrainSettings:  # noqa: ANN401 - pydantic checks
    """Read a run's settings.

    Args:
        path: TOML file; the settings that the embedded backbone was made with if not given.
        **changes: Keys that replace the file's; None leaves the file's.

    Returns:
        The checked settings.

    Raises:
        SettingsError: If the file cannot be read, or a key is unknown or out of range.
    """
    try:
        if path is None:
            text = (resources.files("simulation") / "pretraining" / "embedded.toml").read_text("utf-8")
        else:
            text = path.read_text("utf-8")
        values = tomllib.loads(text)
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        message = "The pretraining settings must be a readable TOML file. They are not; correct the file."
        raise SettingsError(message) from error
    values |= {name: value for name, value in changes.items() if value is not None}
    return PretrainSettings.parse(values, source="pretraining settings")
