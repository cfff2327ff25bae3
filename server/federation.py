"""What a coordinator decides in ``federation.toml``: who takes part, at which address, how rounds go."""

import tomllib
from pathlib import Path
from typing import Annotated, Self

from pydantic import Field, model_validator

from mediclip.config import Recipe, Settings, load_recipe
from mediclip.errors import SettingsError
from mediclip.model.trainables import BackboneShapes, Schema, schema_for, shared_schema
from server.settings import RoundSettings, recipe_for

SiteName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,62}$")]
"""Name of a site, which is also the name of its kit's folder."""

Address = Annotated[str, Field(pattern=r"^(\[[0-9a-fA-F:]+\]|[\w.-]+):[0-9]{1,5}$")]
"""``host:port``, an IPv6 host in brackets."""


class BackboneSettings(Settings):
    """The frozen model that every site has on its own disk.

    Attributes:
        spec: Backbone spec that the kits suggest, such as ``ViT-L-14:openai``; a site may name its own file.
        sha256: Digest that each site's backbone must have; unchecked when left out.
        width: Width of the image tower.
        embed_dim: Width of the joint embedding.
        text_width: Width of the text tower.
    """

    spec: Annotated[str, Field(min_length=1)]
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")] | None = None
    width: Annotated[int, Field(ge=1)]
    embed_dim: Annotated[int, Field(ge=1)]
    text_width: Annotated[int, Field(ge=1)]


class FederationSettings(RoundSettings):
    """Settings of a federation.

    Attributes:
        name: Name of the federation, which the kits and every run carry.
        address: ``host:port`` under which the sites reach the coordinator.
        listen: ``host:port`` of the public listener; all interfaces and the address's port when left out.
        sites: Names of the sites, at least one, different also where case does not count.
        backbone: The frozen model.
        taps: Tapped blocks, 1-based, rising.
        recipe: Recipe by name, or a TOML file beside this one.
        min_sites: Updates that a round needs whatever the quorum is.
        shots: Support images that the kits suggest.
        valid_days: How long the server's certificate and the sites' keys are good for.
    """

    name: Annotated[str, Field(min_length=1, max_length=64, pattern=r"^[\w .-]+$")]
    address: Address
    listen: Address | None = None
    sites: Annotated[tuple[SiteName, ...], Field(min_length=1)]
    backbone: BackboneSettings
    taps: Annotated[tuple[Annotated[int, Field(ge=1)], ...], Field(min_length=1)]
    recipe: str = "default"
    min_sites: Annotated[int, Field(ge=1)] = 3
    shots: Annotated[int, Field(ge=1)] = 8
    valid_days: Annotated[int, Field(ge=1, le=3650)] = 365

    @model_validator(mode="after")
    def _is_consistent(self) -> Self:
        if len({name.casefold() for name in self.sites}) != len(self.sites):
            message = "each site must have a name of its own"
            raise ValueError(message)
        if self.quorum > len(self.sites):
            message = f"quorum must be at most the number of sites, {len(self.sites)}"
            raise ValueError(message)
        if self.min_sites > len(self.sites):
            message = (
                f"min_sites is {self.min_sites} and must be at most the number of sites, {len(self.sites)}; "
                "lower it if fewer are wanted: then each site can read the others' updates"
            )
            raise ValueError(message)
        if list(self.taps) != sorted(set(self.taps)):
            message = "taps must rise"
            raise ValueError(message)
        for address in (self.address, self.listen):
            if address is not None and not 0 < split_address(address)[1] < 2**16:
                message = "a port must be in [1, 65535]"
                raise ValueError(message)
        return self

    @property
    def listener(self) -> tuple[str, int]:
        """Host and port that the public listener binds."""
        return split_address(self.listen) if self.listen else ("0.0.0.0", split_address(self.address)[1])  # noqa: S104 - the one port that is meant to be public

    def schema_for(self, recipe: Recipe) -> Schema:
        """Describe the tensors that travel, without loading a backbone."""
        shapes = BackboneShapes(self.backbone.width, self.backbone.embed_dim, self.backbone.text_width)
        whole = schema_for(shapes, self.taps, recipe.prompts, adapter_rank=recipe.adapter_rank)
        return shared_schema(whole, recipe.private)


def split_address(address: str) -> tuple[str, int]:
    """Split ``host:port``; an IPv6 host loses its brackets."""
    host, _, port = address.rpartition(":")
    return host.strip("[]"), int(port)


def load_federation(path: Path) -> tuple[FederationSettings, Recipe]:
    """Read a federation's settings and the recipe that they name.

    Args:
        path: TOML file; a recipe's file in it is looked for from this file's folder.

    Returns:
        The checked settings and recipe.

    Raises:
        PromptError: If a class of the recipe has no phrase.
        SettingsError: If a file cannot be read or a key is unknown, missing or out of range.
    """
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        message = (
            f"A federation's settings must be a readable TOML file. {path.name} is not ({error}); correct it."
        )
        raise SettingsError(message) from error
    settings = FederationSettings.parse(values, source=path.name)
    recipe = settings.recipe
    read = load_recipe(str(path.parent / recipe) if recipe.endswith(".toml") else recipe)
    return settings, recipe_for(settings.strategy, read)
