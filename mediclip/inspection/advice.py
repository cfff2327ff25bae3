"""What to do next with a data folder, in sentences, the most pressing first."""

from collections.abc import Iterator, Mapping
from typing import Any, Final

SHOTS: Final = 16
# With n normals no threshold can be set that flags 1 in 20 below n = 19 (MEDICAL: p = (1 + #) / (n + 1)).
_NORMALS_FOR_5_PERCENT: Final = 19


def advise(found: Mapping[str, Any]) -> list[str]:
    """Say what is missing, what to look at, and which command comes next.

    Args:
        found: The rest of the summary.

    Returns:
        Sentences; the last one is a command where there is one to run. ``DIR`` stands for the folder.
    """
    if found["fault"]:
        return [*_pressing(found), found["fault"]]
    return [*_pressing(found), *_to_look_at(found), *_commands(found)]


def _pressing(found: Mapping[str, Any]) -> Iterator[str]:
    unusable = found["images"] - found["usable"]
    if unusable:
        classes = ", ".join(f"{code} {count}" for code, count in found["unusable"].items())
        yield f"{unusable} of {found['images']} images cannot be used ({classes}): mend or remove them."
    if found["one_grey"]:
        yield f"{len(found['one_grey'])} images show one grey and nothing else: remove them."


def _to_look_at(found: Mapping[str, Any]) -> Iterator[str]:
    copies, text = found["copies"], found["burned_in_text"]
    modalities = sorted({kind["modality"] for kind in found["kinds"]})
    if any(kind["size"] for kind in found["kinds"]) and len(modalities) > 1:
        yield (
            f"The set mixes {', '.join(modalities)}: a detector learns one kind of image; "
            "choose with --modality, --body-part and --view."
        )
    if (test := copies["test_images_like_a_training_image"]) > 0:
        yield f"{test} test images show a training image again: 'evaluate' gives figures without them too."
    if copies["patients"]:
        yield f"{copies['patients']} pairs of copies belong to two patients: find out whether these are one."
    if copies["labels"]:
        yield f"{copies['labels']} pairs of copies are labelled normal and abnormal: correct the labels."
    if text["images"]:
        yield (
            f"{text['images']} images may have text in their pixels: look at them before you show any to "
            "others; what is burned in may be a name, and a detector takes it for a finding."
        )


def _commands(found: Mapping[str, Any]) -> Iterator[str]:
    normal, patients = found["train_normal"], found["train_patients"]
    whose = f" of {patients} patients" if found["patients"] else ""
    if not normal:
        yield "No normal image is left to train on: add some."
        return
    if not found["test_abnormal"]:
        yield (
            "No abnormal image is there to evaluate on: add abnormal/ or a table of labels, or go without "
            "figures."
        )
    elif found["test_normal"] < _NORMALS_FOR_5_PERCENT:
        yield (
            f"{found['test_normal']} normal test images are too few for a threshold at 5 %, which takes "
            f"{_NORMALS_FOR_5_PERCENT}: add normal images."
        )
    shots = min(SHOTS, normal)
    enough = "enough for" if normal >= SHOTS else f"{SHOTS} are usual; this is enough for"
    yield (
        f"{normal} normal images{whose} to train on: {enough} {shots} shots; run: mediclip train --data DIR "
        f"--shots {shots} --backbone SPEC --out runs/first"
    )
