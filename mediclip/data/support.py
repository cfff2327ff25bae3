"""The few normal images that a detector is made from."""

from collections import Counter
from collections.abc import Sequence

from mediclip.data.samples import NORMAL, Sample
from mediclip.errors import SettingsError, SupportSetError
from mediclip.rng import generator


def draw_support(samples: Sequence[Sample], shots: int, seed: int) -> tuple[Sample, ...]:
    """Draw a support set from the normal samples, without replacement.

    The draws of one seed are nested: the first 8 of 16 shots are the draw of 8 shots, so that more shots add
    images and exchange none. Where patients are known, each of them gives an image before any gives a second
    one, so that few shots show as many patients as they can; without, the draw is a plain permutation.

    Args:
        samples: Usually a data set's train split; abnormal samples in it are passed over.
        shots: Images to draw, at least 1.
        seed: The run's seed.

    Returns:
        ``shots`` different normal samples in the order they were drawn.

    Raises:
        SettingsError: If ``shots`` is below 1.
        SupportSetError: If there are fewer normal samples than shots.
    """
    if shots < 1:
        message = f"The 'shots' of a support set must be at least 1, but it is {shots}; correct it."
        raise SettingsError(message)
    normal = [sample for sample in samples if sample.label == NORMAL]
    if len(normal) < shots:
        message = (
            f"A support set of {shots} shots must be drawn from at least as many normal images, "
            f"but there are {len(normal)}; ask for fewer shots or add normal images."
        )
        raise SupportSetError(message)
    order = generator(seed, "support").permutation(len(normal))
    drawn = _patients_in_turn([normal[int(i)] for i in order])
    return tuple(drawn[:shots])


def _patients_in_turn(samples: Sequence[Sample]) -> list[Sample]:
    """Put the first image of every patient before the second of any; no group is a patient of its own."""
    seen: Counter[str] = Counter()
    turns = []
    for sample in samples:
        turns.append(seen[sample.group] if sample.group is not None else 0)
        if sample.group is not None:
            seen[sample.group] += 1
    return [samples[i] for i in sorted(range(len(samples)), key=turns.__getitem__)]


def choose_support(samples: Sequence[Sample], indexes: Sequence[int]) -> tuple[Sample, ...]:
    """Take a support set that a person has chosen.

    Args:
        samples: A data set's train split.
        indexes: Positions in it, from 0.

    Returns:
        The samples, in the order of ``indexes``.

    Raises:
        SupportSetError: If there is no index, one is outside the split or stands twice, or its sample is
            abnormal.
    """
    if not indexes or len(set(indexes)) != len(indexes):
        message = (
            f"A support set must be chosen by at least one index and each at most once, "
            f"but {list(indexes)} is given; correct the list."
        )
        raise SupportSetError(message)
    for index in indexes:
        if not 0 <= index < len(samples) or samples[index].label != NORMAL:
            message = (
                f"Index {index} of a support set must be that of a normal image among the {len(samples)} "
                "of the train split, but it is not; correct the list."
            )
            raise SupportSetError(message)
    return tuple(samples[index] for index in indexes)
