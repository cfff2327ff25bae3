"""What a site allows: whose questions it answers, with which code, for how long, and what may leave.

The daemon asks the policy before it trains and again before it answers. A refusal has one of a few reasons,
which are all that the coordinator learns. Two further refusals need no policy: another backbone, by its
SHA-256, and another recipe, which the site itself refuses to load.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from client.service.fit import FitReply, FitRequest
from mediclip.errors import PolicyError
from mediclip.exchange.codecs import CODEC_NAMES, FLOAT32, named_codec
from mediclip.model.trainables import Trainables
from mediclip.privacy.clipping import clip_update, update_norm
from mediclip.protocol import METRIC_NAMES


@dataclass(frozen=True)
class Release:
    """What leaves, and what became of it.

    Attributes:
        reply: What leaves.
        made_norm: Norm of the update as it was made.
        norm: Norm of the update that leaves.
    """

    reply: FitReply
    made_norm: float
    norm: float

    @property
    def is_clipped(self) -> bool:
        """Whether the update was shortened."""
        return self.norm < self.made_norm


@dataclass(frozen=True)
class Policy:
    """A site's rules; whatever is None is not restricted.

    Attributes:
        federation: The only federation that is answered.
        source_digest: Digest that the site's own application code must have.
        max_rounds: Last round that is answered.
        min_images: Fewest support images from which an update may leave, at least 1.
        metrics: Which numbers may leave beside the number of support images.
        max_update_norm: Largest Euclidean norm of the site's own update, above 0.
        codecs: Codecs in which an update may leave.
        clips: Whether a larger update is shortened to that norm; otherwise it is refused.
        min_metric_images: Fewest support images from which a number may leave beside the update.
        min_local_steps: Fewest optimiser steps of a round.
        max_model_norm: Largest Euclidean norm of a model that is taken in.
        is_private: Whether noise hides the images: no number leaves then, not even how many there are.
        shares_descriptor: Whether a descriptor of the scans may leave; where noise hides the images it may
            not, because it has none.
    """

    federation: str | None = None
    source_digest: str | None = None
    max_rounds: int | None = None
    min_images: int = 1
    metrics: frozenset[str] = frozenset(METRIC_NAMES)
    max_update_norm: float | None = None
    codecs: frozenset[str] = frozenset(CODEC_NAMES)
    clips: bool = True
    min_metric_images: int = 1
    min_local_steps: int = 1
    max_model_norm: float | None = None
    is_private: bool = False
    shares_descriptor: bool = False

    def check_asker(self, federation: str, source_digest: str) -> None:
        """Refuse another federation, and to answer with other code.

        Args:
            federation: What the run says it belongs to; empty where it does not say.
            source_digest: Digest of the application that this process runs.

        Raises:
            PolicyError: For the reason ``federation`` or ``source``.
        """
        if self.federation is not None and federation != self.federation:
            message = (
                f"A run must belong to the federation {self.federation!r}. This one does not say so; "
                "ask its coordinator for a kit of that federation."
            )
            raise PolicyError(message, reason="federation")
        if self.source_digest is not None and source_digest != self.source_digest:
            message = (
                f"The application's code must have the digest {self.source_digest[:16]}…. The installed one "
                f"has {source_digest[:16]}…; install the version that the kit was made for."
            )
            raise PolicyError(message, reason="source")

    def check_round(self, number: int, local_steps: int) -> None:
        """Refuse a round beyond the last, and one of too few steps.

        Raises:
            PolicyError: For the reason ``rounds`` or ``steps``.
        """
        if self.max_rounds is not None and number > self.max_rounds:
            message = (
                f"A round must be at most {self.max_rounds}. Got {number}; raise 'max_rounds' in site.toml "
                "if that is wanted."
            )
            raise PolicyError(message, reason="rounds")
        if local_steps < self.min_local_steps:
            message = (
                f"A round must have at least {self.min_local_steps} local steps. Got {local_steps}; ask the "
                "coordinator for more."
            )
            raise PolicyError(message, reason="steps")

    def check_model(self, tensors: Trainables) -> None:
        """Refuse a model that is too large.

        Raises:
            PolicyError: For the reason ``model``.
        """
        norm = model_norm(tensors)
        if self.max_model_norm is not None and not norm <= self.max_model_norm:
            message = (
                f"A model must have a norm of at most {self.max_model_norm:.4g}. The one that was sent has "
                f"{norm:.4g}; ask the coordinator, or raise 'max_model_norm' in site.toml."
            )
            raise PolicyError(message, reason="model")

    def choose_codec(self, wanted: str) -> str:
        """Choose how updates leave: as wanted, else as whole float32 values.

        Args:
            wanted: The server's choice, a name with version.

        Returns:
            A name with version that the server can read.

        Raises:
            PolicyError: For the reason ``codec``.
        """
        known = [named_codec(name).name for name in CODEC_NAMES if name in self.codecs]
        for name in (wanted, FLOAT32.name):
            if name in known:
                return name
        message = (
            f"An update must leave in one of the codecs {', '.join(sorted(self.codecs))}. The server wants "
            "another; agree on one, or add it or float32 to 'codecs' in site.toml."
        )
        raise PolicyError(message, reason="codec")

    def check_codec(self, name: str) -> None:
        """Refuse to let an update leave in a codec that is not allowed.

        Raises:
            PolicyError: For the reason ``codec``.
        """
        if self.choose_codec(name) != name:
            message = "An update must leave in the agreed codec. Another was asked for; ask for that one."
            raise PolicyError(message, reason="codec")

    def check_images(self, count: int) -> None:
        """Refuse to train from too few images.

        Raises:
            PolicyError: For the reason ``images``.
        """
        if count < self.min_images:
            message = (
                f"An update must come from at least {self.min_images} images. There are {count}; add normal "
                "images, or lower 'min_images' in site.toml if that is wanted."
            )
            raise PolicyError(message, reason="images")

    def check_descriptor(self) -> None:
        """Refuse to let a descriptor of the scans leave.

        Raises:
            PolicyError: For the reason ``descriptor``.
        """
        if self.is_private or not self.shares_descriptor:
            message = (
                "A descriptor of the scans may leave only where 'share_descriptor' in site.toml is true and "
                "no noise is asked for. That is not so; the site then trains the model of all sites."
            )
            raise PolicyError(message, reason="descriptor")

    def numbers(self, metrics: Mapping[str, float], images: int) -> dict[str, float]:
        """Take out the numbers that may not leave.

        Args:
            metrics: Numbers by name.
            images: Support images that they stand for.

        Returns:
            Those that the policy names; none from too few images or where noise hides them.
        """
        if self.is_private or images < self.min_metric_images:
            return {}
        return {name: value for name, value in metrics.items() if name in self.metrics}

    def release(self, request: FitRequest, reply: FitReply) -> Release:
        """Shorten what a site has made, if need be, and take out the numbers that are not allowed.

        Args:
            request: The round's work, with the global model.
            reply: What the site would answer.

        Returns:
            What may be encoded. Releasing it again changes nothing.

        Raises:
            PolicyError: For the reason ``images`` or ``norm``.
        """
        made = update_norm(request.tensors, reply.tensors)
        bound = self.max_update_norm
        if bound is not None and self.clips and bound < made < math.inf:
            reply = replace(reply, tensors=clip_update(request.tensors, reply.tensors, bound).tensors)
        return replace(self.judge(request, reply), made_norm=made)

    def judge(self, request: FitRequest, reply: FitReply) -> Release:
        """Judge what the coordinator will read, which can no longer be shortened.

        Args:
            request: The round's work, with the global model.
            reply: The answer, decoded as the coordinator will.

        Returns:
            What leaves, without the numbers that are not allowed.

        Raises:
            PolicyError: For the reason ``images`` or ``norm``.
        """
        if not self.is_private:
            self.check_images(reply.examples)
        norm = update_norm(request.tensors, reply.tensors)
        if self.max_update_norm is not None and not norm <= self.max_update_norm:
            message = (
                f"The site's update must have a norm of at most {self.max_update_norm:.4g}. It has "
                f"{norm:.4g}; ask the coordinator for fewer local steps, or raise 'max_update_norm'."
            )
            raise PolicyError(message, reason="norm")
        allowed = self.numbers(reply.metrics, reply.examples)
        return Release(replace(reply, metrics=allowed), norm, norm)


def model_norm(tensors: Trainables) -> float:
    """Return the Euclidean norm of a model over all tensors, in float64."""
    return update_norm({name: np.zeros_like(value) for name, value in tensors.items()}, tensors)
