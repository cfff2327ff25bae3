"""What a privacy mode will cost and leave, computed before a single image is used."""

import functools
import math
from dataclasses import dataclass
from typing import Final

from mediclip.errors import SettingsError
from mediclip.privacy.accounting import Guarantee, Mechanism, epsilon, find_noise
from mediclip.privacy.gaussian import noise_to_signal
from mediclip.privacy.settings import PrivacySettings

SAMPLING: Final = {
    "site": "the site takes part in every round",
    "image": "Poisson: each image takes part in a step with the same probability, drawn in secret",
}
TRUST: Final = {
    "nobody": "nobody outside the site",
    "coordinator": "the coordinator with each update, and all sites in the mean to add their noise",
}


@dataclass(frozen=True)
class PrivacyPlan:
    """A privacy mode with its noise known.

    Attributes:
        settings: The site's settings, mode ``site`` or ``image``.
        noise_multiplier: z, as the accountant counts it.
        sampling_rate: q, probability of an image in a step; 1 in ``site`` mode.
    """

    settings: PrivacySettings
    noise_multiplier: float
    sampling_rate: float

    @property
    def clip(self) -> float:
        """C."""
        assert self.settings.clip is not None  # noqa: S101 - the settings were checked
        return self.settings.clip

    @property
    def noise_std(self) -> float:
        """Standard deviation of the noise that is added to each value of what was clipped."""
        share = math.sqrt(self.settings.sites) if self.settings.trust == "coordinator" else 1.0
        return self.noise_multiplier * self.clip / share

    def mechanism(self, local_steps: int) -> Mechanism:
        """Give what one round does to the images.

        Args:
            local_steps: Optimiser steps of the round, at least 1.
        """
        steps = local_steps if self.settings.mode == "image" else 1
        return Mechanism(self.noise_multiplier, self.sampling_rate, steps)

    def guarantee(self, spent: float) -> Guarantee:
        """State an ε with all that it rests on."""
        settings = self.settings
        return Guarantee(
            spent, settings.delta, settings.hidden, SAMPLING[settings.mode], TRUST[settings.trust]
        )

    def planned(self) -> Guarantee:
        """State what the planned rounds will have spent."""
        settings = self.settings
        mechanisms = [self.mechanism(settings.local_steps)] * settings.rounds
        return self.guarantee(epsilon(mechanisms, settings.delta))

    def noise_to_signal(self, values: int, *, batch: float = 1, sites: int = 1) -> float:
        """Predict how many times longer than what it hides in the noise is.

        Args:
            values: Values that are clipped and noised together: the tensors that travel in ``site`` mode; the
                adapter's and both text columns' in ``image`` mode.
            batch: Images expected in a step, whose mean has that much less noise; 1 in ``site`` mode.
            sites: Sites in the mean; 1 for what this site sends.

        Returns:
            √d·s/(√n·C) in ``site`` mode; √d·z/batch, for one step, in ``image`` mode.
        """
        if self.settings.mode == "image":
            return noise_to_signal(values, self.noise_std, self.clip) / batch
        return noise_to_signal(values, self.noise_std, self.clip, sites=sites)


@functools.cache
def make_plan(settings: PrivacySettings, *, images: int, batch_size: int) -> PrivacyPlan:
    """Find the noise of a privacy mode; the same arguments are computed once.

    Args:
        settings: The site's settings, mode ``site`` or ``image``.
        images: Support images K.
        batch_size: Images in a step of the recipe; ``image`` mode expects as many, or all if there are fewer.

    Returns:
        The plan.

    Raises:
        SettingsError: If no noise keeps to the target ε.
    """
    is_sampled = settings.mode == "image"
    rate = min(1.0, batch_size / images) if is_sampled else 1.0
    noise = settings.noise_multiplier
    if noise is None:
        if settings.target_epsilon is None:
            message = "A privacy plan must have a mode. It has none; set 'mode' under [privacy]."
            raise SettingsError(message)
        steps = settings.rounds * (settings.local_steps if is_sampled else 1)
        noise = find_noise(settings.target_epsilon, settings.delta, sampling_rate=rate, steps=steps)
    return PrivacyPlan(settings, noise, rate)
