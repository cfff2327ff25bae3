from dataclasses import dataclass

from hypothesis import given, strategies as st

from mediclip.data.patients import on_both_sides, split_by_patient
from mediclip.rng import generator


@dataclass(frozen=True)
class Scans:
    labels: list[int]
    patients: list[str]


@st.composite
def scans(draw: st.DrawFn, labels: tuple[int, ...] = (0, 0, 0, 1)) -> Scans:
    images = draw(
        st.lists(st.tuples(st.sampled_from(labels), st.sampled_from("abcdefghijklmnop")), max_size=60)
    )
    return Scans([label for label, _ in images], [patient for _, patient in images])


@given(scans())
def test_no_patient_is_on_both_sides_and_every_abnormal_image_is_a_test_image(given_scans: Scans):
    splits = split_by_patient(given_scans.labels, given_scans.patients)
    assert len(splits) == len(given_scans.labels)
    assert on_both_sides(splits, given_scans.patients) == set()
    assert all(s == "test" for s, label in zip(splits, given_scans.labels, strict=True) if label)


@given(scans(labels=(0,)))
def test_a_set_of_normals_is_a_pool(given_scans: Scans):
    assert split_by_patient(given_scans.labels, given_scans.patients) == ["train"] * len(given_scans.labels)


@given(scans())
def test_the_pool_has_half_of_the_images_of_healthy_patients_and_at_most_one_patient_more(given_scans: Scans):
    labels, patients = [*given_scans.labels, 1], [*given_scans.patients, "ill"]
    ill = {p for label, p in zip(labels, patients, strict=True) if label}
    sizes = {p: patients.count(p) for p in patients if p not in ill}
    pool = split_by_patient(labels, patients).count("train")
    half = (sum(sizes.values()) + 1) // 2
    assert half <= pool <= max(half, half + max(sizes.values(), default=0) - 1)


@given(scans(), st.permutations("abcdefghijklmnop"))
def test_the_split_does_not_depend_on_what_patients_are_called(given_scans: Scans, names: list[str]):
    renamed = [names["abcdefghijklmnop".index(patient)] for patient in given_scans.patients]
    assert split_by_patient(given_scans.labels, renamed) == split_by_patient(
        given_scans.labels, given_scans.patients
    )


@given(st.integers(1, 40))
def test_of_patients_of_one_image_the_first_half_of_a_fixed_permutation_is_the_pool(n: int):
    order = generator(0, "split", "normal").permutation(n)
    splits = split_by_patient([0] * n + [1], [*range(n), "ill"])
    pool = {i for i, split in enumerate(splits) if split == "train"}
    assert pool == {int(i) for i in order[: (n + 1) // 2]}


def test_patients_on_both_sides_are_found():
    assert on_both_sides(["train", "test", "test", "train"], ["a", "a", "b", "c"]) == {"a"}
