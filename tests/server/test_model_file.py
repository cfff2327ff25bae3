"""The federation's result as sites use it."""

import dataclasses

from mediclip.cli.loading import load_detector
from mediclip.training.checkpoint import load_model
from server.app import CHECKPOINT
from server.checkpointing import RoundState, save_round
from server.federation import load_federation
from server.model_file import MODEL, identity_of, write_model
from tests.tiny import largest_difference, tiny_backbone, tiny_tensors


def test_a_finished_round_becomes_a_model_that_is_loaded_with_its_backbone(write_federation, tmp_path):
    settings, recipe = load_federation(write_federation())
    state = RoundState(3, tiny_tensors(5))
    save_round(tmp_path / CHECKPOINT, state, identity_of(settings, recipe))
    path = write_model(settings, recipe, tmp_path)
    assert path == tmp_path / MODEL
    file = load_model(path)
    assert largest_difference(file.tensors, state.tensors) == 0
    assert (file.backbone_sha256, file.facts["rounds"]) == (tiny_backbone().sha256, 3)
    detector = load_detector(path, backbone=None, device="cpu")
    assert largest_difference(detector.network.trainables(), state.tensors) == 0


def test_there_is_no_model_before_the_first_round_or_of_an_unnamed_backbone(write_federation, tmp_path):
    settings, recipe = load_federation(write_federation())
    assert write_model(settings, recipe, tmp_path) is None
    save_round(tmp_path / CHECKPOINT, RoundState(0, tiny_tensors()), identity_of(settings, recipe))
    assert write_model(settings, recipe, tmp_path) is None
    unnamed, _ = load_federation(write_federation(backbone={"sha256": None}))
    later = dataclasses.replace(RoundState(0, tiny_tensors()), number=1)
    save_round(tmp_path / CHECKPOINT, later, identity_of(settings, recipe))
    assert write_model(unnamed, recipe, tmp_path) is None
    assert not (tmp_path / MODEL).exists()
