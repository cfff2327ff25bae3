"""Pictures of scans, maps, masks and changes, made with Pillow alone."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from scipy import ndimage

from mediclip.errors import DataError
from mediclip.reports.colours import difference_table, heat_table

Picture = Image.Image
OUTLINE: Final = (92, 240, 255)
_HALO: Final = (10, 24, 38)
_MAX_OPACITY: Final = 0.68
_BACKGROUND: Final = (16, 20, 26)
_TEXT: Final = (232, 237, 243)
_MUTED: Final = (148, 160, 174)


def display_range(maps: Iterable[NDArray[np.floating]]) -> tuple[float, float]:
    """Choose one range of anomaly values for pictures that are to be compared.

    Args:
        maps: ``(S, S)`` or ``(B, S, S)`` values in [0, 1], at least one.

    Returns:
        The value that half of all pixels stay below, and the one that all but 0.1 % stay below: ordinary
        tissue is left clear, and a single hot pixel does not pale the rest. The second exceeds the first.

    Raises:
        DataError: If there is no map.
    """
    pixels = [np.ravel(m) for m in maps]
    if not pixels:
        message = "A display range must be chosen from at least 1 map. Got none; give the maps to be shown."
        raise DataError(message)
    low, high = np.quantile(np.concatenate(pixels), (0.5, 0.999))
    return float(low), float(max(high, low + 1e-6))


def overlay(
    image: NDArray[np.floating],
    anomaly_map: NDArray[np.floating],
    mask: NDArray[np.bool_] | None = None,
    *,
    value_range: tuple[float, float] | None = None,
    scale: int = 1,
) -> Picture:
    """Lay an anomaly map over a grey scan: the higher the value, the lighter the colour and the less grey.

    Args:
        image: ``(S, S)`` grey in [0, 1].
        anomaly_map: ``(S, S)`` in [0, 1].
        mask: ``(S, S)`` bool, whose outline is drawn in cyan.
        value_range: Values shown as clear and as full colour. The image's own :func:`display_range` when
            omitted: then the hottest place of every image is hot, and images must not be compared.
        scale: Pixels of the picture for each pixel of the scan, at least 1.

    Returns:
        An RGB picture with sides of ``S * scale``.

    Raises:
        DataError: If the shapes differ.
    """
    _check_same_shape(image, anomaly_map, *([] if mask is None else [mask]))
    low, high = display_range([anomaly_map]) if value_range is None else value_range
    grey = _enlarged(image, scale)
    heat = np.clip((_enlarged(anomaly_map, scale) - low) / (high - low), 0, 1)
    # A smooth start: no visible edge where the range begins.
    opacity = (_MAX_OPACITY * heat * (2 - heat) * np.clip(4 * heat, 0, 1))[..., None]
    colour = heat_table()[np.round(255 * heat).astype(np.uint8)]
    pixels = (1 - opacity) * (255 * np.clip(grey, 0, 1)[..., None]) + opacity * colour
    if mask is not None:
        _draw_outline(pixels, np.kron(mask, np.ones((scale, scale), np.bool_)), scale)
    return Image.fromarray(np.round(pixels).astype(np.uint8))


def difference(
    before: NDArray[np.floating], after: NDArray[np.floating], *, full_scale: float = 0.5
) -> Picture:
    """Show what changed: black where nothing did, orange where it became brighter, blue where darker.

    Args:
        before: ``(S, S)`` grey in [0, 1].
        after: ``(S, S)`` grey in [0, 1].
        full_scale: Change in (0, 1] that is shown in full colour.

    Returns:
        An RGB picture with sides of S.

    Raises:
        DataError: If the shapes differ.
    """
    _check_same_shape(before, after)
    change = np.clip((after.astype(np.float64) - before) / full_scale, -1, 1)
    return Image.fromarray(difference_table()[np.round(127.5 * (change + 1)).astype(np.uint8)])


def grey_picture(values: NDArray[np.floating] | NDArray[np.bool_]) -> Picture:
    """Make a grey RGB picture of ``(S, S)`` values in [0, 1] or of a mask."""
    levels = np.round(255 * np.clip(values.astype(np.float64), 0, 1)).astype(np.uint8)
    return Image.fromarray(levels).convert("RGB")


@dataclass(frozen=True)
class SheetRow:
    """One row of a contact sheet.

    Attributes:
        caption: Its name, written at the left.
        tiles: One picture a column; ``(S, S)`` arrays in [0, 1] and masks are shown in grey.
        note: A smaller line under the caption.
    """

    caption: str
    tiles: Sequence[Picture | NDArray[np.floating] | NDArray[np.bool_]]
    note: str = ""


def contact_sheet(
    rows: Sequence[SheetRow], columns: Sequence[str], *, title: str = "", tile: int = 192
) -> Picture:
    """Arrange pictures in a grid with a name for each row and column.

    Args:
        rows: At least one; each has one tile a column.
        columns: Names above the columns.
        title: A line above everything.
        tile: Side of a tile in pixels, at least 16.

    Returns:
        An RGB picture on a dark ground.

    Raises:
        DataError: If there is no row or a row has another number of tiles than there are columns.
    """
    if not rows or any(len(row.tiles) != len(columns) for row in rows):
        message = (
            f"A contact sheet must have rows of {len(columns)} tiles, one for each column. "
            f"Got {[len(row.tiles) for row in rows]}; give one tile a column."
        )
        raise DataError(message)
    large, normal, small = (ImageFont.load_default(size) for size in (22, 15, 13))
    gap, margin = 8, 24
    left = margin + int(max(max(normal.getlength(r.caption), small.getlength(r.note)) for r in rows)) + 20
    top = margin + (44 if title else 0) + 28
    size = (left + len(columns) * (tile + gap) - gap + margin, top + len(rows) * (tile + gap) - gap + margin)
    sheet = Image.new("RGB", size, _BACKGROUND)
    draw = ImageDraw.Draw(sheet)
    draw.text((margin, margin - 4), title, font=large, fill=_TEXT)
    for i, name in enumerate(columns):
        draw.text((left + i * (tile + gap), top - 10), name, font=normal, fill=_MUTED, anchor="ls")
    for j, row in enumerate(rows):
        y = top + j * (tile + gap)
        draw.text((margin, y + tile // 2), row.caption, font=normal, fill=_TEXT, anchor="lm")
        draw.text((margin, y + tile // 2 + 21), row.note, font=small, fill=_MUTED, anchor="lm")
        for i, one in enumerate(row.tiles):
            picture = one if isinstance(one, Picture) else grey_picture(one)
            fitted = picture.convert("RGB").resize((tile, tile), Image.Resampling.BICUBIC)
            sheet.paste(fitted, (left + i * (tile + gap), y))
    return sheet


def _draw_outline(pixels: NDArray[np.float64], mask: NDArray[np.bool_], width: int) -> None:
    """Draw the inner edge of a mask with a dark line on both sides, so that it shows on any tissue."""
    square = np.ones((3, 3), np.bool_)
    inner = ndimage.binary_erosion(mask, square, iterations=width)
    inside = ndimage.binary_erosion(inner, square)
    pixels[ndimage.binary_dilation(mask, square) & ~inside] = _HALO
    pixels[mask & ~inner] = OUTLINE


def _enlarged(values: NDArray[np.floating], scale: int) -> NDArray[np.float64]:
    plain = values.astype(np.float32)
    if scale > 1:
        size = (plain.shape[1] * scale, plain.shape[0] * scale)
        plain = np.asarray(Image.fromarray(plain).resize(size, Image.Resampling.BICUBIC))
    return plain.astype(np.float64)


def _check_same_shape(*arrays: NDArray[np.floating] | NDArray[np.bool_]) -> None:
    shapes = [a.shape for a in arrays]
    if len(set(shapes)) != 1 or len(shapes[0]) != 2:
        message = (
            "Image, map and mask must have one shape (S, S). "
            f"Got {', '.join(map(str, shapes))}; resize them to the network's input first."
        )
        raise DataError(message)
