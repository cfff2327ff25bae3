"""Every event that goes wrong in stock Flower, and the tests that show what this project does instead.

The events are the rows of the table of hazards that the deployment was designed by. The tests are of real
processes and sockets in ``server/`` and ``client/``, and of the in-process engine in ``simulation/``.
"""

import ast
from pathlib import Path

import pytest

TESTS = Path(__file__).parent
_HOSTILE = (
    "server/test_hostile_sites.py::test_hostile_sites_are_refused_by_name_and_reason_and_the_others_finish"
)
_KILLS = (
    "server/test_kills.py::test_a_sites_programs_are_killed_at_every_phase_and_the_model_is_the_undisturbed_one",
    "server/test_kills.py::test_a_coordinators_programs_are_killed_at_every_phase_and_no_round_is_lost",
)
SHOWN = {
    "one site sends a wrong key, a wrong shape or an extra metric": (
        _HOSTILE,
        "simulation/test_hazards.py::test_a_bad_update_is_refused_by_name_and_reason_and_the_others_finish",
        "server/test_admission.py",
    ),
    "NaN values, a claim of 10⁹ examples, an update a hundred times too large": (
        _HOSTILE,
        "simulation/test_hazards.py::test_a_site_that_claims_a_thousand_million_images_weighs_as_much_as_the_cap",
    ),
    "a client raises, and the text of its exception travels": (
        _HOSTILE,
        "server/test_canary.py::test_no_identifier_of_a_patient_is_in_a_message_or_a_file_outside_the_site",
        "simulation/test_hazards.py::test_what_a_client_raises_is_in_no_message_no_file_and_no_log",
        "client/test_app.py",
    ),
    "fewer replies than needed, or a timeout shorter than training": (
        _HOSTILE,
        "simulation/test_hazards.py::test_a_round_without_quorum_is_an_error_that_is_reported_and_keeps_what_was_done",
        "simulation/test_hazards.py::test_a_silent_site_is_timed_out_by_name_and_the_others_finish",
        "simulation/test_hazards.py::test_a_site_that_stumbles_is_asked_again_and_the_result_is_the_undisturbed_one",
    ),
    "SIGKILL of a SuperNode": (
        *_KILLS[:1],
        "client/test_supervise.py::test_a_killed_supernode_is_tried_again_until_the_coordinator_lets_it_in",
        "server/test_stream.py::test_a_node_that_was_away_is_asked_again_when_it_is_back",
    ),
    "SIGKILL of the SuperLink": (*_KILLS[1:], "server/test_superlink.py", "simulation/test_crash.py"),
    "a failed run, for which flwr run returns 0": (
        "server/test_outcome.py",
        "server/test_canary.py::test_no_identifier_of_a_patient_is_in_a_message_or_a_file_outside_the_site",
    ),
    "a party with only the authority's certificate": (
        "server/test_superlink.py::test_from_the_public_port_no_path_but_the_sites_own_is_there",
        "server/test_superlink.py::test_a_stranger_with_a_key_of_its_own_does_not_get_in",
    ),
    "Krum's distances in float32 on raw weights": (
        "server/test_robust.py::test_krum_keeps_the_sites_that_lie_together",
        "server/test_aggregation.py::test_one_hostile_of_six_leaves_the_result_close_to_that_without_it",
    ),
    "a clipping helper that divides by zero": (
        "mediclip/privacy/test_clipping.py::test_an_update_of_zero_is_no_division_by_zero",
    ),
    "simulated clients that import another checkout": (
        "server/test_flower_processes.py::test_flowers_programs_import_the_application_wherever_they_are_started",
        "simulation/test_hazards.py::test_a_site_of_another_code_is_named_and_the_others_finish",
    ),
    "a registered site that gives another's name": (_HOSTILE, "server/test_roster.py"),
    "a bundle with changed client code": (
        "client/test_supervise.py::test_a_site_takes_part_over_tls_survives_kills_and_runs_no_code_but_its_own",
        "client/test_flower.py",
    ),
}


@pytest.mark.parametrize("hazard", SHOWN)
def test_every_hazard_has_its_tests(hazard):
    for place in SHOWN[hazard]:
        file, _, name = place.partition("::")
        found = {
            node.name
            for node in ast.parse((TESTS / file).read_text(encoding="utf-8")).body
            if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")
        }
        assert found, file
        assert not name or name in found, place
