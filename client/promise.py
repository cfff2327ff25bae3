"""What a privacy mode promises, what it costs and what is left of the signal, before its first round."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mediclip.config import Recipe
from mediclip.privacy.accounting import Guarantee
from mediclip.privacy.settings import PrivacySettings

if TYPE_CHECKING:
    from client.service.site import Site


@dataclass(frozen=True)
class Promise:
    """A privacy mode before its first round.

    Attributes:
        settings: The site's settings.
        noise_multiplier: z.
        planned: What the planned rounds spend.
        spent: What earlier runs on the same images have spent.
        values: How many values are noised together.
        own_noise_to_signal: Noise over clip in what the site sends; of one step's gradient in ``image`` mode.
        mean_noise_to_signal: The same in the mean of the planned sites; None in ``image`` mode.
    """

    settings: PrivacySettings
    noise_multiplier: float
    planned: Guarantee
    spent: Guarantee
    values: int
    own_noise_to_signal: float
    mean_noise_to_signal: float | None

    def sentence(self) -> str:
        """Say it in one line."""
        settings, planned = self.settings, self.planned
        own, mean = self.own_noise_to_signal, self.mean_noise_to_signal
        steps = f" of {settings.local_steps} steps" if settings.mode == "image" else ""
        length = "gradient, in each step" if mean is None else "update"
        in_mean = "" if mean is None else f", {mean:.3g} times in a mean of {settings.sites}"
        price = f"ε = {planned.epsilon:.3g} at δ = {planned.delta:g} for one {planned.unit}"
        noise = f" (z = {self.noise_multiplier:.3g})"
        parts = [
            f"mode {settings.mode!r}, {settings.rounds} rounds{steps}: {price}{noise}",
            f"{planned.neighbouring}; {planned.sampling}; trusts {planned.trust}",
            f"ε = {self.spent.epsilon:.3g} of {settings.budget:g} is spent",
            f"noise is {own:.3g} times the longest {length}{in_mean}",
        ]
        return "; ".join(parts)

    def as_values(self) -> dict[str, Any]:
        """Write it as plain values."""
        return {
            "mode": self.settings.mode,
            "noise_multiplier": self.noise_multiplier,
            "clip": self.settings.clip,
            "budget": self.settings.budget,
            "rounds": self.settings.rounds,
            "planned": self.planned.as_values(),
            "spent": self.spent.epsilon if math.isfinite(self.spent.epsilon) else None,
            "noised_values": self.values,
            "noise_to_signal": self.own_noise_to_signal,
            "noise_to_signal_of_the_mean": self.mean_noise_to_signal,
        }


def promise(settings: PrivacySettings, site: "Site", recipe: Recipe, ledger: Path) -> Promise:
    """Work out what a privacy mode will do.

    Args:
        settings: The site's settings, with a mode.
        site: The site, open.
        recipe: What it trains with.
        ledger: Where its ledger is or will be; it is not written.

    Raises:
        MediClipError: If the images cannot be used, or no noise keeps to the target ε.
    """
    from mediclip.privacy.dp_sgd import noised_values  # noqa: PLC0415 - torch
    from mediclip.privacy.ledger import read_spent  # noqa: PLC0415

    text = recipe.model_dump_json()
    plan, images = site.privacy_plan(text), site.image_digests(text)
    spent = read_spent(ledger, settings.hidden, images, settings.delta)
    is_image = settings.mode == "image"
    values = noised_values(site.network(text)) if is_image else site.schema(text).size()
    batch = plan.sampling_rate * len(images) if is_image else 1.0
    mean = None if is_image else plan.noise_to_signal(values, sites=settings.sites)
    return Promise(
        settings,
        plan.noise_multiplier,
        plan.planned(),
        plan.guarantee(spent),
        values,
        plan.noise_to_signal(values, batch=batch),
        mean,
    )
