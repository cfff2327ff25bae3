"""The training loop: AdamW under a cosine, a running mean of the weights, and a checkpoint to go on from."""

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from mediclip.errors import CheckpointError, SettingsError
from mediclip.training.checkpoint import load_tensors, save_tensors
from simulation.pretraining.batches import Batches
from simulation.pretraining.corpus import Corpus
from simulation.pretraining.settings import PretrainSettings
from simulation.pretraining.student import Student

CHECKPOINT = "pretraining.safetensors"
OnStep = Callable[[int, int, Mapping[str, float]], None]
_BETAS = (0.9, 0.98)
_GRADIENT_NORM = 1.0
_MOMENTS = ("exp_avg", "exp_avg_sq")
_MAX_SCALE = math.log(100)
_REPORT_EVERY = 10


class Pretraining:
    """A run that can be stopped after any step.

    Args:
        settings: The run.
        corpus: Its examples.
        device: Torch device name.

    Attributes:
        step: Steps done.
        student: The model in training.
        average: Running mean of the CLIP's weights, by name; what is kept in the end.
    """

    def __init__(self, settings: PretrainSettings, corpus: Corpus, *, device: str = "cpu") -> None:
        self.settings = settings
        self._device = torch.device(device)
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(settings.seed)
            self.student = Student(settings).to(self._device)
        self._batches = Batches(corpus, settings, self._device)
        self._optimiser = _optimiser(self.student, settings)
        self.average = {
            name: value.detach().clone() for name, value in self.student.clip.state_dict().items()
        }
        self.step = 0

    def run(self, directory: Path, *, save_every: int = 200, on_step: OnStep | None = None) -> None:
        """Train for the steps that are left, with a checkpoint now and then and at the end.

        Args:
            directory: Where the checkpoint goes.
            save_every: Steps between two checkpoints.
            on_step: Called now and then with the steps done, all steps and the mean losses since then.

        Raises:
            SettingsError: If a loss is not finite.
        """
        directory.mkdir(parents=True, exist_ok=True)
        sums: dict[str, float] = {}
        counted = 0
        self.student.train()
        while self.step < self.settings.steps:
            losses = self.take_step()
            counted += 1
            for name, value in losses.items():
                sums[name] = sums.get(name, 0.0) + float(value)
            last = self.step == self.settings.steps
            if on_step and (last or self.step % _REPORT_EVERY == 0):
                on_step(
                    self.step, self.settings.steps, {name: value / counted for name, value in sums.items()}
                )
                sums, counted = {}, 0
            if last or self.step % save_every == 0:
                self.save(directory / CHECKPOINT)

    def take_step(self) -> dict[str, Tensor]:
        """Do one step and return its losses, detached."""
        for group in self._optimiser.param_groups:
            group["lr"] = self.settings.learning_rate * _rate(self.step, self.settings)
        batch = self._batches.at(self.step)
        with torch.autocast(self._device.type, torch.bfloat16, enabled=self.settings.precision == "bfloat16"):
            losses = self.student.losses(batch)
        total = torch.stack([loss.float() for loss in losses.values()]).sum()
        if not bool(torch.isfinite(total)):
            message = (
                f"The loss of every pretraining step must be finite. Step {self.step + 1} had none; lower "
                "'learning_rate'."
            )
            raise SettingsError(message)
        self._optimiser.zero_grad(set_to_none=True)
        total.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(self.student.parameters(), _GRADIENT_NORM)
        self._optimiser.step()
        self.step += 1
        with torch.no_grad():
            self.student.clip.logit_scale.clamp_(0, _MAX_SCALE)
            decay = min(self.settings.average, self.step / (self.step + 10))
            for name, value in self.student.clip.state_dict().items():
                self.average[name].lerp_(value, 1 - decay)
        return {name: loss.detach() for name, loss in losses.items()}

    def save(self, path: Path) -> None:
        """Write all that the run needs to go on, without pickle."""
        tensors = {f"model/{name}": _array(value) for name, value in self.student.state_dict().items()}
        tensors |= {f"average/{name}": _array(value) for name, value in self.average.items()}
        for name, parameter in self.student.named_parameters():
            state = self._optimiser.state.get(parameter, {})
            tensors |= {f"{key}/{name}": _array(state[key]) for key in _MOMENTS if key in state}
        save_tensors(path, tensors, {"pretraining": self.settings.model_dump(mode="json"), "step": self.step})

    def resume(self, path: Path) -> None:
        """Go on from a checkpoint.

        Args:
            path: What :meth:`save` wrote.

        Raises:
            CheckpointError: If it cannot be read or belongs to other settings; only ``steps`` may grow.
        """
        tensors, facts = load_tensors(path)
        mine, theirs = self.settings.model_dump(mode="json"), dict(facts.get("pretraining", {}))
        if theirs != mine:
            differing = sorted(key for key in mine if theirs.get(key) != mine[key])
            message = (
                f"A pretraining run must go on with the settings it began with. {', '.join(differing)} "
                "differ; use those of the checkpoint or another folder."
            )
            raise CheckpointError(message)
        values = {name: torch.from_numpy(value.copy()) for name, value in tensors.items()}
        mine_now = self.student.state_dict()
        self.student.load_state_dict({n: values[f"model/{n}"].view_as(v) for n, v in mine_now.items()})
        for name in self.average:
            self.average[name].copy_(values[f"average/{name}"].view_as(self.average[name]))
        self.step = int(facts["step"])
        for name, parameter in self.student.named_parameters():
            if f"exp_avg/{name}" not in values:
                continue
            self._optimiser.state[parameter] = {
                "step": torch.tensor(float(self.step)),
                **{key: values[f"{key}/{name}"].view_as(parameter).to(self._device) for key in _MOMENTS},
            }


def _optimiser(student: Student, settings: PretrainSettings) -> torch.optim.AdamW:
    """Decay matrices, but neither embeddings nor scales nor offsets."""
    named = [(name, p) for name, p in student.named_parameters() if p.requires_grad]
    kept = [p for name, p in named if p.ndim < 2 or "embedding" in name]
    decayed = [p for name, p in named if not (p.ndim < 2 or "embedding" in name)]
    groups: list[dict[str, Any]] = [
        {"params": decayed, "weight_decay": settings.weight_decay},
        {"params": kept, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=settings.learning_rate, betas=_BETAS)


def _rate(step: int, settings: PretrainSettings) -> float:
    """Return the share of the peak rate: a linear rise, then half a cosine down to 0."""
    rise = max(1, round(settings.warmup * settings.steps))
    if step < rise:
        return (step + 1) / rise
    return 0.5 * (1 + math.cos(math.pi * (step - rise) / max(1, settings.steps - rise)))


def _array(value: Tensor) -> np.ndarray:
    return np.atleast_1d(value.detach().cpu().numpy())
