"""``mediclip verify``: this implementation against golden numbers."""

from pathlib import Path
from typing import Annotated

import typer

from mediclip.cli import console, options


def verify(
    *,
    case: Annotated[
        Path,
        typer.Argument(
            help="Folder with case.json, clip.safetensors and golden.safetensors.",
            metavar="CASE_DIR",
            show_default=False,
        ),
    ],
    as_json: options.Json = False,
) -> None:
    """Check model, losses and optimiser against golden numbers; exits 0 only when all are within tolerance.

    Example:  mediclip verify parity/small
    """
    from mediclip.errors import VerificationError
    from mediclip.verify import verify_case

    found = verify_case(case)
    if as_json:
        console.print_json([{**vars(d), "is_within": d.is_within} for d in found])
    else:
        rows = [
            [d.name, f"{d.largest:.1e}", f"{d.tolerance:.0e}", "" if d.is_within else "[bold red]outside[/]"]
            for d in found
        ]
        console.print_table(
            {"quantity": "left", "largest deviation": "right", "tolerance": "right", "": "left"}, rows
        )
    outside = [d.name for d in found if not d.is_within]
    if outside:
        message = (
            f"All {len(found)} quantities must be within tolerance. {len(outside)} are not, the first is "
            f"{outside[0]}; check the case and the versions of torch and open_clip_torch."
        )
        raise VerificationError(message)
    if not as_json:
        console.out.print(f"All {len(found)} quantities are within tolerance.")
