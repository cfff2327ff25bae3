"""The site's privacy account: every round is paid into the ledger before it is trained."""

from typing import Any

from client.service.roles import Trainer
from client.service.rounds import Question
from mediclip.config import Recipe
from mediclip.errors import CheckpointError
from mediclip.privacy.ledger import Charge, Ledger
from mediclip.privacy.plan import make_plan
from mediclip.privacy.settings import PrivacySettings


class PrivacyAccount:
    """A site's privacy settings, and the ledger that they are paid from.

    Args:
        settings: The site's settings.
        ledger: The site's ledger.
    """

    def __init__(self, settings: PrivacySettings, ledger: Ledger) -> None:
        self._settings = settings
        self._ledger = ledger

    def check_not_older(self, lines: int) -> None:
        """Refuse a ledger that is shorter than the audit log says it was.

        Raises:
            CheckpointError: If lines are missing.
        """
        if self._ledger.end.lines < lines:
            message = (
                f"The privacy ledger must hold the {lines} lines that the audit log names. It holds "
                f"{self._ledger.end.lines}; restore it from a backup: what was spent is not given back."
            )
            raise CheckpointError(message)

    def has_paid(self, question: Question) -> bool:
        """Say whether an answer that was kept may leave: one made without noise may not once noise is on."""
        return not self._settings.is_on or self._ledger.knows(question.digest())

    def pay(self, question: Question, site: Trainer) -> None:
        """Write down what a round will cost its images, before it is trained.

        Raises:
            PolicyError: For the reason ``budget``, if the round would overspend.
            MediClipError: If the site cannot train with the recipe.
        """
        request, settings = question.request, self._settings
        images = site.image_digests(request.recipe)
        if not settings.is_on:
            self._ledger.note_without_noise(images)
            return
        recipe = Recipe.model_validate_json(request.recipe)
        plan = make_plan(settings, images=len(images), batch_size=recipe.batch_size)
        charge = Charge(question.digest(), settings.hidden, images, plan.mechanism(request.local_steps))
        assert settings.budget is not None  # noqa: S101 - the settings were checked
        self._ledger.charge(charge, delta=settings.delta, budget=settings.budget)

    def settle(self, question: Question) -> None:
        """Write down that a round's answer is about to leave."""
        self._ledger.close(question.digest())

    def facts(self) -> dict[str, Any]:
        """Say for the audit log what was spent, and how far the ledger goes."""
        facts: dict[str, Any] = {"mode": self._settings.mode, "ledger_lines": self._ledger.end.lines}
        if self._settings.is_on:
            facts |= {"unit": self._settings.hidden, "epsilon": self._ledger.last_epsilon}
            facts |= {"delta": self._settings.delta, "budget": self._settings.budget}
        return facts
