"""No patient on both sides: the split of a set whose images show several scans of one patient."""

from collections.abc import Hashable, Sequence
from typing import Final

from mediclip.data.samples import ABNORMAL, Split
from mediclip.rng import generator

SPLIT_SEED: Final = 0


def split_by_patient(labels: Sequence[int], patients: Sequence[Hashable]) -> list[Split]:
    """Divide images into a training pool and test images so that no patient is on both sides.

    A patient with an abnormal image is a test patient altogether. The others are taken in the order of a
    fixed permutation, which depends on their number alone, until the pool has at least half of their images:
    the rest are test patients. Without an abnormal image there is nothing to be judged on, so all images are
    the pool. With one image a patient this is the split of :mod:`mediclip.data.plain_folders`.

    Args:
        labels: ``(N,)`` 0 normal, 1 abnormal.
        patients: ``(N,)`` whose image each is. Only which ones are equal counts, and the order in which they
            first come up: hashes under another key give the same split.

    Returns:
        ``(N,)`` ``"train"`` or ``"test"``. No image is in the pool if every patient has an abnormal one.
    """
    if ABNORMAL not in labels:
        return ["train"] * len(labels)
    ill = {patient for label, patient in zip(labels, patients, strict=True) if label == ABNORMAL}
    sizes: dict[Hashable, int] = {}
    for patient in patients:
        if patient not in ill:
            sizes[patient] = sizes.get(patient, 0) + 1
    healthy = list(sizes)
    wanted = (sum(sizes.values()) + 1) // 2
    pool: set[Hashable] = set()
    taken = 0
    for i in generator(SPLIT_SEED, "split", "normal").permutation(len(healthy)):
        if taken >= wanted:
            break
        pool.add(healthy[int(i)])
        taken += sizes[healthy[int(i)]]
    return ["train" if patient in pool else "test" for patient in patients]


def on_both_sides(splits: Sequence[Split], patients: Sequence[Hashable]) -> set[Hashable]:
    """Find the patients that a given split would both train on and judge on.

    Args:
        splits: ``(N,)`` side of each image.
        patients: ``(N,)`` whose image each is.

    Returns:
        The patients with images on both sides.
    """
    sides: dict[Hashable, set[Split]] = {}
    for split, patient in zip(splits, patients, strict=True):
        sides.setdefault(patient, set()).add(split)
    return {patient for patient, found in sides.items() if len(found) > 1}
