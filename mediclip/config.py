"""Settings of the method: a recipe is a TOML file, unknown keys are refused and ranges are stated."""

import hashlib
import json
import tomllib
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from mediclip.data.policies import Choices, PolicyName, agreed
from mediclip.errors import PromptError, SettingsError
from mediclip.setting_faults import sentence

PhrasePosition = Literal["front", "middle", "end"]
PrivateGroup = Literal["adapters", "last_adapter", "prompts", "normal_prompts", "abnormal_prompts"]
TaskName = Literal["cut_paste", "gaussian_intensity", "source", "sink", "smooth_intensity", "identity"]
Precision = Literal["float32", "bfloat16"]
Modality = Annotated[str, Field(pattern=r"^[A-Z0-9_]{1,16}$")]
CLASSES = ("normal", "abnormal")


class Settings(BaseModel):
    """Base of all settings: immutable, finite, and a key that nobody reads is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    @classmethod
    def parse(cls, values: dict[str, Any], *, source: str) -> Self:
        """Check plain values and turn the first fault into one sentence.

        Args:
            values: What was read from TOML or JSON.
            source: What to call the origin in a message, such as ``"recipe 'reference'"``.

        Returns:
            The checked settings.

        Raises:
            PromptError: If a class has no phrase.
            SettingsError: If a key is unknown, missing or out of range.
        """
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            fault = error.errors(include_url=False)[0]
            cause = fault.get("ctx", {}).get("error")
            if isinstance(cause, PromptError):  # pydantic wraps it, since it is a ValueError too
                raise cause from error
            raise SettingsError(sentence(cls, fault, source=source)) from error


class PromptSettings(Settings):
    """Learnable prompts: phrases of each class around learnable context vectors (METHOD 1.4)."""

    normal: tuple[str, ...]
    abnormal: tuple[str, ...]
    n_ctx: Annotated[int, Field(ge=1, le=64)] = 8
    class_specific: bool = True
    positions: Annotated[tuple[PhrasePosition, ...], Field(min_length=1)] = ("end",)

    @model_validator(mode="after")
    def _has_phrases(self) -> Self:
        for name in CLASSES:
            phrases = self.phrases(name)
            if not phrases or any(not phrase.strip() for phrase in phrases):
                message = (
                    f"The class '{name}' must have at least one phrase and none may be empty. "
                    f"Got {list(phrases)}; name at least one under [prompts] in the recipe."
                )
                raise PromptError(message)
        if len(set(self.positions)) != len(self.positions):
            message = "each phrase position may stand once"
            raise ValueError(message)
        return self

    def phrases(self, class_name: str) -> tuple[str, ...]:
        """Return the phrases of ``"normal"`` or ``"abnormal"``."""
        return self.normal if class_name == "normal" else self.abnormal


class MemorySettings(Settings):
    """A site's own memory of normal tokens, beside the text map (:mod:`mediclip.model.memory`).

    Attributes:
        images: Support images that are remembered at most; further ones are left out.
        neighbourhood: Side of the square of tokens that are averaged before they are compared: 1, 3 or 5.
        radius: How many tokens away from its own place a token may find its like, since organs are aligned.
        text_weight: Weight of the standardised text map beside the standardised distances; 0 leaves it out.
        diffuse_tokens: Tokens of the first tap that are remembered for changes without a focus; 0 leaves
            them out.
        views: Moved copies of each support image on which the text map is standardised, which has seen the
            images themselves; 0 takes the images.
        smoothing: Standard deviation, in tokens, of the Gaussian that calms the map that is drawn; scores are
            of the map before it.
    """

    images: Annotated[int, Field(ge=2, le=64)] = 64
    neighbourhood: Literal[1, 3, 5] = 3
    radius: Annotated[int, Field(ge=0, le=3)] = 1
    text_weight: Annotated[float, Field(ge=0, le=4)] = 0.5
    diffuse_tokens: Annotated[int, Field(ge=0, le=8192)] = 1024
    views: Annotated[int, Field(ge=0, le=16)] = 4
    smoothing: Annotated[float, Field(ge=0, le=4)] = 0.0


class Recipe(Settings):
    """How a detector is made from a few normal images.

    Attributes:
        name: What the recipe is called in results.
        policies: How DICOM of a modality is shown, where it is not to be the usual way
            (:mod:`mediclip.data.policies`).
        image_size: Side of the square input in pixels.
        prompts: Phrases and context of both classes.
        causal_text: Whether the text tower uses the causal mask that CLIP was trained with. The published
            code does not.
        trim_text: Whether the text tower sees only as many positions as the longest prompt. Exact with the
            causal mask, refused without it.
        lean: Whether the towers, the map and the losses take their lean forms, which give the same numbers up
            to rounding for less work. Needs ``trim_text``.
        precision: Of the frozen towers' matrix products in the lean forms. ``bfloat16`` is used where the
            device multiplies it natively, float32 elsewhere.
        tasks: Relative weight of each synthesis task.
        second_anomaly: Probability in [0, 1] of a second anomaly of the same task.
        batch_size: Images in one step.
        epochs: Passes over the support set.
        learning_rate: Of Adam.
        betas: Of Adam, both in [0, 1).
        bank_views: Synthesised views of each support image whose tokens are kept; 0 encodes anew at
            every step, as the published code does.
        bank_refresh: Steps after which one batch of those views is made anew, in turn; 0 keeps them all.
        adapter_rank: Rank of the change that the adapters learn; 0 leaves them fixed, so that prompts alone
            train. Left out, they train as a whole, as published. Fewer values need less noise to hide in.
        top_share: Share in [0, 1) of the map's highest values whose mean is the image score; 0 takes the
            maximum, as published.
        memory: The site's own memory of normal tokens; left out, the text map decides alone, as published.
        private: Groups of trained tensors that each site of a federation keeps for itself; none as published.
            They train with the rest and are part of the site's own model (:func:`shared_schema
            <mediclip.model.trainables.shared_schema>`). A detector that is trained alone has no use for it.
    """

    name: str
    policies: dict[Annotated[str, Field(pattern=r"^[A-Z0-9_]{1,16}$")], PolicyName] = Field(
        default_factory=dict
    )
    image_size: Annotated[int, Field(ge=32, le=1024)] = 224
    prompts: PromptSettings
    causal_text: bool = False
    trim_text: bool = False
    lean: bool = False
    precision: Precision = "float32"
    tasks: dict[TaskName, Annotated[float, Field(ge=0)]]
    second_anomaly: Annotated[float, Field(ge=0, le=1)] = 0.5
    batch_size: Annotated[int, Field(ge=1, le=1024)] = 8
    epochs: Annotated[int, Field(ge=1)] = 200
    learning_rate: Annotated[float, Field(gt=0)] = 1e-3
    betas: tuple[Annotated[float, Field(ge=0, lt=1)], Annotated[float, Field(ge=0, lt=1)]] = (0.5, 0.999)
    bank_views: Annotated[int, Field(ge=0, le=4096)] = 0
    bank_refresh: Annotated[int, Field(ge=0)] = 0
    adapter_rank: Annotated[int, Field(ge=0, le=64)] | None = None
    top_share: Annotated[float, Field(ge=0, lt=1)] = 0.0
    memory: MemorySettings | None = None
    private: tuple[PrivateGroup, ...] = ()

    @model_validator(mode="after")
    def _is_consistent(self) -> Self:
        if self.trim_text and not self.causal_text:
            message = "trim_text needs causal_text: without the mask the padding takes part"
            raise ValueError(message)
        if self.lean and not self.trim_text:
            message = "lean needs trim_text: the lean text tower computes nothing but prompts"
            raise ValueError(message)
        if self.precision != "float32" and not self.lean:
            message = "a precision other than float32 needs lean"
            raise ValueError(message)
        if sum(self.tasks.values()) <= 0:
            message = "at least one task must have a weight above 0"
            raise ValueError(message)
        return self

    def steps(self, shots: int) -> int:
        """Count the optimiser steps for a support set.

        Args:
            shots: Support images, at least 1.

        Returns:
            ``epochs`` times the batches of one epoch, the last one possibly smaller.
        """
        return self.epochs * -(-shots // self.batch_size)

    def with_policies(self, asked: Choices, *, name: str) -> Self:
        """Add the policies that a command or a data folder asks for.

        Args:
            asked: Policy by modality.
            name: What messages call who asks.

        Returns:
            The recipe with all of them.

        Raises:
            SettingsError: If the recipe names another one for the same modality.
        """
        return self.model_copy(update={"policies": agreed(self.policies, asked, name=name)})

    def digest(self) -> str:
        """Return the SHA-256 of the settings as JSON with sorted keys, as hexadecimal."""
        return hashlib.sha256(json.dumps(self.model_dump(mode="json"), sort_keys=True).encode()).hexdigest()


def recipe_names() -> tuple[str, ...]:
    """List the recipes inside the package, sorted."""
    folder = resources.files("mediclip") / "recipes"
    return tuple(sorted(f.name[:-5] for f in folder.iterdir() if f.name.endswith(".toml")))


def load_recipe(name: str) -> Recipe:
    """Read a recipe.

    Args:
        name: One of :func:`recipe_names`, or the path of a TOML file.

    Returns:
        The checked recipe.

    Raises:
        PromptError: If a class has no phrase.
        SettingsError: If there is no such recipe or a key is not usable.
    """
    if name in recipe_names():
        path: Traversable = resources.files("mediclip") / "recipes" / f"{name}.toml"
    elif name.endswith(".toml") and Path(name).is_file():
        path = Path(name)
    else:
        message = (
            f"A recipe must be one of {', '.join(recipe_names())} or the path of a TOML file. "
            f"Got {name!r}; choose one of them."
        )
        raise SettingsError(message)
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        message = f"The recipe {name!r} must be a readable TOML file. It is not: {error}. Correct the file."
        raise SettingsError(message) from error
    return Recipe.parse(values, source=f"recipe {name!r}")
