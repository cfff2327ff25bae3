"""Figures, pixel by pixel where the answer is known."""

import numpy as np
import pytest
from hypothesis import given, strategies as st
from PIL import Image

from mediclip.errors import DataError
from mediclip.reports.colours import heat_table
from mediclip.reports.figures import (
    OUTLINE,
    SheetRow,
    contact_sheet,
    difference,
    display_range,
    grey_picture,
    overlay,
)

GREY = np.random.default_rng(0).random((24, 24))


def pixels(picture):
    return np.asarray(picture).astype(int)


def test_where_the_map_is_low_the_scan_is_untouched():
    picture = overlay(GREY, np.full((24, 24), 0.3), value_range=(0.3, 0.7))
    np.testing.assert_array_equal(pixels(picture), pixels(grey_picture(GREY)))


def test_where_the_map_is_high_the_colour_is_that_of_the_top():
    picture = pixels(overlay(np.zeros((24, 24)), np.full((24, 24), 0.9), value_range=(0.3, 0.7)))
    np.testing.assert_allclose(picture, np.broadcast_to(0.68 * heat_table()[-1], picture.shape), atol=1)


@given(st.lists(st.floats(0, 1), min_size=2, max_size=10))
def test_higher_values_look_warmer_on_dark_tissue(values):
    ordered = np.sort(np.array(values))[None]
    picture = pixels(overlay(np.zeros(ordered.shape), ordered, value_range=(0.2, 0.8)))
    assert np.all(np.diff(picture[0].sum(axis=1)) >= -2)


def test_without_a_range_the_hottest_place_of_any_map_is_hot():
    faint = np.full((24, 24), 0.5)
    faint[4:8, 4:8] = 0.501
    picture = pixels(overlay(np.zeros((24, 24)), faint))
    assert picture[5, 5].sum() > 300
    assert picture[15, 15].sum() == 0


@pytest.mark.parametrize("scale", [1, 2, 3])
def test_the_outline_follows_the_edge_and_nothing_else(scale):
    mask = np.zeros((24, 24), bool)
    mask[6:16, 8:20] = True
    plain = pixels(overlay(GREY, np.zeros((24, 24)), value_range=(0, 1), scale=scale))
    drawn = pixels(overlay(GREY, np.zeros((24, 24)), mask, value_range=(0, 1), scale=scale))
    assert drawn.shape == (24 * scale, 24 * scale, 3)
    cyan = (drawn == OUTLINE).all(axis=2)
    assert cyan[6 * scale, 8 * scale : 20 * scale].all()
    assert cyan[16 * scale - 1, 8 * scale : 20 * scale].all()
    changed = (drawn != plain).any(axis=2)
    middle = slice(6 * scale + scale + 1, 16 * scale - scale - 1), slice(9 * scale + 1, 19 * scale - 1)
    assert not changed[middle].any()
    outside = np.ones_like(changed)
    outside[6 * scale - 1 : 16 * scale + 1, 8 * scale - 1 : 20 * scale + 1] = False
    assert not changed[outside].any()


def test_an_empty_mask_draws_nothing():
    values = np.linspace(0, 1, 24 * 24).reshape(24, 24)
    with_mask = overlay(GREY, values, np.zeros((24, 24), bool))
    np.testing.assert_array_equal(pixels(with_mask), pixels(overlay(GREY, values)))


def test_the_display_range_leaves_half_clear_and_one_hot_pixel_out():
    values = np.linspace(0, 0.5, 10_000).reshape(100, 100)
    values[0, 0] = 1.0
    low, high = display_range([values])
    assert low == pytest.approx(0.25, abs=1e-3)
    assert high == pytest.approx(0.5, abs=1e-3)


def test_the_display_range_covers_all_maps_and_is_never_empty():
    low, high = display_range([np.zeros((2, 8, 8)), np.full((8, 8), 0.4)])
    assert (low, high) == (0.0, 0.4)
    low, high = display_range([np.full((8, 8), 0.4)])
    assert low == 0.4 < high


def test_no_change_is_black_and_the_sign_is_a_colour():
    before = np.full((4, 4), 0.5)
    after = before.copy()
    after[0, 0], after[1, 1] = 0.9, 0.1
    picture = pixels(difference(before, after))
    assert picture[3, 3].sum() < 12
    assert picture[0, 0, 0] > picture[0, 0, 2]
    assert picture[1, 1, 2] > picture[1, 1, 0]


def test_changes_beyond_the_scale_are_shown_in_full_colour():
    zero, one = np.zeros((2, 2)), np.ones((2, 2))
    np.testing.assert_array_equal(
        pixels(difference(zero, one, full_scale=0.2)), pixels(difference(zero, one, full_scale=1.0))
    )


def test_a_contact_sheet_holds_every_tile_at_its_place():
    red = Image.new("RGB", (32, 32), (200, 10, 10))
    rows = [
        SheetRow("cut_paste", [np.full((8, 8), 0.5), red], note="score 0.5"),
        SheetRow("identity", [np.ones((8, 8), bool), red]),
    ]
    sheet = contact_sheet(rows, ["image", "result"], title="Synthesis", tile=32)
    shown = pixels(sheet)
    assert sheet.mode == "RGB"
    for colour, count in (((200, 10, 10), 2), ((128, 128, 128), 1), ((255, 255, 255), 1)):
        assert (shown == colour).all(axis=2).sum() >= count * 30 * 30
    right = shown[:, -24 - 32 : -24]
    assert (right == (200, 10, 10)).all(axis=2).sum() == 2 * 32 * 32


def test_longer_names_make_room_for_themselves():
    short = contact_sheet([SheetRow("a", [GREY])], ["x"], tile=32)
    long = contact_sheet([SheetRow("a very long name of a task indeed", [GREY])], ["x"], tile=32)
    assert long.width > short.width + 100
    assert long.height == short.height


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: overlay(GREY, np.zeros((8, 8))),
            (
                "Image, map and mask must have one shape (S, S). Got (24, 24), (8, 8); "
                "resize them to the network's input first."
            ),
        ),
        (
            lambda: overlay(GREY, GREY, np.zeros((8, 8), bool)),
            (
                "Image, map and mask must have one shape (S, S). Got (24, 24), (24, 24), (8, 8); "
                "resize them to the network's input first."
            ),
        ),
        (
            lambda: difference(GREY, GREY[None]),
            (
                "Image, map and mask must have one shape (S, S). Got (24, 24), (1, 24, 24); "
                "resize them to the network's input first."
            ),
        ),
        (
            lambda: contact_sheet([SheetRow("a", [GREY])], ["x", "y"]),
            (
                "A contact sheet must have rows of 2 tiles, one for each column. "
                "Got [1]; give one tile a column."
            ),
        ),
        (
            lambda: contact_sheet([], ["x"]),
            "A contact sheet must have rows of 1 tiles, one for each column. Got []; give one tile a column.",
        ),
        (
            lambda: display_range([]),
            "A display range must be chosen from at least 1 map. Got none; give the maps to be shown.",
        ),
    ],
)
def test_what_cannot_be_drawn_is_refused(make, message):
    with pytest.raises(DataError) as caught:
        make()
    assert str(caught.value) == message
