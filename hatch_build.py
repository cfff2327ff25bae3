"""Puts the Flower application into the wheel, under ``mediclip/_bundle/``.

A wheel must not install packages named ``client`` or ``server``. An editable install needs no copy: there the
application is the checkout itself.
"""

from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

APPLICATION = ("client", "server", "simulation", "pyproject.toml", "README.md")


class BundleHook(BuildHookInterface[Any]):
    """Adds the application to a standard wheel, and nothing to an editable one."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Name the files to add.

        Args:
            version: ``"standard"`` or ``"editable"``.
            build_data: What hatchling builds from; ``force_include`` maps a source to its place in the wheel.
        """
        if version == "standard":
            build_data["force_include"].update({name: f"mediclip/_bundle/{name}" for name in APPLICATION})
