"""A federation's settings of real parts: the embedded backbone at 64 pixels."""

import json

import pytest

from tests.tiny import SHOTS, tiny_backbone, tiny_recipe


def _lines(values):
    return "".join(f"{key} = {json.dumps(value)}\n" for key, value in values.items())


@pytest.fixture
def write_federation(tmp_path):
    """Give a function that writes ``federation.toml`` and ``tiny.toml`` and returns the first."""

    def write(*, backbone=(), training=None, **changes):
        recipe = (training or tiny_recipe()).model_dump(mode="json", exclude_none=True)
        tables = {key: recipe.pop(key) for key in [k for k, v in recipe.items() if isinstance(v, dict)]}
        text = _lines(recipe) + "".join(f"[{key}]\n{_lines(table)}" for key, table in tables.items())
        (tmp_path / "tiny.toml").write_text(text)
        shapes = tiny_backbone().shapes
        values = {
            "name": "three-hospitals",
            "address": "127.0.0.1:18443",
            "sites": ["north", "south", "west"],
            "taps": list(tiny_backbone().default_taps()),
            "recipe": "tiny.toml",
            "shots": SHOTS,
            "seed": 7,
            "local_steps": 2,
            "min_sites": 1,
            **changes,
        }
        model = {
            "spec": "embedded",
            "sha256": tiny_backbone().sha256,
            "width": shapes.width,
            "embed_dim": shapes.embed_dim,
            "text_width": shapes.text_width,
            **dict(backbone),
        }
        path = tmp_path / "federation.toml"
        path.write_text(
            _lines({key: value for key, value in values.items() if value is not None})
            + "[backbone]\n"
            + _lines({key: value for key, value in model.items() if value is not None})
        )
        return path

    return write
