"""Options that several commands share, worded once."""

from pathlib import Path
from typing import Annotated

import typer

Data = Annotated[
    Path,
    typer.Option(
        help="Data folder: DICOM files, MediCLIP sample lists, or normal/, abnormal/ and masks/.",
        metavar="DIR",
        show_default=False,
    ),
]
Out = Annotated[Path, typer.Option(help="Folder for the results.", metavar="DIR", show_default=False)]
Model = Annotated[
    Path, typer.Option(help="Model file written by 'mediclip train'.", metavar="FILE", show_default=False)
]
Backbone = Annotated[
    str,
    typer.Option(
        help="Backbone: embedded, local-dir:DIR, NAME:TAG (such as ViT-L-14:openai) or NAME:FILE.",
        metavar="SPEC",
        show_default=False,
    ),
]
OtherBackbone = Annotated[
    str | None,
    typer.Option(
        help="Where the model's backbone lies on this machine, if not where it was trained.", metavar="SPEC"
    ),
]
Seed = Annotated[int, typer.Option(help="Seed of everything random.", min=0)]
Device = Annotated[str, typer.Option(help="Torch device: cpu or cuda.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON for a script, and no progress bar.")]
Recipe = Annotated[str, typer.Option(help="reference (as published), default, or a TOML file.")]
Level = Annotated[
    float, typer.Option(help="Wanted false-positive rate of a calibrated decision.", min=0.001, max=0.5)
]
Taps = Annotated[
    str | None,
    typer.Option(help="Tapped layers, such as 6,9,12. [dim]Default: a half, three quarters and the end.[/]"),
]
Modality = Annotated[
    list[str] | None,
    typer.Option(
        help="Of a folder of DICOM files, take this modality alone, such as MR; may stand several times.",
        metavar="CODE",
    ),
]
BodyPart = Annotated[
    list[str] | None,
    typer.Option(help="Likewise this body part, as the files spell it, such as BRAIN.", metavar="CODE"),
]
View = Annotated[list[str] | None, typer.Option(help="Likewise this view, such as PA.", metavar="CODE")]
Labels = Annotated[
    Path | None,
    typer.Option(
        help="Table of labels and masks of a folder of DICOM files (CSV or JSON lines), if not in it.",
        metavar="FILE",
    ),
]
Policy = Annotated[
    list[str] | None,
    typer.Option(
        help="How DICOM of a modality is shown, such as MR=stored-range; may stand several times.",
        metavar="MODALITY=POLICY",
    ),
]
ShowConfig = Annotated[bool, typer.Option("--show-config", help="Print what is in force and stop.")]
