"""Copies among preprocessed images."""

import hashlib

import numpy as np
import pytest
from hypothesis import given, strategies as st

from mediclip.data.manifest import open_dataset
from mediclip.data.preprocess import Preprocess, load_images
from mediclip.evaluation.duplicates import CopyFilter, Fingerprint, fingerprint, image_digest
from mediclip.evaluation.likeness import likeness


def test_the_digest_is_that_of_shape_and_little_endian_float32():
    image = np.linspace(0, 1, 12, dtype=np.float32).reshape(3, 4)
    assert image_digest(image) == hashlib.sha256(b"(3, 4)" + image.astype("<f4").tobytes()).hexdigest()


def test_layout_and_byte_order_do_not_change_the_digest():
    image = np.random.default_rng(0).random((5, 5)).astype(np.float32)
    same = [image.copy(), np.asfortranarray(image), image.astype(">f4"), image[::-1][::-1]]
    assert {image_digest(i) for i in same} == {image_digest(image)}


def test_one_pixel_or_another_shape_changes_the_digest():
    image = np.zeros((4, 4), np.float32)
    other = image.copy()
    other[3, 3] = np.nextafter(np.float32(0), np.float32(1))
    assert len({image_digest(image), image_digest(other), image_digest(image.reshape(2, 8))}) == 3


FLAT = likeness(np.zeros((64, 64)))


@given(st.lists(st.sampled_from("abcdef")), st.sets(st.sampled_from("abc")))
def test_exactly_the_first_of_each_unknown_image_is_new(digests, known):
    # An image of one grey is like nothing, so that digests alone decide.
    copies = CopyFilter(Fingerprint(digest, FLAT) for digest in known)
    new = [d for d in digests if copies.is_new(Fingerprint(d, FLAT))]
    assert new == [d for d in dict.fromkeys(digests) if d not in known]


def test_a_near_copy_of_a_known_or_an_earlier_image_is_none_of_its_own():
    rng = np.random.default_rng(2)
    first, second = (np.kron(rng.random((8, 8)), np.ones((8, 8))) for _ in range(2))
    copies = CopyFilter([fingerprint(first)])
    assert not copies.is_new(fingerprint(np.clip(first + 0.05, 0, 1)))
    assert copies.is_new(fingerprint(second))
    assert not copies.is_new(fingerprint(0.9 * second))


@pytest.mark.shared
def test_the_known_copies_of_the_brain_set_are_found(shared):
    # 229 of the 252 files differ byte by byte (the set's README); two of those show the same pixels.
    dataset = open_dataset(shared / "data" / "brainmri")
    prints = [fingerprint(image) for image in load_images([*dataset.train, *dataset.test], Preprocess())]
    assert (len(prints), len({one.digest for one in prints})) == (252, 228)
    copies = CopyFilter()
    assert sum(copies.is_new(one) for one in prints) == 205
