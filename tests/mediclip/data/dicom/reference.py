"""What each real file should look like, by pydicom's own decoding and plain NumPy, pixel by pixel."""

import warnings
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.pixels import apply_color_lut, pixel_array

BRAIN = (40, 80)
SOFT = (40, 400)


def reference(path: Path, frame: int = 0) -> NDArray[np.float64]:
    """Show a frame as the policies say, by other means than the package under test."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        header = dcmread(path, force=True)
        pixels: NDArray[Any] = pixel_array(header, index=frame).astype(np.float64)
        if header.PhotometricInterpretation == "PALETTE COLOR":
            pixels = apply_color_lut(pixels.astype(np.uint8), header) // 256
        if pixels.ndim == 3:
            top = 2.0**header.BitsStored - 1 if header.PhotometricInterpretation != "PALETTE COLOR" else 255
            return pixels / top @ [0.299, 0.587, 0.114]
        grey = _grey(header, pixels)
    return 1 - grey if header.PhotometricInterpretation == "MONOCHROME1" else grey


def _grey(header: Dataset, stored: NDArray[np.float64]) -> NDArray[np.float64]:
    slope, intercept = (float(header.get(f"Rescale{k}", v)) for k, v in (("Slope", 1), ("Intercept", 0)))
    values = stored * slope + intercept
    modality = header.get("Modality")
    if modality == "CT":
        centre, width = BRAIN if header.get("BodyPartExamined") == "HEAD" else SOFT
        return np.clip((values - (centre - width / 2)) / width, 0, 1)
    if modality == "MR" or (modality != "CR" and header.BitsStored > 8 and modality != "DX"):
        low, high = np.percentile(values[values > values.min()], [0.5, 99.5])
        return np.clip((values - low) / (high - low), 0, 1)
    if "WindowCenter" in header:
        centre, width = float(header.WindowCenter), float(header.WindowWidth)
        return np.clip((values - (centre - 0.5)) / (width - 1) + 0.5, 0, 1)
    return stored / (2**header.BitsStored - 1)
