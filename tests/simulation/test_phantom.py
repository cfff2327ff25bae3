import time

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from scipy import ndimage
from sklearn.metrics import roc_auc_score

from mediclip.errors import SettingsError
from mediclip.rng import generator
from simulation.phantom import ORGANS, Phantom, Scanner, draw_phantom, draw_scanner, finding_names

NO_KNEE = "The organ of a phantom must be one of chest, brain, breast, abdomen, retina. Got 'knee' instead."
FINDINGS = [(organ, finding) for organ in ORGANS for finding in finding_names(organ)]


def draw(organ: str, seed: int, **options) -> Phantom:
    return draw_phantom(organ, generator(seed, "test"), **{"size": 128, **options})


def test_the_organs_have_the_findings_that_are_promised():
    assert {organ: finding_names(organ) for organ in ORGANS} == {
        "chest": ("nodule", "consolidation", "effusion"),
        "brain": ("mass", "spots", "haemorrhage"),
        "breast": ("mass", "cyst"),
        "abdomen": ("mass", "cyst", "calcification", "fluid"),
        "retina": ("haemorrhage", "exudates", "scar"),
    }


@settings(max_examples=40, deadline=None)
@given(
    st.sampled_from([(organ, None) for organ in ORGANS] + FINDINGS),
    st.integers(0, 2**40),
    st.integers(64, 160),
    st.integers(0, 50),
)
def test_any_phantom_is_a_grey_image_with_a_mask_that_fits(
    kind: tuple[str, str | None], seed: int, size: int, site: int
):
    organ, finding = kind
    phantom = draw(organ, seed, size=size, finding=finding, scanner=draw_scanner(1, site))
    assert (phantom.organ, phantom.finding) == kind
    assert phantom.image.shape == phantom.mask.shape == (size, size)
    assert (phantom.image.dtype, phantom.mask.dtype) == (np.float32, np.bool_)
    assert np.isfinite(phantom.image).all()
    assert phantom.image.min() >= 0
    assert phantom.image.max() <= 1
    assert phantom.mask.any() == (finding is not None)
    assert phantom.mask.mean() < 0.12
    assert phantom.image.std() > 0.05


@pytest.mark.parametrize("organ", ORGANS)
def test_the_same_seed_gives_the_same_phantom_and_another_seed_another(organ: str):
    first, again, other = (draw(organ, seed, finding="random") for seed in (1, 1, 2))
    assert np.array_equal(first.image, again.image)
    assert np.array_equal(first.mask, again.mask)
    assert first.finding == again.finding
    assert np.abs(first.image - other.image).mean() > 0.02


@pytest.mark.parametrize("organ", ORGANS)
def test_no_two_patients_are_alike(organ: str):
    smooth = np.stack([ndimage.gaussian_filter(draw(organ, seed).image, 2) for seed in range(12)])
    apart = np.abs(smooth[:, None] - smooth[None]).mean(axis=(2, 3))[np.triu_indices(12, 1)]
    assert apart.min() > 0.02  # noise alone stays below 0.005 after the blur


@pytest.mark.parametrize(
    ("organ", "finding", "protocol"),
    [(o, f, p) for o, f in FINDINGS for p in (("t1", "t2", "flair") if o == "brain" else ("mixed",))],
)
def test_a_finding_shows_inside_its_mask_and_changes_nothing_far_from_it(
    organ: str, finding: str, protocol: str
):
    scanner = Scanner(protocol=protocol)
    for seed in range(5):
        healthy, ill = (draw(organ, seed, scanner=scanner, finding=f) for f in (None, finding))
        change = np.abs(ill.image - healthy.image)
        # Behind a lesion in ultrasound, that is below it, there is shadow or brightness.
        reach = np.maximum.accumulate(ill.mask, axis=0) if organ == "breast" else ill.mask
        away = ndimage.distance_transform_edt(~reach)
        assert change[ill.mask].mean() > 0.05
        assert (change[ill.mask] > 0.02).mean() > 0.7
        assert change[away > 0.2 * 128].max(initial=0) < 1e-3
        assert change[ill.mask].mean() > 20 * change[away > 0.1 * 128].mean()


def test_findings_lie_where_they_belong():
    for seed in range(10):
        nodule, effusion = (draw("chest", seed, finding=f).mask for f in ("nodule", "effusion"))
        assert not nodule[:, [0, -1]].any()
        low = ndimage.center_of_mass(effusion)[0] / 128
        assert 0.5 < low < 0.95
        for finding in finding_names("brain"):
            ill, healthy = (draw("brain", seed, finding=f) for f in (finding, None))
            inside = ndimage.binary_fill_holes(ndimage.gaussian_filter(healthy.image, 1) > 0.12)
            assert inside[ill.mask].mean() > 0.98
        for finding in finding_names("breast"):
            assert 0.1 < ndimage.center_of_mass(draw("breast", seed, finding=finding).mask)[0] / 128 < 0.85


@pytest.mark.parametrize("organ", ORGANS)
def test_a_phantom_looks_the_same_at_another_size(organ: str):
    quiet = Scanner(noise=0, blur=1)
    for finding in (None, *finding_names(organ)):
        overlaps = []
        for seed in range(7, 12):
            small, large = (
                draw(organ, seed, size=size, finding=finding, scanner=quiet) for size in (128, 256)
            )
            halved = large.image.reshape(128, 2, 128, 2).mean((1, 3))
            coarse = [ndimage.gaussian_filter(i, 2.5).ravel() for i in (small.image, halved)]
            assert np.corrcoef(*coarse)[0, 1] > 0.93
            both = small.mask & large.mask[::2, ::2]
            overlaps.append(2 * both.sum() / max(1, small.mask.sum() + large.mask[::2, ::2].sum()))
        # A place at the very edge of where there is room may be taken at one size alone.
        assert finding is None or np.median(overlaps) > 0.7


@pytest.mark.parametrize("organ", ORGANS)
def test_no_simple_statistic_gives_findings_away(organ: str):
    groups = [
        [draw(organ, 100 * g + s, size=64, finding=f).image for s in range(40)]
        for g, f in ((1, None), (2, "random"))
    ]
    labels = [0] * 40 + [1] * 40
    for statistic in (np.mean, np.std, np.max):
        auroc = roc_auc_score(labels, [statistic(image) for group in groups for image in group])
        assert 0.25 < auroc < 0.75


def test_a_random_finding_takes_each_in_turn():
    for organ in ORGANS:
        assert {draw(organ, seed, size=64, finding="random").finding for seed in range(30)} == set(
            finding_names(organ)
        )


def test_brains_are_symmetric_but_not_quite():
    image = draw("brain", 4, size=256).image
    similarity = np.corrcoef(image.ravel(), image[:, ::-1].ravel())[0, 1]
    assert 0.5 < similarity < 0.995


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: draw("knee", 0),
            NO_KNEE,
        ),
        (
            lambda: finding_names("knee"),
            NO_KNEE,
        ),
        (
            lambda: draw("breast", 0, finding="nodule"),
            "The finding of a breast phantom must be one of None, random, mass, cyst. Got 'nodule' instead.",
        ),
        (
            lambda: draw("brain", 0, size=63),
            "The 'size' of a phantom must be in [64, 2048] pixels. Got 63 instead.",
        ),
    ],
)
def test_what_cannot_be_drawn_is_refused(call, message: str):
    with pytest.raises(SettingsError) as error:
        call()
    assert str(error.value) == message


@pytest.mark.parametrize("organ", ORGANS)
def test_the_time_a_phantom_takes_is_told(organ: str, capsys: pytest.CaptureFixture[str]):
    start = time.perf_counter()
    for seed in range(3):
        draw(organ, seed, size=256, finding="random")
    with capsys.disabled():
        print(f" [{organ}: {(time.perf_counter() - start) / 3 * 1000:.0f} ms for 256 x 256]", end="")  # noqa: T201
