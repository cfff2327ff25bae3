"""Where the Flower application lies: the repository's root in a checkout, ``mediclip/_bundle`` in a wheel."""

import sys
from pathlib import Path

from mediclip.errors import FederationError


def application_root() -> Path:
    """Find the folder that holds ``client``, ``server``, ``simulation`` and ``pyproject.toml``.

    Returns:
        An absolute path: what ``flwr run`` is given.

    Raises:
        FederationError: If the application did not come with this installation.
    """
    package = Path(__file__).resolve().parent
    for root in (package / "_bundle", package.parent):
        if (root / "client" / "app.py").is_file() and (root / "pyproject.toml").is_file():
            return root
    message = (
        "The folder of the Flower application must hold client/app.py and pyproject.toml. There is none "
        "beside or inside the package mediclip; install the wheel or an editable checkout again."
    )
    raise FederationError(message)


def put_first_on_path() -> Path:
    """Make ``client``, ``server`` and ``simulation`` importable from the application and nowhere else.

    Returns:
        :func:`application_root`, now the first entry of ``sys.path``.

    Raises:
        FederationError: If there is no application.
    """
    root = application_root()
    entry = str(root)
    if sys.path[:1] != [entry]:
        sys.path[:] = [entry, *(other for other in sys.path if other != entry)]
    return root
