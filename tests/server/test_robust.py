import numpy as np
import pytest
from scipy import stats

from mediclip.model.trainables import Schema, TensorSpec
from server.difference import Difference
from server.robust import median, multikrum, tolerated, trimmed_mean
from server.spool import Spool

SIZE = 1003


@pytest.fixture
def rows():
    return np.random.default_rng(0).normal(size=(7, SIZE)).astype(np.float32)


@pytest.fixture
def filled(tmp_path, rows):
    with Spool(tmp_path, SIZE, budget=7 * 100) as spool:  # so that the rows come in parts
        for place in (3, 0, 6, 1, 5, 2, 4):
            spool.add(f"site-{place}", difference(rows[place]))
        yield spool


def difference(row):
    return Difference(Schema((TensorSpec("x", (len(row),)),)), {"x": row}, None)


def test_a_row_comes_back_in_parts_by_the_sites_names(filled, rows):
    parts = [block.copy() for _, block in filled.columns()]
    assert len(parts) > 5
    assert np.array_equal(np.concatenate(parts, axis=1), rows.astype(np.float64))


def test_a_second_row_of_a_site_replaces_the_first(filled, rows):
    filled.add("site-3", difference(rows[0]))
    assert len(filled.sites) == 7
    _, block = next(filled.columns(["site-3"]))
    assert np.array_equal(block[0], rows[0][: block.shape[1]])


def test_the_median_is_numpys(filled, rows):
    assert np.array_equal(median(filled, SIZE), np.median(rows.astype(np.float64), axis=0))


@pytest.mark.parametrize(("share", "cut"), [(0.0, 0), (0.1, 1), (0.2, 1), (0.3, 2), (0.45, 3)])
def test_the_trimmed_mean_is_scipys(filled, rows, share, cut):
    expected = stats.trim_mean(rows.astype(np.float64), (cut + 0.01) / 7, axis=0)
    np.testing.assert_allclose(trimmed_mean(filled, SIZE, share), expected, rtol=1e-12)


@pytest.mark.parametrize(
    ("share", "sites", "expected"),
    [
        (0.2, 1, 0),
        (0.2, 2, 0),
        (0.2, 3, 1),
        (0.2, 4, 1),
        (0.2, 9, 1),
        (0.2, 10, 2),
        (0.01, 3, 1),
        (0.0, 50, 0),
        (0.49, 3, 1),
        (0.49, 100, 49),
    ],
)
def test_at_least_one_of_three_sites_is_given_up_and_always_less_than_half(share, sites, expected):
    assert tolerated(share, sites) == expected
    assert 2 * expected < sites


def test_krum_keeps_the_sites_that_lie_together(tmp_path):
    # Alike in nearly all digits: in float32 the squared distances of the raw weights would be noise.
    rng = np.random.default_rng(1)
    close = (1e-4 * rng.normal(size=(9, SIZE))).astype(np.float32)
    close[4] = -10 * close.mean(axis=0) + (1e-4 * rng.normal(size=SIZE)).astype(np.float32) * 3
    with Spool(tmp_path, SIZE) as spool:
        for place, row in enumerate(close):
            spool.add(f"s{place}", difference(row))
        weights = {f"s{place}": 1 + place for place in range(9)}
        found, kept = multikrum(spool, SIZE, 0.12, weights)
    assert kept == ("s0", "s1", "s2", "s3", "s5", "s6", "s7", "s8")
    places = [0, 1, 2, 3, 5, 6, 7, 8]
    expected = np.average(close[places].astype(np.float64), axis=0, weights=[1 + p for p in places])
    np.testing.assert_allclose(found, expected, rtol=1e-10, atol=1e-18)


def test_krum_of_few_sites_gives_up_none_or_one(tmp_path, rows):
    for count, kept_count in ((1, 1), (2, 2), (3, 2), (4, 3)):
        with Spool(tmp_path, SIZE) as spool:
            for place in range(count):
                spool.add(f"s{place}", difference(rows[place]))
            _, kept = multikrum(spool, SIZE, 0.2, dict.fromkeys(spool.sites, 1))
        assert len(kept) == kept_count
