"""A contact sheet of what synthesis makes of a set's own scans."""

from pathlib import Path
from typing import Final

from mediclip.data.preprocess import Preprocess, load_images
from mediclip.data.samples import NORMAL, Dataset
from mediclip.data.support import draw_support
from mediclip.reports.figures import SheetRow, contact_sheet, difference
from mediclip.rng import generator
from mediclip.synthesis import TASKS, Mixture

_ROWS: Final = 2


def write_synthesis_sheet(dataset: Dataset, folder: Path, seed: int) -> Path:
    """Draw two anomalies of each task on scans of a set.

    Args:
        dataset: The set, with a normal image to train on.
        folder: Where to write ``synthesis.png``; it exists.
        seed: Of the draw.

    Returns:
        The picture's file.

    Raises:
        ImageError: If an image cannot be used.
        SupportSetError: If there is no normal image.
    """
    normal = [s for s in dataset.train if s.label == NORMAL]
    preprocess = Preprocess(policies=dataset.policies)
    support = load_images(draw_support(normal, max(1, min(8, len(normal))), seed), preprocess)
    rows = []
    for task in TASKS:
        mixture = Mixture({task: 1.0}, second_anomaly=0.5)
        for row in range(_ROWS):
            before = support[row % len(support)]
            made = mixture.draw(before, support, generator(seed, "sheet", task, row))
            tiles = [before, made.image, made.label, difference(before, made.image)]
            rows.append(SheetRow(task.replace("_", " ") if row == 0 else "", tiles))
    columns = ["scan", "with anomaly", "label", "difference"]
    path = folder / "synthesis.png"
    contact_sheet(rows, columns, title="What training sees").save(path)
    return path
