"""``mediclip backbone``: what a backbone is, in the words that a federation's and a site's settings need."""

from typing import Annotated, Any

import typer

from mediclip.cli import console, options

Spec = Annotated[
    str,
    typer.Argument(
        help="Backbone: embedded, local-dir:DIR, NAME:TAG or NAME:FILE.", metavar="SPEC", show_default=False
    ),
]


def backbone(*, spec: Spec, recipe: options.Recipe = "default", as_json: options.Json = False) -> None:
    """Load a backbone and print its SHA-256, its widths, its depth and the taps that are used by default.

    Example:  mediclip backbone local-dir:my-backbone
    """
    found = describe(spec, recipe)
    if as_json:
        console.print_json(found)
    else:
        for name, value in found.items():
            console.out.print(f"{name:<11} {value}", markup=False, soft_wrap=True)


def describe(spec: str, recipe: str = "default") -> dict[str, Any]:
    """Load a backbone and say what it is.

    Args:
        spec: What to load.
        recipe: Recipe by name or TOML file; its image size counts.

    Returns:
        ``spec``, ``sha256``, ``width``, ``embed_dim``, ``text_width``, ``depth``, ``taps``, ``image_size``.

    Raises:
        BackboneError: If it cannot be loaded.
        SettingsError: If the recipe cannot be used.
    """
    from mediclip.config import load_recipe
    from mediclip.model.backbone_loading import load_backbone

    loaded = load_backbone(spec, image_size=load_recipe(recipe).image_size)
    return {
        "spec": spec,
        "sha256": loaded.sha256,
        "width": loaded.shapes.width,
        "embed_dim": loaded.shapes.embed_dim,
        "text_width": loaded.shapes.text_width,
        "depth": loaded.depth,
        "taps": list(loaded.default_taps()),
        "image_size": loaded.image_size,
    }
