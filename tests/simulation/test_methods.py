"""Which methods a comparison has."""

import pytest

from mediclip.errors import SettingsError
from simulation.methods import METHODS, parse_methods


def test_methods_come_in_the_order_of_the_rows_however_they_were_typed():
    assert parse_methods(" federated,local") == ("local", "federated")
    assert parse_methods(",".join(reversed(METHODS))) == METHODS


@pytest.mark.parametrize("text", ["", "local,", "local,local", "magic", "Local"])
def test_an_unknown_doubled_or_missing_method_is_refused_with_the_choice(text):
    with pytest.raises(
        SettingsError, match="untrained,winclip,patchcore,local,federated,kept,centralised, each once"
    ):
        parse_methods(text)
