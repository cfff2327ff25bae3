"""Makes the models that a site could keep after a run, compares them, and writes them down.

``global``, ``cluster`` or ``personal`` is what the run gave the site; ``tuned`` is that after one more round
of the site's own, and ``local`` what the site gets with as many steps without anybody else. The last is the
measure: a site that keeps the best of them has not ended worse than alone, up to what so few images can tell.
"""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from client.service.bench import Bench
from client.service.conclusion import MODEL, CandidateName, Conclusion, FinalRequest, Mark, choose
from client.service.exam import Exam
from client.service.fit import PrivateState
from client.service.own_part import with_own_part
from mediclip.data.preprocess import Preprocess
from mediclip.evaluation.duplicates import image_digest
from mediclip.model.memory import NormalityMemory, build_memory
from mediclip.model.trainables import Trainables, initial_trainables
from mediclip.training.checkpoint import save_model
from mediclip.training.private import private_parts
from mediclip.training.run import findable_spec


def conclude(bench: Bench, request: FinalRequest, private: PrivateState, folder: Path | None) -> Conclusion:
    """Decide what a site keeps of a run, and write it.

    Args:
        bench: The site's network and images.
        request: The end of the run.
        private: What the site kept after its last round.
        folder: Gets ``NAME.safetensors`` for each candidate, and :data:`MODEL`, the one that is kept, with
            the site's memory; nothing is written when omitted.

    Returns:
        What is kept, and why.

    Raises:
        CheckpointError: If what the site kept does not fit its model.
        SchemaError: If the delivered tensors are not the site's own kind.
    """
    models: dict[CandidateName, Trainables] = {}
    marks: dict[CandidateName, Mark] = {}
    memories: dict[CandidateName, NormalityMemory | None] = {}
    network = bench.network
    seed, stream = request.last.seed, bench.stream
    exam = Exam(network, bench.material, seed=seed, stream=stream) if request.safeguard else None
    for name, tensors in _candidates(bench, request, private):
        models[name] = tensors
        network.load(tensors)
        if exam is not None:
            memories[name] = network.memory = exam.memory(network)
            marks[name] = exam.mark(network)
    kept = choose(marks) if marks else next(iter(models))
    if exam is None and network.recipe.memory is not None and len(bench.material.support) > 1:
        memories[kept] = build_memory(network, bench.material.support, seed=seed, stream=stream)
    found = Conclusion(kept, marks)
    if exam is not None:
        found = replace(found, basis=exam.basis, images=exam.images)
    if folder is not None:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        for name, tensors in models.items():
            _save(folder / f"{name}.safetensors", bench, request, name, tensors, None, found)
        _save(folder / MODEL, bench, request, kept, models[kept], memories.get(kept), found)
    return found


def _candidates(
    bench: Bench, request: FinalRequest, private: PrivateState
) -> Iterator[tuple[CandidateName, Trainables]]:
    network, last = bench.network, request.last
    delivered = with_own_part(network, last, private)
    yield "personal" if network.recipe.private else request.origin, delivered
    if not request.safeguard:
        return
    network.load(delivered)
    bench.train(replace(last, number=last.number + 1, proximal_mu=0.0))
    yield "tuned", network.trainables()
    network.load(initial_trainables(network.schema, last.seed))
    steps = last.number * last.local_steps
    bench.train(replace(last, number=1, local_steps=steps, proximal_mu=0.0))
    yield "local", network.trainables()


def _save(
    path: Path,
    bench: Bench,
    request: FinalRequest,
    name: CandidateName,
    tensors: Trainables,
    memory: NormalityMemory | None,
    found: Conclusion,
) -> None:
    network, material = bench.network, bench.material
    shared = {spec.name for spec in network.shared.tensors} if name not in {"tuned", "local"} else set()
    own = [spec.name for spec in network.schema.tensors if spec.name not in shared]
    parts: tuple[dict[str, NDArray[np.generic]], dict[str, Any]] = private_parts(
        memory, support=[image_digest(image) for image in material.support], own=own
    )
    save_model(
        path,
        tensors,
        recipe=network.recipe,
        taps=network.taps,
        backbone={"spec": findable_spec(network.backbone.spec), "sha256": network.backbone.sha256},
        facts={
            "method": name,
            "rounds": request.last.number,
            "shots": len(material.support),
            "seed": request.last.seed,
            "preprocess": Preprocess(network.recipe.image_size, network.recipe.policies).settings(),
            "calibration": None,
        },
        private_tensors=parts[0],
        private_facts=parts[1] | {"conclusion": found.facts()},
    )
