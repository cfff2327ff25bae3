import pytest
import torch
from hypothesis import given, settings, strategies as st

from mediclip.model.nearest import nearest_anywhere, nearest_around, pooled_features


def drawn(seed, *shape):
    values = torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return torch.nn.functional.normalize(values, dim=-1)


def by_hand(queries, memory, radius, *, leave_own_out=False):
    found = torch.empty(queries.shape[:3], dtype=queries.dtype)
    for b, y, x in torch.cartesian_prod(*map(torch.arange, queries.shape[:3])).tolist():
        likes = [
            1 - queries[b, y, x] @ memory[k, v, u]
            for k in range(len(memory))
            for v in range(memory.shape[1])
            for u in range(memory.shape[2])
            if max(abs(v - y), abs(u - x)) <= radius and not (leave_own_out and k == b)
        ]
        found[b, y, x] = min(likes)
    return found


@pytest.mark.parametrize("radius", [0, 1, 3])
@pytest.mark.parametrize("leave_own_out", [False, True])
def test_the_nearest_around_a_place_is_the_one_found_by_looking_at_each(radius, leave_own_out):
    memory = drawn(0, 3, 3, 4, 5)
    queries = memory if leave_own_out else drawn(1, 2, 3, 4, 5)
    found = nearest_around(queries, memory, radius, leave_own_out=leave_own_out)
    torch.testing.assert_close(found, by_hand(queries, memory, radius, leave_own_out=leave_own_out))


def test_with_a_radius_over_the_whole_grid_the_place_does_not_count():
    memory, queries = drawn(0, 3, 3, 4, 5), drawn(1, 2, 3, 4, 5)
    everywhere = nearest_anywhere(queries, memory.flatten(0, 2))
    torch.testing.assert_close(nearest_around(queries, memory, 4), everywhere)


@given(radius=st.integers(0, 2), seed=st.integers(0, 100))
@settings(deadline=None, max_examples=20)
def test_a_larger_radius_and_a_further_image_never_raise_a_distance(radius, seed):
    memory, queries = drawn(seed, 3, 4, 4, 3), drawn(seed + 1, 2, 4, 4, 3)
    near = nearest_around(queries, memory, radius)
    assert (nearest_around(queries, memory, radius + 1) <= near + 1e-12).all()
    assert (near <= nearest_around(queries, memory[:2], radius) + 1e-12).all()


def test_a_remembered_image_is_at_no_distance_from_itself_unless_it_is_left_out():
    memory = drawn(0, 3, 2, 2, 6)
    assert nearest_around(memory, memory, 0).max() < 1e-12
    assert nearest_around(memory, memory, 0, leave_own_out=True).min() > 1e-3
    owners = torch.arange(3).repeat_interleave(4)
    flat = memory.flatten(0, 2)
    assert nearest_anywhere(memory, flat).max() < 1e-12
    others = torch.stack([nearest_anywhere(memory[i : i + 1], flat[owners != i])[0] for i in range(3)])
    torch.testing.assert_close(nearest_anywhere(memory, flat, owners=owners), others)


def test_features_are_directions_of_means_over_what_there_is_of_a_neighbourhood():
    tokens = [drawn(0, 1, 3, 3, 4), 1000 * drawn(1, 1, 3, 3, 2)]
    found = pooled_features(tokens, 3)
    corner, middle = tokens[1][0, :2, :2].mean((0, 1)), tokens[1][0].mean((0, 1))
    half = 0.5**0.5  # each of two taps has the same weight, however large its values are
    torch.testing.assert_close(found[0, 0, 0, 4:], half * corner / corner.norm())
    torch.testing.assert_close(found[0, 1, 1, 4:], half * middle / middle.norm())
    torch.testing.assert_close(found.norm(dim=-1), torch.ones(1, 3, 3, dtype=torch.float64))


def test_a_neighbourhood_of_one_leaves_the_tokens_directions():
    tokens = drawn(0, 2, 3, 3, 4)
    torch.testing.assert_close(pooled_features([5 * tokens], 1), tokens)
