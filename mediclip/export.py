"""Writes a trained detector as one ONNX or ``torch.export`` file, and checks its numbers."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from mediclip.errors import CheckpointError, SettingsError
from mediclip.model.network import MediClip
from mediclip.model.scorer import Scorer
from mediclip.rng import generator
from mediclip.training.checkpoint import versions

ExportFormat = Literal["onnx", "torch"]
METADATA_KEY: Final = "mediclip"
TOLERANCE: Final = 1e-4
"""Largest difference of any score or pixel between the detector and the exported file."""
_CHECKED_BATCHES = (1, 3)
_NAMES = ("scores", "maps")

Run = Callable[[NDArray[np.float32]], tuple[NDArray[np.float32], NDArray[np.float32]]]


def export_detector(
    network: MediClip,
    preprocess: dict[str, Any],
    path: Path,
    *,
    form: ExportFormat,
    tolerance: float = TOLERANCE,
) -> dict[str, Any]:
    """Write a detector for another runtime, run the file on seeded images and compare.

    Args:
        network: The trained detector, on the CPU.
        preprocess: How images are prepared for it, as plain values.
        path: File to write; nothing is there when the check fails.
        form: ``onnx`` for any ONNX runtime, ``torch`` for ``torch.export.load``.
        tolerance: Largest difference of any score or pixel that is accepted.

    Returns:
        What the file's metadata says: recipe, backbone and its SHA-256, taps, image size, preprocessing,
        versions and the largest difference that was found. In ONNX it is the property ``mediclip``, in the
        other the extra file ``mediclip.json``; both as JSON. Input ``images`` is ``(B, S, S)`` float32 in
        [0, 1], outputs are ``scores`` ``(B,)`` and ``maps`` ``(B, S, S)``.

    Raises:
        BackboneError: If the image tower is of another kind.
        CheckpointError: If the file's numbers differ by more than the tolerance.
        SettingsError: If the packages of the extra ``export`` are missing.
    """
    _check_packages(form)
    scorer = Scorer(network).eval()
    facts: dict[str, Any] = {
        "recipe": network.recipe.model_dump(mode="json"),
        "backbone": {"name": network.backbone.name, "sha256": network.backbone.sha256},
        "taps": list(network.taps),
        "image_size": network.recipe.image_size,
        "preprocess": preprocess,
        "versions": versions(),
        "max_difference": 0.0,
    }
    part = path.with_name(f".{path.name}.part")
    try:
        write, load = (_write_onnx, _run_onnx) if form == "onnx" else (_write_torch, _run_torch)
        write(scorer, part, facts)
        facts["max_difference"] = _largest_difference(network, load(part))
        if not facts["max_difference"] <= tolerance:  # also true for NaN
            message = (
                f"An exported detector must score as the original within {tolerance:g}. It differs by "
                f"{facts['max_difference']:.2g}; report this, and score with 'mediclip score'."
            )
            raise CheckpointError(message)
        _describe(part, form, facts)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
    return facts


def _check_packages(form: ExportFormat) -> None:
    if form == "torch":
        return
    try:
        import onnx  # noqa: PLC0415, F401 - an extra that most installations lack
        import onnxruntime  # noqa: PLC0415, F401
        import onnxscript  # noqa: PLC0415, F401
    except ImportError as error:
        message = (
            "Writing ONNX must have the packages onnx, onnxruntime and onnxscript. One is missing; install "
            "mediclip-fl[export], or choose --format torch."
        )
        raise SettingsError(message) from error


def _example(size: int, number: int, count: int) -> NDArray[np.float32]:
    """Draw smooth images ``(B, S, S)`` in [0, 1], since noise is what no detector sees."""
    coarse = torch.from_numpy(generator(number, "export").random((count, 1, 9, 9), np.float32))
    drawn = torch.nn.functional.interpolate(coarse, (size, size), mode="bicubic").clamp(0, 1)
    images: NDArray[np.float32] = drawn[:, 0].contiguous().numpy()
    return images


def _largest_difference(network: MediClip, run: Run) -> float:
    """Compare the file with the detector in float32, however its recipe multiplies."""
    exact = MediClip(
        network.backbone, network.recipe.model_copy(update={"precision": "float32"}), network.taps
    )
    exact.load(network.trainables())
    differences = []
    for number, count in enumerate(_CHECKED_BATCHES):
        images = _example(network.recipe.image_size, number, count)
        with torch.inference_mode():
            wanted = exact.judge(exact.tokens(torch.from_numpy(images)))
        scores, maps = run(images)
        pairs = ((maps, wanted.maps), (scores, wanted.scores))
        differences += [np.abs(one - other.numpy()).max() for one, other in pairs]
    return float(np.max(differences))


def _dynamic_batch() -> dict[str, dict[int, Any]]:
    return {"images": {0: torch.export.Dim("batch", min=1, max=4096)}}


def _write_onnx(scorer: Scorer, path: Path, _facts: dict[str, Any]) -> None:
    images = torch.from_numpy(_example(scorer.size, 0, 2))
    with torch.no_grad():
        torch.onnx.export(
            scorer,
            (images,),
            path,
            input_names=["images"],
            output_names=list(_NAMES),
            dynamic_shapes=_dynamic_batch(),
            dynamo=True,
            external_data=False,
            verbose=False,
        )


def _run_onnx(path: Path) -> Run:
    import onnxruntime  # noqa: PLC0415

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])

    def run(images: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        scores, maps = session.run(list(_NAMES), {"images": images})
        return scores, maps

    return run


def _write_torch(scorer: Scorer, path: Path, facts: dict[str, Any]) -> None:
    images = torch.from_numpy(_example(scorer.size, 0, 2))
    with torch.no_grad():
        program = torch.export.export(scorer, (images,), dynamic_shapes=_dynamic_batch())
    with path.open("wb") as file:
        torch.export.save(program, file, extra_files={f"{METADATA_KEY}.json": json.dumps(facts)})


def _run_torch(path: Path) -> Run:
    with path.open("rb") as file:
        module = torch.export.load(file).module()

    def run(images: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        with torch.no_grad():
            scores, maps = (result.numpy() for result in module(torch.from_numpy(images)))
        return scores, maps

    return run


def _describe(path: Path, form: ExportFormat, facts: dict[str, Any]) -> None:
    """Put the facts, with what the check found, into the file."""
    if form == "torch":
        with path.open("rb") as file:
            program = torch.export.load(file)
        with path.open("wb") as file:
            torch.export.save(program, file, extra_files={f"{METADATA_KEY}.json": json.dumps(facts)})
        return
    import onnx  # noqa: PLC0415

    model = onnx.load(str(path))
    onnx.helper.set_model_props(model, {METADATA_KEY: json.dumps(facts)})
    onnx.save(model, str(path))
