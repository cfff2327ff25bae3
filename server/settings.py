"""What a run needs to know, as the flat scalars that Flower's run-config carries."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Final, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from mediclip.config import PrivateGroup, Recipe, Settings
from mediclip.exchange.codecs import CodecName


def _absolute(path: Path) -> Path:
    if not path.is_absolute():
        message = "it must be an absolute path"
        raise ValueError(message)
    return path


AbsolutePath = Annotated[Path, AfterValidator(_absolute)]

StrategyName = Literal[
    "fedavg", "fedprox", "fedadam", "fedmedian", "fedtrimmedavg", "multikrum", "personal", "clustered"
]

PERSONAL_GROUPS: Final[tuple[PrivateGroup, ...]] = ("normal_prompts",)
"""What ``personal`` keeps at the sites where the recipe does not say."""


def recipe_for(strategy: StrategyName, recipe: Recipe) -> Recipe:
    """Give what sites train with: ``personal`` keeps back some groups even if the recipe names none."""
    if strategy != "personal" or recipe.private:
        return recipe
    return recipe.model_copy(update={"private": PERSONAL_GROUPS})


class RoundSettings(Settings):
    """How the rounds of a federation go, wherever it runs.

    Attributes:
        quorum: How many admitted updates a round needs, at most the number of sites; 0 means all of them.
        min_sites: How many it needs whatever the quorum is: in a mean of one or two, each site's update can
            be read by the other. Between hospitals 3 is the default; in a rehearsal on one machine 1.
        rounds: Last round.
        seed: The run's seed, sent to the sites.
        local_steps: Optimiser steps of each site in each round.
        strategy: How updates become the next global model. ``personal`` is ``fedavg`` of what the recipe does
            not call private; every strategy leaves private groups at the sites. ``clustered`` is ``fedavg``
            within clusters of at least ``min_sites`` and two sites that are alike, by descriptors of their
            scans; others train the model of all sites.
        proximal_mu: Weight of FedProx's pull towards the global model; used by ``fedprox`` alone.
        server_learning_rate: Step of ``fedadam``; 0 derives it from the sites' optimiser.
        trim_fraction: Share of the sites that may be hostile: ``fedtrimmedavg`` cuts off as many at each end,
            ``multikrum`` leaves as many out; at least one of three or more sites, unless it is 0.
        retries: How often a round without quorum is asked again.
        round_timeout_s: Longest wait for the sites' answers in seconds.
        join_timeout_s: Longest wait for sites to appear in seconds.
        max_examples: Most images that one site can count with in the average.
        max_update_norm: Largest Euclidean norm of an update; 0 derives it from the optimiser.
        codec: How tensors travel, both ways: whole in ``float32``, or as differences. A site whose policy
            does not allow it sends float32.
        safeguard: Whether each site, once the last round is done, compares the model that it is sent with one
            tuned to it and one trained alone, on synthetic anomalies, and keeps the best. Costs it as many
            steps as the run again.
        cluster_distance: Largest mean cosine distance between descriptors of sites in one cluster; used by
            ``clustered`` alone.
        cluster_after: Rounds that all sites train as one before clusters part.
    """

    quorum: Annotated[int, Field(ge=0)] = 0
    min_sites: Annotated[int, Field(ge=1)] = 1
    rounds: Annotated[int, Field(ge=1)] = 10
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    local_steps: Annotated[int, Field(ge=1)] = 40
    strategy: StrategyName = "fedavg"
    proximal_mu: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.0
    server_learning_rate: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.0
    trim_fraction: Annotated[float, Field(ge=0, lt=0.5)] = 0.2
    retries: Annotated[int, Field(ge=0)] = 2
    round_timeout_s: Annotated[float, Field(gt=0)] = 3600.0
    join_timeout_s: Annotated[float, Field(gt=0)] = 600.0
    max_examples: Annotated[int, Field(ge=1)] = 64
    max_update_norm: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.0
    codec: CodecName = "float32"
    safeguard: bool = False
    cluster_distance: Annotated[float, Field(gt=0, lt=2, allow_inf_nan=False)] = 0.08
    cluster_after: Annotated[int, Field(ge=0)] = 0

    @model_validator(mode="after")
    def _has_fitting_codec(self) -> Self:
        if self.strategy == "clustered" and self.codec != "float32":
            message = (
                "strategy 'clustered' needs codec 'float32': differences start from one model of all sites"
            )
            raise ValueError(message)
        return self


class RunSettings(RoundSettings):
    """Settings of one federated run.

    Attributes:
        out: Folder of the run: checkpoint, history and final tensors; absolute, as the files are, because
            Flower starts the server in a folder of its own choice.
        schema_file: JSON of the tensors that travel.
        recipe_file: JSON of the recipe that the sites train with.
        sites: How many sites are expected; the run starts without the late ones if the quorum is there.
        resume: Go on from the last finished round in ``out`` if there is one.
        federation: Name of the federation, by which a site's policy knows whom it answers.
        coordinator_pid: Process with which the run ends; 0 where there is none.
        sites_dir: Folder of ``site-K.toml`` for simulated nodes; read by the sites alone.
    """

    out: AbsolutePath
    schema_file: AbsolutePath
    recipe_file: AbsolutePath
    sites: Annotated[int, Field(ge=1)]
    resume: bool = False
    federation: str = ""
    coordinator_pid: Annotated[int, Field(ge=0)] = 0
    sites_dir: str = ""

    @model_validator(mode="after")
    def _has_reachable_quorum(self) -> Self:
        if self.quorum > self.sites:
            message = f"quorum must be at most the number of sites, {self.sites}"
            raise ValueError(message)
        if self.min_sites > self.sites:
            message = f"min_sites must be at most the number of sites, {self.sites}"
            raise ValueError(message)
        return self

    @property
    def needed(self) -> int:
        """Admitted updates that a round needs, at least 1."""
        return max(self.quorum or self.sites, self.min_sites)

    @classmethod
    def from_run_config(cls, values: Mapping[str, Any]) -> Self:
        """Check the scalars of Flower's run-config, whose keys have hyphens.

        Raises:
            SettingsError: If a key is unknown, missing or out of range.
        """
        return cls.parse({key.replace("-", "_"): value for key, value in values.items()}, source="run-config")

    def to_run_config(self) -> dict[str, str | int | float | bool]:
        """Write the settings as :meth:`from_run_config` reads them."""
        return {key.replace("_", "-"): value for key, value in self.model_dump(mode="json").items()}
