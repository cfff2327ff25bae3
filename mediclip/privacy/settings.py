"""What a site promises about its images, as the ``[privacy]`` table of ``site.toml``."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from mediclip.config import Settings

Mode = Literal["none", "site", "image"]
Unit = Literal["image", "patient", "site"]
Trust = Literal["nobody", "coordinator"]


class PrivacySettings(Settings):
    """A site's privacy mode.

    Attributes:
        mode: ``none`` adds no noise; ``site`` adds it to the whole update; ``image`` to the gradient of every
            step (DP-SGD).
        unit: Whose presence ``image`` mode hides. ``patient`` demands one image of each patient.
        trust: Whom ``site`` mode trusts. With ``nobody`` the site's own noise z·C protects it from all; with
            ``coordinator`` each of ``sites`` adds z·C/√sites, which protects it from those who see the mean
            alone, such as the other sites.
        clip: C, largest norm of the update in ``site`` mode, of one image's gradient in ``image`` mode.
        noise_multiplier: z, noise over clip.
        target_epsilon: ε that the planned rounds may reach, from which z is found.
        delta: δ; well below one over the number of patients.
        budget: ε that all runs on the same data may spend together.
        rounds: Rounds that are planned.
        local_steps: Optimiser steps that are planned for each round.
        sites: Sites in the mean.
    """

    mode: Mode = "none"
    unit: Literal["image", "patient"] = "image"
    trust: Trust = "nobody"
    clip: Annotated[float, Field(gt=0)] | None = None
    noise_multiplier: Annotated[float, Field(gt=0, le=1e5)] | None = None
    target_epsilon: Annotated[float, Field(gt=0)] | None = None
    delta: Annotated[float, Field(gt=0, lt=1)] = 1e-5
    budget: Annotated[float, Field(gt=0)] | None = None
    rounds: Annotated[int, Field(ge=1)] = 10
    local_steps: Annotated[int, Field(ge=1)] = 40
    sites: Annotated[int, Field(ge=1)] = 3

    @model_validator(mode="after")
    def _is_consistent(self) -> Self:
        noise = (self.noise_multiplier, self.target_epsilon)
        if self.mode == "none":
            if (self.clip, *noise, self.budget) != (None,) * 4:
                message = "clip, noise and budget need a mode: set mode to 'site' or 'image'"
                raise ValueError(message)
        elif self.clip is None or self.budget is None or noise.count(None) != 1:
            message = (
                f"the mode '{self.mode}' needs clip, budget, and either noise_multiplier or target_epsilon"
            )
            raise ValueError(message)
        elif self.mode == "image" and self.trust != "nobody":
            message = "the mode 'image' trusts nobody: leave 'trust' out"
            raise ValueError(message)
        return self

    @property
    def is_on(self) -> bool:
        """Whether noise is added."""
        return self.mode != "none"

    @property
    def hidden(self) -> Unit:
        """Whose presence is hidden."""
        return "site" if self.mode == "site" else self.unit
