"""Archives of images, and the mistakes that one can hold."""

import numpy as np
import pytest
import torch

from countsdiff_sc.image import load_images

PIXELS = np.random.default_rng(0).integers(0, 256, (3, 8, 4, 3), dtype=np.uint8)


def saved(folder, **arrays):
    np.savez(folder / "images.npz", **arrays)
    return folder / "images.npz"


def test_pixels_come_as_channels_rows_columns(tmp_path):
    images = load_images(saved(tmp_path, images=PIXELS))
    assert images.pixels.shape == (3, 3, 8, 4)
    assert images.pixels.dtype == torch.uint8
    np.testing.assert_array_equal(images.pixels.permute(0, 2, 3, 1).numpy(), PIXELS)
    assert images.conditions.shape == (3, 0)
    assert images.names == ()


def test_labels_become_one_condition_per_class(tmp_path):
    images = load_images(saved(tmp_path, images=PIXELS, labels=[2, 0, 2], class_names=["cat", "dog", "ship"]))
    assert images.conditions.tolist() == [[0, 0, 1], [1, 0, 0], [0, 0, 1]]
    assert images.names == ("cat", "dog", "ship")


def test_images_of_some_classes_have_conditions_for_all_that_are_named(tmp_path):
    images = load_images(saved(tmp_path, images=PIXELS, labels=[1, 0, 1], class_names=["cat", "dog", "ship"]))
    assert images.conditions.tolist() == [[0, 1, 0], [1, 0, 0], [0, 1, 0]]


def test_attributes_take_the_place_of_labels_and_differ_from_unknown(tmp_path):
    images = load_images(saved(tmp_path, images=PIXELS, labels=[0, 0, 0], attributes=[[0, 1], [1, 1], [0, 0]]))
    assert images.conditions.tolist() == [[-1, 1], [1, 1], [-1, -1]]
    assert images.names == ("0", "1")


@pytest.mark.parametrize(
    ("arrays", "error", "match"),
    [
        ({"pixels": PIXELS}, KeyError, r"no 'images', only \['pixels'\]"),
        ({"images": PIXELS / 255.0}, ValueError, r"are float64 of shape \(3, 8, 4, 3\)"),
        ({"images": PIXELS[0]}, ValueError, r"uint8 of shape \(8, 4, 3\)"),
        ({"images": PIXELS[:0]}, ValueError, "at least one image"),
        ({"images": PIXELS, "labels": [0, 1]}, ValueError, "labels of .* for 3 images"),
        ({"images": PIXELS, "labels": [0, -1, 1]}, ValueError, "at least 0"),
        ({"images": PIXELS, "labels": [0.0, 0.5, 1.0]}, ValueError, "whole numbers"),
        ({"images": PIXELS, "labels": np.array([0, 1, 1]).astype(str)}, ValueError, "whole numbers"),
        ({"images": PIXELS, "attributes": [[0], [2], [1]]}, ValueError, "attributes of 0 and 1"),
        ({"images": PIXELS, "labels": [0, 1, 1], "class_names": ["cat"]}, ValueError, "class_names .* 1 .* for 2"),
    ],
)
def test_what_is_no_set_of_images_is_refused(tmp_path, arrays, error, match):
    with pytest.raises(error, match=match):
        load_images(saved(tmp_path, **arrays))


def test_a_single_array_is_refused(tmp_path):
    np.save(tmp_path / "images.npy", PIXELS)
    with pytest.raises(ValueError, match="holds a single array"):
        load_images(tmp_path / "images.npy")


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere"):
        load_images(tmp_path / "nowhere.npz")
