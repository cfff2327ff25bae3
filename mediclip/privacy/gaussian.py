"""The Gaussian mechanism on a site's whole update: clip, add noise, and say beforehand what is left of it."""

import math

import numpy as np

from mediclip.model.trainables import Trainables
from mediclip.privacy.clipping import clip_factor, update_norm
from mediclip.privacy.randomness import Randomness


def release_update(
    before: Trainables, after: Trainables, *, clip: float, noise_std: float, random: Randomness
) -> Trainables:
    """Clip an update and add Gaussian noise to each of its values.

    With the update u it gives ``before + u · min(1, C/‖u‖) + N(0, s²)``, in float64 up to the last step. Two
    sets of images of which one has no update at all are C apart at most: that is what the accountant counts.

    Args:
        before: The global model.
        after: The site's model, finite.
        clip: C, largest norm of the update, above 0.
        noise_std: s, standard deviation of the noise in each value, at least 0; with 0 only the clipping is
            left.
        random: Where the noise comes from; secret wherever the result leaves a site.

    Returns:
        float32 tensors of the names and shapes of ``after``.

    Source: Dwork and Roth, The Algorithmic Foundations of Differential Privacy, appendix A; McMahan et al.,
        arXiv 1710.06963, for whole updates.
    """
    factor = clip_factor(update_norm(before, after), clip)
    released = {}
    for name, value in after.items():
        noise = noise_std * random.standard_normal(value.size).reshape(value.shape)
        released[name] = (before[name] + factor * (value.astype(np.float64) - before[name]) + noise).astype(
            np.float32
        )
    return released


def noise_to_signal(values: int, noise_std: float, clip: float, *, sites: int = 1) -> float:
    """Predict how many times longer than the longest possible update its noise is.

    Args:
        values: d, number of values that travel.
        noise_std: s, standard deviation of one site's noise in each value.
        clip: C.
        sites: n, sites in the mean that is looked at, each with noise of its own.

    Returns:
        √d·s / (√n·C), the root mean square norm of the mean's noise over C. With s = z·C/√n at each site it
        is √d·z/n.
    """
    return math.sqrt(values / sites) * noise_std / clip
