"""Trains the methods of a comparison that train: local, federated, kept, centralised; and has untrained.

All start from the same tensors. ``local`` and ``federated`` give each site the same number of optimiser steps
(the recipe's for its shots, rounded so that all rounds are equal) on the same stream of batches;
``centralised`` is one model on the support images of all sites of all sets, with the recipe's steps for that
many.
"""

import json
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import InitVar, asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np

from client.service.fit import FitRequest
from client.service.own_part import with_own_part
from client.service.site import Site
from client.settings import SiteSettings
from mediclip.config import Recipe
from mediclip.data.preprocess import Preprocess, iter_images, load_images
from mediclip.data.samples import has_masks
from mediclip.errors import CheckpointError, SettingsError
from mediclip.evaluation.duplicates import Fingerprint, fingerprint
from mediclip.evaluation.predict import Detector
from mediclip.exchange.codecs import CodecName
from mediclip.model.backbone import Backbone
from mediclip.model.backbone_loading import load_backbone
from mediclip.model.network import MediClip
from mediclip.model.trainables import Trainables, initial_trainables
from mediclip.training.checkpoint import load_model, save_model, write_atomically
from mediclip.training.loop import train
from mediclip.training.run import findable_spec
from server.settings import StrategyName, recipe_for
from simulation.ended_runs import read_models
from simulation.engine import run_in_process
from simulation.methods import USUAL_METHODS, MethodName
from simulation.plan import Event, FederatedResult, Plan
from simulation.ray_engine import run_ray
from simulation.scenario import Scenario
from simulation.threads import one_torch_thread

EngineName = Literal["inprocess", "ray"]
FEDERATED_FOLDER: Final = "federated"
MODELS_FOLDER: Final = "models"
SETTINGS_FILE: Final = "settings.json"
RESULT_FILE: Final = "result.json"
REPORT_FILE: Final = "report.html"
_READ_AT_ONCE: Final = 16

OnPhase = Callable[[str, int, int, str], None]


@dataclass(frozen=True)
class ExperimentSettings:
    """What a comparison is made of, beside its scenario and recipe.

    Attributes:
        out: Folder of the run.
        backbone: Backbone spec, the same for all sites.
        rounds: Federated rounds, at least 1.
        shots: Support images of each site.
        seed: The run's seed.
        engine: ``inprocess`` or ``ray``.
        strategy: How the server joins updates.
        proximal_mu: FedProx's μ.
        codec: How tensors travel.
        taps: Tapped blocks; the backbone's own when None.
        parallel: Sites that train side by side; as many as there are cores when None.
        methods: What is compared, in the order of the rows.
    """

    out: Path
    backbone: str
    rounds: int
    shots: int
    seed: int
    engine: EngineName = "inprocess"
    strategy: StrategyName = "fedavg"
    proximal_mu: float = 0.0
    codec: CodecName = "float32"
    taps: tuple[int, ...] | None = None
    parallel: int | None = None
    methods: tuple[MethodName, ...] = USUAL_METHODS


@dataclass
class Trained:
    """The networks of a comparison.

    Attributes:
        networks: ``untrained``, ``federated``, ``centralised``, ``local/SITE`` and ``kept/SITE``, those that
            were wanted; ``federated/SITE`` where sites end with different ones.
        federated: What the federated run left, if it was wanted.
        tested: By set, the networks that are tested on it, with the memories of their sites.
    """

    networks: dict[str, MediClip]
    federated: FederatedResult | None
    tested: dict[str, dict[str, Detector]] = field(default_factory=dict)


@dataclass
class Experiment:
    """One comparison: its scenario, recipe and settings, and the models that it trains.

    The backbone that all sites share is loaded as the settings say, unless one is given that is loaded
    already.
    """

    scenario: Scenario
    recipe: Recipe
    settings: ExperimentSettings
    loaded: InitVar[Backbone | None] = None
    backbone: Backbone = field(init=False)

    def __post_init__(self, loaded: Backbone | None) -> None:
        """Join the sets' policies, load the backbone, and check the taps before anything is written."""
        for name, dataset in self.scenario.datasets.items():
            self.recipe = self.recipe.with_policies(dataset.policies, name=name)
        self.recipe = recipe_for(self.settings.strategy, self.recipe)
        self.backbone = loaded or load_backbone(self.settings.backbone, image_size=self.recipe.image_size)
        self.network()

    def check_folder(self, *, resume: bool) -> None:
        """Check that the run may write into its folder; nothing is written yet.

        Args:
            resume: Whether to go on with what the folder holds.

        Raises:
            CheckpointError: If the folder holds a run and ``resume`` is not set, or holds another run or
                results of an unknown one.
            SettingsError: If it is no folder that can be written.
        """
        out = self.settings.out
        nearest = next(folder for folder in (out, *out.parents) if folder.exists())
        if not nearest.is_dir() or not os.access(nearest, os.W_OK):
            message = f"--out must be a folder that can be written. {out} is not; name another."
            raise SettingsError(message)
        path = out / SETTINGS_FILE
        if not path.exists():
            results = (RESULT_FILE, REPORT_FILE, MODELS_FOLDER, FEDERATED_FOLDER)
            left = [name for name in results if (out / name).exists()]
            if left:
                message = (
                    f"--out must be a folder without results of an unknown run. {out.name} holds "
                    f"{', '.join(left)} but no {SETTINGS_FILE}; name another folder."
                )
                raise CheckpointError(message)
        elif not resume:
            message = (
                f"--out must be a folder without an earlier run. {out.name} holds one; "
                "add --resume to go on with it, or name another folder."
            )
            raise CheckpointError(message)
        elif _read_json(path) != self._identity():
            message = (
                f"--resume must be given the settings of the run that it goes on with. Those in "
                f"{out.name}/{SETTINGS_FILE} differ or are damaged; use them, or name another folder."
            )
            raise CheckpointError(message)

    def check_scans(self, on_phase: OnPhase) -> tuple[Fingerprint, ...]:
        """Read every scan and mask of every set once, so that a bad one is found before hours of training.

        Args:
            on_phase: Told of the phase, things done and in all, and a note.

        Returns:
            The fingerprints of all training images.

        Raises:
            ImageError: If an image cannot be used.
            MaskError: If a set has masks and one is missing or cannot be used.
        """
        preprocess = Preprocess(self.recipe.image_size, self.recipe.policies)
        known: list[Fingerprint] = []
        for name, dataset in self.scenario.datasets.items():
            done, total = 0, len(dataset.train) + len(dataset.test)
            for images in iter_images(dataset.train, preprocess, _READ_AT_ONCE):
                known.extend(fingerprint(image) for image in images)
                done += len(images)
                on_phase(f"reading {name}", done, total, "")
            with_masks = has_masks(dataset.test)
            for images in iter_images(dataset.test, preprocess, _READ_AT_ONCE):
                first = done - len(dataset.train)
                for sample in dataset.test[first : first + len(images)] if with_masks else ():
                    preprocess.load_mask(sample)
                done += len(images)
                on_phase(f"reading {name}", done, total, "")
        return tuple(known)

    def claim_folder(self) -> None:
        """Make the run's folder and write into it whose it is, after :meth:`check_folder`."""
        self.settings.out.mkdir(parents=True, exist_ok=True)
        path = self.settings.out / SETTINGS_FILE
        write_atomically(path, json.dumps(self._identity(), indent=2).encode())

    def train(self, *, resume: bool, on_phase: OnPhase) -> Trained:
        """Train what is compared; models that an interrupted run has finished are read, not trained again.

        Args:
            resume: Whether to go on with what the folder holds.
            on_phase: Told of the phase, things done and in all, and a note.

        Returns:
            The networks.

        Raises:
            FederationError: If the federated run cannot go on.
        """
        start = initial_trainables(self.network().schema, self.settings.seed)
        sites = [Site.open(settings, self.backbone) for settings in self.site_settings()]
        methods = self.settings.methods
        networks = {"untrained": self.network(start)} if "untrained" in methods else {}
        with one_torch_thread():
            networks |= self._train_alone(sites, start, on_phase)
        federated = None
        if {"federated", "kept"} & set(methods):
            federated = self._federate(sites, resume=resume, on_phase=on_phase)
            for name, tensors in self._ended(federated).items():
                networks[name] = self.network(tensors)
                self._save(name, networks[name])
        return Trained(networks, federated)

    def _ended(self, federated: FederatedResult) -> dict[str, Trainables]:
        """Give the models that a federated run has led to, by their method, or method and site."""
        settings = self.settings
        differs = bool(self.recipe.private) or settings.strategy == "clustered"
        models: dict[str, Trainables] = {} if differs else {"federated": federated.tensors}
        if "kept" in settings.methods or differs:
            names = [site.name for site in self.scenario.sites]
            for site, ended in read_models(settings.out / FEDERATED_FOLDER, names, settings.engine).items():
                models |= {f"federated/{site}": ended.delivered} if differs else {}
                models |= {f"kept/{site}": ended.kept} if "kept" in settings.methods else {}
        return models

    @property
    def taps(self) -> tuple[int, ...]:
        """Tapped blocks, the backbone's own where none were asked for."""
        return self.network().taps

    @property
    def round_steps(self) -> int:
        """Optimiser steps of each site in each round: the recipe's, shared equally among the rounds."""
        return max(1, round(self.recipe.steps(self.settings.shots) / self.settings.rounds))

    def site_settings(self) -> list[SiteSettings]:
        """Say what each site would write into its ``site.toml``."""
        return [
            SiteSettings(
                name=site.name,
                data=self.scenario.folders[site.set_name].resolve(),
                support=site.support,
                held_out=site.held_out,
                backbone=self.settings.backbone,
                backbone_sha256=self.backbone.sha256,
                taps=self.settings.taps,
            )
            for site in self.scenario.sites
        ]

    def _identity(self) -> dict[str, Any]:
        values = asdict(self.settings)
        for name in ("out", "engine", "parallel", "methods"):  # none changes a model
            del values[name]
        identity = {
            **values,
            "backbone": self.backbone.name,
            "backbone_sha256": self.backbone.sha256,
            "recipe": self.recipe.model_dump(mode="json"),
            "sites": [asdict(site) for site in self.scenario.sites],
        }
        return dict(json.loads(json.dumps(identity)))

    def network(self, tensors: Trainables | None = None) -> MediClip:
        """Make a detector with these trained tensors, or with none."""
        network = MediClip(self.backbone, self.recipe, self.settings.taps)
        if tensors is not None:
            network.load(tensors)
        return network

    def _train_alone(self, sites: list[Site], start: Trainables, on_phase: OnPhase) -> dict[str, MediClip]:
        jobs: dict[str, Callable[[], Trainables]] = {}
        if "centralised" in self.settings.methods:
            jobs["centralised"] = partial(self._train_pooled, start)
        if "local" in self.settings.methods:
            jobs |= {f"local/{site.name}": partial(self._train_at, site, start) for site in sites}
        workers = self.settings.parallel or os.cpu_count() or 1
        done = 0
        networks: dict[str, MediClip] = {}
        with ThreadPoolExecutor(workers) as pool:
            pending = {name: pool.submit(self._finished_or, name, job) for name, job in jobs.items()}
            if jobs:
                on_phase("local and centralised", 0, len(jobs), "encoding views")
            for name, future in pending.items():
                networks[name] = self.network(future.result())
                done += 1
                on_phase("local and centralised", done, len(jobs), name)
        return networks

    def _finished_or(self, name: str, job: Callable[[], Trainables]) -> Trainables:
        path = self._model_path(name)
        if path.exists():
            return load_model(path).tensors
        tensors = job()
        self._save(name, self.network(tensors))
        return tensors

    def _train_at(self, site: Site, start: Trainables) -> Trainables:
        network = self.network()
        request = FitRequest(
            number=1,
            tensors={spec.name: start[spec.name] for spec in network.shared.tensors},
            seed=self.settings.seed,
            recipe=self.recipe.model_dump_json(),
            local_steps=self.round_steps * self.settings.rounds,
            proximal_mu=0.0,
            schema_digest=network.shared.digest(),
        )
        reply, kept = site.fit_from(request, {})
        return with_own_part(network, replace(request, tensors=reply.tensors), kept)

    def _train_pooled(self, start: Trainables) -> Trainables:
        preprocess = Preprocess(self.recipe.image_size, self.recipe.policies)
        datasets = self.scenario.datasets
        parts = [
            load_images([datasets[site.set_name].train[i] for i in site.support], preprocess)
            for site in self.scenario.sites
        ]
        network = self.network(start)
        train(network, np.concatenate(parts), seed=self.settings.seed, stream=("centralised",))
        return network.trainables()

    def _federate(self, sites: list[Site], *, resume: bool, on_phase: OnPhase) -> FederatedResult:
        settings = self.settings
        plan = Plan(
            out=settings.out / FEDERATED_FOLDER,
            schema=self.network().shared,
            recipe=self.recipe,
            rounds=settings.rounds,
            seed=settings.seed,
            local_steps=self.round_steps,
            strategy=settings.strategy,
            proximal_mu=settings.proximal_mu,
            codec=settings.codec,
            max_examples=settings.shots,
            safeguard="kept" in settings.methods,
            resume=resume,
        )

        def tell(event: Event) -> None:
            if event.kind == "round":
                loss = event.metrics.get("train_loss")
                on_phase("federated", event.number, plan.rounds, "" if loss is None else f"loss {loss:.3f}")

        on_phase("federated", plan.finished_round(), plan.rounds, "")
        if settings.engine == "ray":
            return run_ray(plan, self.site_settings(), cpus=settings.parallel, on_event=tell)
        return run_in_process(plan, sites, parallel=settings.parallel, on_event=tell)

    def _model_path(self, name: str) -> Path:
        return self.settings.out / MODELS_FOLDER / f"{name.replace('/', '-')}.safetensors"

    def _save(self, name: str, network: MediClip) -> None:
        path = self._model_path(name)
        path.parent.mkdir(exist_ok=True)
        save_model(
            path,
            network.trainables(),
            recipe=self.recipe,
            taps=network.taps,
            backbone={"spec": findable_spec(self.settings.backbone), "sha256": self.backbone.sha256},
            facts={
                "set": ", ".join(self.scenario.datasets),
                "method": name,
                "shots": self.settings.shots,
                "seed": self.settings.seed,
                "preprocess": Preprocess(self.recipe.image_size, self.recipe.policies).settings(),
                "calibration": None,
            },
        )


def _read_json(path: Path) -> Any:  # noqa: ANN401 - whatever JSON can hold
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        return None
