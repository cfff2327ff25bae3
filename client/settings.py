"""What a site says about itself in ``site.toml``: its scans, its backbone and what may leave."""

import json
import tomllib
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from mediclip.config import Settings
from mediclip.errors import SettingsError
from mediclip.exchange.codecs import CODEC_NAMES, CodecName
from mediclip.privacy.settings import PrivacySettings
from mediclip.protocol import METRIC_NAMES

MetricName = Literal["train_loss", "val_loss", "val_pixel_auroc", "kept_delivered", "kept_score"]


class SiteSettings(Settings):
    """Settings of one site.

    Attributes:
        name: What server and history call the site. It leaves the site: no person's or patient's name.
        data: Data folder in any layout that :func:`mediclip.data.manifest.open_dataset` knows.
        support: Indexes of the support images in the train split; empty to draw ``shots`` of them.
        shots: How many support images to draw.
        seed: Seed of that draw.
        held_out: Indexes of normal images of the train split on which the models of a finished run are
            compared; up to 16 of those outside the support set when left out.
        backbone: Backbone spec, such as ``embedded`` or ``local-dir:FOLDER``; never the server's choice.
        backbone_sha256: Digest that the backbone must have.
        taps: Tapped blocks, 1-based; the backbone's own default when left out.
        recipe: The only recipe, by name or TOML file, that the site trains with; any when left out. One that
            keeps further groups of tensors private is the same.
        device: Torch device that trains.
        threads: Torch threads of the site's process.
        max_rounds: Round after which the site answers no more; no limit when left out.
        metrics: Which numbers may leave beside the number of support images. Those of the end of a run,
            ``kept_delivered`` and ``kept_score``, do so only where they are named here.
        share_descriptor: Whether a descriptor of the scans may leave, by which a coordinator finds sites that
            are alike: projected means and deviations of patch tokens over the support images, of length 1.
        min_metric_images: Fewest support images from which a number may leave beside the update.
        min_images: Fewest support images from which an update may leave.
        min_local_steps: Fewest optimiser steps of a round: one step is nearly a gradient.
        max_model_norm: Largest Euclidean norm of a model that is taken in. The published one for ViT-L-14
            starts near 28, and 400 steps of 1e-3 move it by 631 at most.
        max_update_norm: Largest Euclidean norm of the site's own update that may leave; any when left out.
        on_large_update: Whether a larger one is shortened to that norm, or refused.
        codecs: Codecs in which an update may leave; the server's choice, else ``float32``, is one of them.
        privacy: What is hidden by noise.
        clientapp_user: User of this machine that runs SuperNode and ClientApp and cannot read the scans; the
            daemon's own when left out.
    """

    name: Annotated[str, Field(min_length=1, max_length=64, pattern=r"^[\w .-]+$")]
    data: Path
    support: tuple[Annotated[int, Field(ge=0)], ...] = ()
    shots: Annotated[int, Field(ge=1)] | None = None
    seed: Annotated[int, Field(ge=0)] = 0
    held_out: tuple[Annotated[int, Field(ge=0)], ...] | None = None
    backbone: str
    backbone_sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")] | None = None
    taps: tuple[Annotated[int, Field(ge=1)], ...] | None = None
    recipe: str | None = None
    device: str = "cpu"
    threads: Annotated[int, Field(ge=1)] = 1
    max_rounds: Annotated[int, Field(ge=1)] | None = None
    metrics: tuple[MetricName, ...] = METRIC_NAMES
    share_descriptor: bool = False
    min_metric_images: Annotated[int, Field(ge=4)] = 8
    min_images: Annotated[int, Field(ge=4)] = 4
    min_local_steps: Annotated[int, Field(ge=2)] = 2
    max_model_norm: Annotated[float, Field(gt=0)] = 1000.0
    max_update_norm: Annotated[float, Field(gt=0)] | None = None
    on_large_update: Literal["clip", "refuse"] = "clip"
    codecs: Annotated[tuple[CodecName, ...], Field(min_length=1)] = CODEC_NAMES
    privacy: PrivacySettings = PrivacySettings()
    clientapp_user: Annotated[str, Field(min_length=1)] | None = None

    @model_validator(mode="after")
    def _has_one_support_set(self) -> Self:
        if bool(self.support) == (self.shots is not None):
            message = "name either the indexes in 'support' or the number of 'shots' to draw"
            raise ValueError(message)
        if self.privacy.mode == "site" and self.max_update_norm is not None:
            message = "in privacy mode 'site' the bound is privacy.clip: leave 'max_update_norm' out"
            raise ValueError(message)
        return self

    def to_toml(self) -> str:
        """Write the settings as :func:`load_site_settings` reads them."""
        # A JSON string, number or array of these is also TOML.
        values = self.model_dump(mode="json", exclude_none=True)
        privacy = values.pop("privacy")
        return f"{_lines(values)}\n[privacy]\n{_lines(privacy)}"


def _lines(values: dict[str, Any]) -> str:
    return "".join(f"{key} = {json.dumps(value, ensure_ascii=False)}\n" for key, value in values.items())


def load_site_settings(path: Path) -> SiteSettings:
    """Read a site's settings.

    Args:
        path: TOML file; a relative ``data`` in it is taken from the file's folder.

    Returns:
        The checked settings.

    Raises:
        SettingsError: If the file cannot be read or a key is unknown, missing or out of range.
    """
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        message = f"A site's settings must be a readable TOML file. {path.name} is not; correct it."
        raise SettingsError(message) from error
    settings = SiteSettings.parse(values, source=path.name)
    return settings.model_copy(update={"data": path.parent / settings.data})
