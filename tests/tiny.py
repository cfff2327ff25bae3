"""A federation small enough to run in a moment, of real parts: the embedded backbone at 64 pixels."""

import functools

import numpy as np

from client.service.exchange import as_seen
from client.service.fit import FitRequest, RoundQuestion
from client.service.material import Material
from client.service.site import Site
from mediclip.config import load_recipe
from mediclip.exchange.codecs import named_codec
from mediclip.exchange.parcel import pack_values
from mediclip.model.backbone_loading import load_backbone
from mediclip.model.network import MediClip
from mediclip.model.trainables import Schema, TensorSpec, initial_trainables
from mediclip.protocol import METRIC_NAMES
from simulation.plan import Plan

SIZE = 64
SHOTS = 4


@functools.cache
def tiny_recipe():
    recipe = load_recipe("default")
    words = {"normal": ("normal",), "abnormal": ("lesion", "disease"), "n_ctx": 2}
    return recipe.model_copy(
        update={
            "name": "tiny",
            "image_size": SIZE,
            "batch_size": 4,
            "bank_views": 2,
            "precision": "float32",  # tests compare to rounding
            "prompts": recipe.prompts.model_copy(update=words),
        }
    )


@functools.cache
def tiny_backbone():
    return load_backbone("embedded", image_size=SIZE)


@functools.cache
def tiny_schema():
    return MediClip(tiny_backbone(), tiny_recipe()).schema


def tiny_tensors(seed=0):
    return initial_trainables(tiny_schema(), seed)


def tiny_scans(number, size=SIZE):
    # Smooth blobs: noise would leave the synthesis nothing to change.
    rng = np.random.default_rng(number)
    y, x = np.mgrid[:size, :size] / size
    centre = rng.uniform(0.3, 0.7, (SHOTS, 2, 1, 1))
    distance = (y - centre[:, 0]) ** 2 + (x - centre[:, 1]) ** 2
    return np.exp(-8 * distance).astype(np.float32)


def tiny_site(number, *, scans=None, **options):
    support = tiny_scans(number) if scans is None else scans
    return Site(f"site-{number}", lambda _: Material(tiny_backbone(), support), **options)


def tiny_request(number=1, **changes):
    values = {
        "number": number,
        "tensors": tiny_tensors(),
        "seed": 7,
        "recipe": tiny_recipe().model_dump_json(),
        "local_steps": 2,
        "proximal_mu": 0.0,
        "schema_digest": tiny_schema().digest(),
    }
    return FitRequest(**{**values, **changes})


def tiny_plan(out, **changes):
    values = {"rounds": 2, "seed": 7, "local_steps": 2, "retries": 0, "join_timeout_s": 5.0}
    return Plan(out=out, schema=tiny_schema(), recipe=tiny_recipe(), **{**values, **changes})


def largest_difference(first, second):
    assert first.keys() == second.keys()
    return max(float(np.abs(first[name] - second[name]).max()) for name in first)


ALL_METRICS = set(METRIC_NAMES)


def question_of(request, codec="float32"):
    """Ask for a round as a server does that sends the whole model."""
    schema = Schema(tuple(TensorSpec(name, value.shape) for name, value in request.tensors.items()))
    parcel = pack_values(schema, request.tensors)
    return RoundQuestion(
        number=request.number,
        parcel=parcel,
        seed=request.seed,
        recipe=request.recipe,
        local_steps=request.local_steps,
        proximal_mu=request.proximal_mu,
        answer_codec=named_codec(codec).name,
    )


def fit(site, request, *federation, codec="float32"):
    """Let a site answer a round, and read the answer as a server does."""
    return as_seen(site.answer(question_of(request, codec), *federation), request)
