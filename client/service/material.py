"""What a site trains with: its support images, their digests for the privacy ledger, and the backbone."""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from client.settings import SiteSettings
from mediclip.data.manifest import open_dataset
from mediclip.data.policies import check_same
from mediclip.data.preprocess import Preprocess, SquareCache, load_images
from mediclip.data.samples import NORMAL, Sample
from mediclip.data.source import opened
from mediclip.data.support import choose_support, draw_support
from mediclip.errors import SupportSetError
from mediclip.evaluation.duplicates import image_digest
from mediclip.model.backbone import Backbone
from mediclip.privacy.settings import PrivacySettings
from mediclip.rng import generator

_CHUNK: Final = 2**20
HELD_OUT: Final = 16
"""How many images are held out where a site does not say."""


@dataclass(frozen=True)
class Material:
    """What a site trains with.

    Attributes:
        backbone: Frozen backbone; sites in one process may share it.
        support: ``(K, S, S)`` normal images in [0, 1].
        digests: What the privacy ledger knows each image by; of its pixels when omitted.
        patients: Whose image each is, None where unknown; all unknown when omitted.
        held_out: Reads ``(N, S, S)`` further normal images that are never trained on; N may be 0.
    """

    backbone: Backbone
    support: NDArray[np.float32]
    digests: tuple[str, ...] = ()
    patients: tuple[str | None, ...] = ()
    held_out: Callable[[], NDArray[np.float32]] | None = None

    def image_digests(self) -> tuple[str, ...]:
        """Give each image's digest as hexadecimal."""
        return self.digests or tuple(image_digest(image) for image in self.support)

    def check_units(self, privacy: PrivacySettings) -> None:
        """Refuse a support set in which one image or patient would count twice.

        Raises:
            SupportSetError: If noise is wanted and an image stands twice, or if patients are to be hidden and
                one has two images or is unknown.
        """
        if not privacy.is_on:
            return
        units: Sequence[str | None] = self.image_digests()
        if privacy.mode == "image" and privacy.unit == "patient":
            units = self.patients or (None,)
        known = [unit for unit in units if unit is not None]
        if len(set(known)) < len(units):
            message = (
                f"Each {privacy.unit} must be known and give one image to a support set that is trained with "
                f"noise. {len(units) - len(set(known))} of {len(self.support)} do not; choose others in "
                "'support', or use fewer shots."
            )
            raise SupportSetError(message)


def draw_samples(settings: SiteSettings, preprocess: Preprocess) -> tuple[Sample, ...]:
    """Find a site's support samples, without reading their pixels; arguments and errors as below."""
    dataset = open_dataset(settings.data, settings.name)
    check_same(preprocess.policies, dataset.policies, name=settings.name)
    if settings.shots is None:
        return choose_support(dataset.train, settings.support)
    return draw_support(dataset.train, settings.shots, settings.seed)


def load_support(
    settings: SiteSettings, preprocess: Preprocess, cache: SquareCache | None = None
) -> NDArray[np.float32]:
    """Read a site's support images.

    Args:
        settings: The site's settings.
        preprocess: How, as the recipe says.
        cache: Where squares are kept from start to start, if anywhere.

    Returns:
        ``(K, S, S)`` in [0, 1].

    Raises:
        DataError: If the data folder or an image cannot be used, or there are fewer images than shots.
        SettingsError: If the data folder asks for another policy than the recipe.
    """
    return load_images(draw_samples(settings, preprocess), preprocess, cache)


def load_material(
    settings: SiteSettings, backbone: Backbone, preprocess: Preprocess, cache: SquareCache | None = None
) -> Material:
    """Read what a site trains with; arguments and errors as for :func:`load_support`.

    An image's digest is that of its file and frame, so that it is the same for every recipe.
    """
    samples = draw_samples(settings, preprocess)
    images = load_images(samples, preprocess, cache)
    digests = tuple(_file_digest(sample) for sample in samples)
    return Material(
        backbone,
        images,
        digests,
        tuple(sample.group for sample in samples),
        lambda: load_images(held_out_samples(settings, samples), preprocess, cache),
    )


def held_out_samples(settings: SiteSettings, support: Sequence[Sample]) -> tuple[Sample, ...]:
    """Find the normal samples on which the models of a finished run are compared.

    Args:
        settings: The site's settings.
        support: The samples that are trained on.

    Returns:
        Those that the settings name, or up to :data:`HELD_OUT` others, drawn with the settings' seed; maybe
        none.

    Raises:
        DataError: If the data folder cannot be used.
        SupportSetError: If one that the settings name is not normal, or is trained on.
    """
    train = open_dataset(settings.data, settings.name).train
    seen = {sample.index for sample in support}
    if settings.held_out is None:
        rest = [sample for sample in train if sample.label == NORMAL and sample.index not in seen]
        order = generator(settings.seed, "held out").permutation(len(rest))[:HELD_OUT]
        return tuple(rest[int(place)] for place in order)
    if not settings.held_out:
        return ()
    chosen = choose_support(train, settings.held_out)
    if any(sample.index in seen for sample in chosen):
        message = (
            "An image must be held out or trained on, not both. One is; take it out of 'held_out' or of "
            "'support' in site.toml."
        )
        raise SupportSetError(message)
    return chosen


def _file_digest(sample: Sample) -> str:
    digest = hashlib.sha256(f"{sample.frame}:".encode())
    with opened(sample.image, name=sample.title) as stream:
        while chunk := stream.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()
