from pathlib import Path

from mediclip.data.samples import Sample, has_masks

IMAGE = Path("/data/Doe^Jane/1.png")


def test_a_sample_is_shown_without_its_paths():
    sample = Sample(12, IMAGE, 1, "abnormal", "busi", IMAGE, "train")
    assert sample.title == "train image 12 of busi"
    assert "Doe" not in repr(sample)
    assert "Doe" not in str(sample)


def test_a_set_has_masks_when_one_abnormal_sample_names_one():
    normal = Sample(0, IMAGE, 0, "normal", "busi")
    bare = Sample(1, IMAGE, 1, "abnormal", "busi")
    masked = Sample(2, IMAGE, 1, "abnormal", "busi", IMAGE)
    assert not has_masks([])
    assert not has_masks([normal, bare])
    assert has_masks([normal, bare, masked])
