"""The adapter: one linear map a tapped layer, from the image tower's width to the joint embedding."""

from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn.utils import skip_init


class Adapter(nn.ModuleDict):
    """Maps patch tokens of each tap into the space of the text features.

    A linear map over channels is the 1×1 convolution of the published code; its weight here is ``(D, C)``.

    Source: METHOD 1.3.
    """

    def __init__(self, taps: Sequence[int], width: int, embed_dim: int) -> None:
        # Start values come from named streams; torch's own would be drawn from its global state.
        linears = {str(tap): skip_init(nn.Linear, width, embed_dim) for tap in taps}  # type: ignore[no-untyped-call]
        super().__init__(linears)

    def forward(self, tokens: Sequence[Tensor]) -> list[Tensor]:
        """Adapt the tokens.

        Args:
            tokens: One ``(B, h, w, C)`` tensor a tap, in the order of the taps.

        Returns:
            One ``(B, h, w, D)`` tensor a tap, each token of length 1.
        """
        return [
            nn.functional.normalize(linear(t), dim=-1)
            for linear, t in zip(self.values(), tokens, strict=True)
        ]
