"""Which cells the benchmark has: every combination that is asked for and that a set has images for."""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Annotated, Final, Literal, get_args

from pydantic import Field

from mediclip.config import Recipe, Settings, TaskName
from mediclip.data.samples import NORMAL, Dataset
from simulation.methods import MethodName

Part = Literal["alone", "zero_shot", "federated", "sites", "rounds", "ablation", "transfer"]
PARTS: Final[tuple[Part, ...]] = get_args(Part)
_ALONE: Final[tuple[MethodName, ...]] = ("untrained", "patchcore", "local")
_TOGETHER: Final[tuple[MethodName, ...]] = ("local", "federated", "centralised")


class PaperSettings(Settings):
    """What is asked for.

    Attributes:
        parts: ``alone``: one detector from k images, as in the paper, beside PatchCore's bank of the same.
            ``zero_shot``: WinCLIP from phrases, which needs a real text tower. ``federated``: several sites
            of one set with k images each. ``sites`` and ``rounds``: how many of them. ``ablation``: tasks,
            prompts, adapters and taps. ``transfer``: trained on one set, tested on the others.
        shots: Numbers k of normal images.
        seeds: Seeds; each draws other images.
        recipes: Recipes by name or TOML file, the first of them for all parts but the first two.
        sites: Sites of the federated part.
        rounds: Federated rounds.
        site_counts: Numbers of sites of the part ``sites``.
        round_counts: Numbers of rounds of the part ``rounds``.
        ablation_shots: Images of the parts ``ablation`` and ``transfer``.
    """

    parts: tuple[Part, ...] = ("alone", "federated")
    shots: Annotated[tuple[Annotated[int, Field(ge=1)], ...], Field(min_length=1)] = (4, 8, 16, 32)
    seeds: Annotated[tuple[Annotated[int, Field(ge=0)], ...], Field(min_length=1)] = (0, 1, 2, 3, 4)
    recipes: Annotated[tuple[str, ...], Field(min_length=1)] = ("default", "reference")
    sites: Annotated[int, Field(ge=2)] = 4
    rounds: Annotated[int, Field(ge=1)] = 10
    site_counts: tuple[Annotated[int, Field(ge=2)], ...] = (2, 4, 8)
    round_counts: tuple[Annotated[int, Field(ge=1)], ...] = (1, 5, 10, 20)
    ablation_shots: Annotated[int, Field(ge=1)] = 16


@dataclass(frozen=True)
class Cell:
    """One comparison: a set, its sites, and what is trained.

    Attributes:
        part: What it is for.
        set_name: The set that its sites hold and, but for ``transfer``, are tested on.
        sites: Number of sites.
        shots: Images of each site.
        rounds: Federated rounds.
        seed: Seed.
        recipe: Name of the recipe.
        variant: Name of the change to the recipe, empty for none.
        methods: What is trained.
        tested_on: Further sets that the models are tested on.
    """

    part: Part
    set_name: str
    sites: int
    shots: int
    rounds: int
    seed: int
    recipe: str
    variant: str = ""
    methods: tuple[MethodName, ...] = _ALONE
    tested_on: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """A name that no other cell of the grid has, fit for a file."""
        variant = f"-{self.variant}" if self.variant else ""
        size = f"{self.sites}x{self.shots}" + (f"-r{self.rounds}" if self.sites > 1 else "")
        return f"{self.part}-{self.set_name}-{self.recipe}{variant}-{size}-s{self.seed}"

    def facts(self) -> dict[str, str | int]:
        """Say what a row of the results belongs to."""
        values = asdict(self)
        return {key: value for key, value in values.items() if key not in ("methods", "tested_on")}


@dataclass(frozen=True)
class Grid:
    """The cells, and those that a set has too few normal images for, with how many it has."""

    cells: tuple[Cell, ...]
    too_few: tuple[tuple[Cell, int], ...]


@dataclass(frozen=True)
class Variant:
    """A change to a recipe or to the taps.

    Attributes:
        recipe: The changed recipe.
        taps: Which of the taps to keep, as positions among them; all when None.
    """

    recipe: Recipe
    taps: tuple[int, ...] | None = None


def make_grid(
    settings: PaperSettings, recipes: Sequence[str], datasets: Mapping[str, Dataset], variants: Sequence[str]
) -> Grid:
    """List the cells in an order in which the cheap and the important ones come first.

    Args:
        settings: What is asked for.
        recipes: The names that the recipes give themselves.
        datasets: The sets that are there.
        variants: Names of the ablation's variants.

    Returns:
        The grid. A cell needs as many normal training images as its sites have shots together.
    """
    pools = {name: sum(s.label == NORMAL for s in dataset.train) for name, dataset in datasets.items()}
    cells: list[Cell] = []
    too_few: list[tuple[Cell, int]] = []
    for cell in _all_cells(settings, recipes, tuple(datasets), variants):
        pool = pools[cell.set_name]
        if cell.sites * cell.shots <= pool:
            cells.append(cell)
        else:
            too_few.append((cell, pool))
    return Grid(tuple(cells), tuple(too_few))


def make_variants(recipe: Recipe) -> dict[str, Variant]:
    """Make the ablations of a recipe: each task alone and left out, prompts, adapters and taps.

    Args:
        recipe: The recipe to change.

    Returns:
        Variants by a name that is fit for a file; none equals the recipe.
    """
    recipes: dict[str, Recipe] = {}
    used: list[TaskName] = [task for task, weight in recipe.tasks.items() if weight > 0]
    for task in [task for task in used if task != "identity"]:
        kept: dict[TaskName, float] = {t: recipe.tasks[t] for t in (task, "identity") if t in used}
        recipes[f"only-{task}"] = recipe.model_copy(update={"tasks": kept})
        rest: dict[TaskName, float] = {t: recipe.tasks[t] for t in used if t != task}
        recipes[f"without-{task}"] = recipe.model_copy(update={"tasks": rest})
    if "identity" in used:
        rest = {t: recipe.tasks[t] for t in used if t != "identity"}
        recipes["without-identity"] = recipe.model_copy(update={"tasks": rest})
    for position in ("end", "middle", "front"):
        recipes[f"phrase-{position}"] = _with_prompts(recipe, positions=(position,))
    recipes["phrase-everywhere"] = _with_prompts(recipe, positions=("end", "middle", "front"))
    for count in (4, 16):
        recipes[f"context-{count}"] = _with_prompts(recipe, n_ctx=count)
    recipes["context-shared"] = _with_prompts(recipe, class_specific=False)
    recipes["prompts-only"] = recipe.model_copy(update={"adapter_rank": 0})
    recipes["adapter-rank-4"] = recipe.model_copy(update={"adapter_rank": 4})
    variants = {name: Variant(changed) for name, changed in recipes.items() if changed != recipe}
    return variants | {"tap-first": Variant(recipe, (0,)), "tap-last": Variant(recipe, (-1,))}


def _with_prompts(recipe: Recipe, **changes: object) -> Recipe:
    return recipe.model_copy(update={"prompts": recipe.prompts.model_copy(update=changes)})


def _all_cells(
    settings: PaperSettings, recipes: Sequence[str], sets: Sequence[str], variants: Sequence[str]
) -> list[Cell]:
    first, few = recipes[0], min(settings.shots)
    every = list(itertools.product(settings.seeds, sets))
    parts: dict[Part, list[Cell]] = {
        "alone": [
            Cell("alone", name, 1, shots, 1, seed, recipe)
            for recipe in recipes
            for shots in settings.shots
            for seed, name in every
        ],
        "zero_shot": [
            Cell("zero_shot", name, 1, few, 1, min(settings.seeds), first, methods=("winclip",))
            for name in sets
        ],
        "federated": [
            Cell("federated", name, settings.sites, shots, settings.rounds, seed, recipe, methods=_TOGETHER)
            for recipe in recipes
            for shots in settings.shots
            for seed, name in every
        ],
        "sites": [
            Cell("sites", name, count, few, settings.rounds, seed, first, methods=_TOGETHER)
            for count in settings.site_counts
            for seed, name in every
        ],
        "rounds": [
            Cell(
                "rounds", name, settings.sites, few, count, seed, first, methods=("federated",)
            )
            for count in settings.round_counts
            for seed, name in every
        ],
        "ablation": [
            Cell("ablation", name, 1, settings.ablation_shots, 1, seed, first, variant, ("local",))
            for variant in ("", *variants)
            for seed, name in every
        ],
        "transfer": [
            Cell(
                "transfer", name, 1, settings.ablation_shots, 1, seed, first, methods=("local",),
                tested_on=tuple(other for other in sets if other != name),
            )
            for seed, name in every
        ],
    }  # fmt: skip
    return [cell for part in PARTS if part in settings.parts for cell in parts[part]]
