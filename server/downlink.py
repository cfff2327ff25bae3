"""The global model on its way to the sites: a difference for those that hold the last one, else whole.

What a difference loses is not lost: the server knows what the sites hold, and the next one starts from there.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field

from mediclip.exchange.codec import Codec
from mediclip.exchange.parcel import (
    Parcel,
    applied,
    difference,
    model_digest,
    pack_difference,
    pack_values,
)
from mediclip.model.trainables import Schema, Trainables


@dataclass(frozen=True)
class Outgoing:
    """One round's model.

    Attributes:
        view: What every site trains from in this round; the global model up to what the codec lost.
        whole: The same, for sites that hold nothing that helps.
        change: Its difference from what the sites held before; None for an exact codec.
        digest: Digest of the view.
    """

    view: Trainables
    whole: Parcel
    change: Parcel | None
    digest: str


@dataclass
class Downlink:
    """What the sites hold.

    Attributes:
        codec: How differences are written.
        schema: The tensors of the model.
        view: The model that the sites trained from last; the run's first before that.
        holders: Sites that answered from it; None before the first round, when every site can make it.
    """

    codec: Codec
    schema: Schema
    view: Trainables
    holders: frozenset[str] | None = None
    _outgoing: Outgoing | None = field(default=None, init=False)

    def prepare(self, current: Trainables) -> Outgoing:
        """Write a round's model.

        Args:
            current: The global model.
        """
        if self.codec.is_exact:
            self._outgoing = Outgoing(current, pack_values(self.schema, current), None, model_digest(current))
        else:
            wanted = difference(current, self.view)
            sent = pack_difference(self.codec, self.schema, model_digest(self.view), wanted)
            view = applied(self.view, sent.arrived)
            self._outgoing = Outgoing(view, pack_values(self.schema, view), sent.parcel, model_digest(view))
        return self._outgoing

    def is_holder(self, site: str) -> bool:
        """Say whether a site can make use of a difference."""
        return self.holders is None or site in self.holders

    @property
    def kept(self) -> Trainables | None:
        """The model that a difference starts from, None where none is sent."""
        return None if self.codec.is_exact else self.view

    @property
    def answered(self) -> tuple[str, ...]:
        """Sites that hold it."""
        return () if self.codec.is_exact else tuple(sorted(self.holders or ()))

    def settle(self, answered: Iterable[str]) -> None:
        """Go on from a finished round.

        Args:
            answered: Sites whose update counted; whoever else there is gets the whole model next time.
        """
        if self._outgoing is not None:
            self.view = self._outgoing.view
        self.holders = frozenset(answered)
