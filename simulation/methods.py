"""The methods that a comparison puts side by side, in the order of its rows."""

from typing import Final, Literal, get_args

from mediclip.errors import SettingsError

MethodName = Literal["untrained", "winclip", "patchcore", "local", "federated", "kept", "centralised"]
METHODS: Final[tuple[MethodName, ...]] = get_args(MethodName)
USUAL_METHODS: Final[tuple[MethodName, ...]] = ("untrained", "local", "federated", "centralised")
"""All but ``kept``, each site's choice among its candidates, which costs the training of ``local`` again, and
the published detectors that train nothing (:mod:`simulation.baselines`)."""


def parse_methods(text: str) -> tuple[MethodName, ...]:
    """Read methods with commas between.

    Args:
        text: Such as ``"local,federated"``, in any order.

    Returns:
        The methods in the order of :data:`METHODS`.

    Raises:
        SettingsError: If one is unknown or stands twice, or there is none.
    """
    wanted = [part.strip() for part in text.split(",")]
    chosen = tuple(method for method in METHODS if method in wanted)
    if len(chosen) != len(wanted):
        message = (
            f"--methods must be some of {','.join(METHODS)}, each once, with commas between. "
            f"Got {text!r}; correct it."
        )
        raise SettingsError(message)
    return chosen
