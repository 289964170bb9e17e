"""Figures as functions of arrays: true aspect, outlines where the labels are, folds in red."""

from __future__ import annotations

import base64
import io

import numpy as np
import pytest
from drawn_run import SHAPE, SPACING, anatomy, scanned, smooth_field
from matplotlib.figure import Figure
from PIL import Image

from deepatlas.report.drawing import (
    busiest,
    cut,
    pixels,
    png_uri,
    structure_colours,
    svg_text,
    views,
    window,
)
from deepatlas.report.figures import (
    FOLD,
    deformation_grid,
    jacobian_colours,
    jacobian_map,
    registration_panel,
    segmentation_slices,
)

RED = tuple(round(255 * c) for c in FOLD)


def drawn(figure: Figure) -> np.ndarray:
    return np.asarray(pixels(figure, 100.0))


def count(picture: np.ndarray, colour: tuple[int, ...]) -> int:
    return int((picture == np.array(colour)).all(axis=-1).sum())


def panel(figure: Figure, index: int) -> np.ndarray:
    """Pixels inside one pair of axes, row 0 at the top."""
    picture = drawn(figure)
    box = figure.axes[index].get_window_extent()
    rows = slice(round(picture.shape[0] - box.y1), round(picture.shape[0] - box.y0))
    return picture[rows, round(box.x0) : round(box.x1)]


@pytest.mark.parametrize(
    ("number", "across_mm", "up_mm"), [(0, 34, 44), (1, 34, 40), (2, 44, 40)], ids=str
)
def test_panels_keep_the_aspect_of_anisotropic_voxels(number, across_mm, up_mm):
    labels = anatomy(SHAPE, SPACING)
    figure = segmentation_slices(scanned(labels, 1), labels, labels, SPACING)
    box = figure.axes[number].get_window_extent()
    assert box.width / box.height == pytest.approx(across_mm / up_mm, rel=1e-3)


def test_views_show_right_and_anterior_at_the_left_and_superior_at_the_top():
    image = np.zeros((10, 12, 8))
    image[8, 10, 6] = 1.0  # right, anterior, superior
    figure = segmentation_slices(
        image, None, np.zeros_like(image, dtype=int), (1.0, 1.0, 1.0), position=(8, 10, 6)
    )
    for number in range(3):
        rows, columns = np.nonzero(panel(figure, number).min(axis=-1) > 200)
        shape = panel(figure, number).shape
        assert rows.size
        assert rows.mean() < shape[0] / 2
        assert columns.mean() < shape[1] / 2


def test_two_dimensions_have_one_panel_that_is_not_flipped():
    image = np.zeros((20, 10))
    image[17, 8] = 1.0
    figure = segmentation_slices(image, None, np.zeros((20, 10), dtype=int), (1.0, 3.0))
    assert len(figure.axes) == 1
    box = figure.axes[0].get_window_extent()
    assert box.width / box.height == pytest.approx(20 / 30, rel=1e-3)
    rows, columns = np.nonzero(panel(figure, 0).min(axis=-1) > 200)
    assert rows.mean() < box.height / 2 < box.width
    assert columns.mean() > box.width / 2


def test_cut_gives_rows_up_and_columns_across():
    volume = np.arange(2 * 3 * 4).reshape(2, 3, 4)
    axial, coronal, sagittal = views(3)
    assert np.array_equal(cut(volume, axial, (1, 2, 3)), volume[:, :, 3].T)
    assert np.array_equal(cut(volume, coronal, (1, 2, 3)), volume[:, 2, :].T)
    assert np.array_equal(cut(volume, sagittal, (1, 2, 3)), volume[1].T)


def test_manual_outline_is_solid_and_the_predicted_one_dashed():
    labels = np.zeros((40, 40), dtype=int)
    labels[10:30, 10:30] = 5
    image, nothing = np.zeros((40, 40)), np.zeros((40, 40), dtype=int)
    solid = drawn(segmentation_slices(image, labels, nothing, (1.0, 1.0))).astype(int)
    dashed = drawn(segmentation_slices(image, nothing, labels, (1.0, 1.0))).astype(int)
    lit = [(picture.max(axis=-1) > 120).sum() for picture in (solid, dashed)]
    assert lit[0] > 1.2 * lit[1] > 500
    colour = structure_colours([5])[5]
    assert count(solid.astype(np.uint8), tuple(int(colour[k : k + 2], 16) for k in (1, 3, 5))) > 300


def test_structures_that_touch_the_border_are_outlined():
    labels = np.full((20, 20), 3)
    picture = drawn(segmentation_slices(np.zeros((20, 20)), labels, 0 * labels, (1.0, 1.0)))
    assert (picture.max(axis=-1) > 150).sum() > 500


def test_colours_differ_and_stay_with_their_structure():
    many = structure_colours(range(0, 60))
    assert len(set(many.values())) == 59
    assert 0 not in many
    assert structure_colours([9, 3, 5]) == structure_colours([3, 5, 9])


def test_slices_go_where_most_labels_are():
    mask = np.zeros((9, 8, 7), dtype=bool)
    mask[2:5, 6, 1:3] = True
    assert busiest(mask)[1] == 6
    assert busiest(mask)[0] == 3
    assert busiest(np.zeros((9, 8, 7), dtype=bool)) == (4, 4, 3)


def test_a_constant_image_has_a_window():
    low, high = window(np.full((4, 5), 7.0))
    assert low < high


def test_registration_panel_has_five_columns_for_every_view():
    labels = anatomy(SHAPE, SPACING)
    images = {name: scanned(labels, n) for n, name in enumerate(("moving", "fixed", "moved"))}
    figure = registration_panel(**images, spacing_mm=SPACING, fixed_labels=labels)
    assert len(figure.axes) == 15
    flat = {name: image[:, :, 8] for name, image in images.items()}
    assert len(registration_panel(**flat, spacing_mm=SPACING[:2]).axes) == 5


def test_columns_of_a_registration_stand_below_one_another():
    tall = np.random.default_rng(0).random((10, 44, 30))  # the views differ in width
    figure = registration_panel(moving=tall, fixed=tall, moved=tall, spacing_mm=(1.0, 1.0, 1.0))
    boxes = [ax.get_position() for ax in figure.axes]
    middles = np.array([(box.x0 + box.x1) / 2 for box in boxes]).reshape(3, 5)
    assert boxes[0].width < 0.7 * boxes[10].width
    assert np.allclose(middles, middles[:1])


def test_differences_share_one_scale_and_vanish_for_equal_images():
    fixed = np.zeros((30, 36))
    fixed[8:20, 8:20] = 800.0
    moving = np.zeros((30, 36))
    moving[14:26, 14:26] = 800.0
    figure = registration_panel(moving=moving, fixed=fixed, moved=fixed, spacing_mm=(1.0, 1.5))
    before, after = panel(figure, 3).astype(float), panel(figure, 4).astype(float)
    assert before.mean() > 20
    assert after.mean() < 2


def test_identity_gives_a_straight_grid_and_a_translation_moves_it():
    still = np.zeros((2, 24, 30))
    shifted = still.copy()
    shifted[0] = 4.0
    lines = [
        deformation_grid(field, (2.0, 1.0)).axes[0].collections[0].get_segments()
        for field in (still, shifted)
    ]
    assert np.allclose(np.array(lines[1]) - np.array(lines[0]), (8.0, 0.0))  # 4 voxels of 2 mm
    steps = np.diff(np.array(lines[0]), axis=1)[:, 0]
    assert np.allclose(np.abs(steps).min(axis=-1), 0.0)


def test_deformation_grid_takes_three_dimensions_with_an_image():
    field = smooth_field(SHAPE, 3.0, 0)
    figure = deformation_grid(field, SPACING, image=scanned(anatomy(SHAPE, SPACING), 0))
    assert len(figure.axes) == 4  # three views and a colour bar


def test_only_folds_are_red():
    determinant = np.exp(smooth_field((24, 30, 12), 1.5, 3)[0])
    determinant[3, 4, 5] = 0.0
    determinant[9, 9, 9] = -0.7
    determinant[10, 9, 9] = np.nan
    colours, _ = jacobian_colours(determinant)
    red = (colours == (*FOLD, 1.0)).all(axis=-1)
    assert np.array_equal(red, ~(determinant > 0))
    assert red.sum() == 3


def test_determinant_one_is_nearly_white_and_both_sides_differ():
    colours, limit = jacobian_colours(np.array([[0.5, 1.0, 2.0]]))
    low, one, high = colours[0]
    assert one[:3].min() > 0.94
    assert low[2] > low[0]  # blue below
    assert high[1] > high[0]  # green above
    assert limit == pytest.approx(1.0)


@pytest.mark.parametrize("spacing", [(1.0, 1.0, 3.0), (0.5, 2.0, 1.0)])
def test_a_fold_is_red_at_its_place_in_the_map(spacing):
    determinant = np.ones((20, 26, 14))
    assert all(count(panel(jacobian_map(determinant, spacing), n), RED) == 0 for n in range(3))
    determinant[4:7, 18:21, 9:11] = -0.1
    figure = jacobian_map(determinant, spacing)
    for number, (column, row) in enumerate([(1 - 5.5 / 20, 19.5 / 26), (1 - 5.5 / 20, 10 / 14)]):
        red = (panel(figure, number) == RED).all(axis=-1)
        rows, columns = np.nonzero(red)
        assert columns.mean() / red.shape[1] == pytest.approx(column, abs=0.02)
        assert 1 - rows.mean() / red.shape[0] == pytest.approx(row, abs=0.02)
    assert count(panel(figure, 2), RED) > 20


def test_folds_stay_red_in_the_embedded_picture():
    determinant = np.exp(np.random.default_rng(0).normal(size=(60, 80)))
    determinant[30, 40] = -1.0
    uri = png_uri(jacobian_map(determinant, (1.0, 1.0)), exact=True)
    data = base64.b64decode(uri.removeprefix("data:image/png;base64,"))
    picture = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
    assert count(picture[:, : picture.shape[1] * 2 // 3], RED) > 4


def test_large_pictures_are_brought_under_their_limit():
    noise = np.random.default_rng(0).normal(size=(200, 200))
    figure = segmentation_slices(noise, None, np.zeros((200, 200), dtype=int), (1.0, 1.0))
    uri = png_uri(figure, most_bytes=40_000)
    assert len(uri) < 4 / 3 * 40_000 + 100
    assert uri.startswith("data:image/png;base64,")


def test_svg_follows_the_page_and_its_ids_are_its_own():
    figure = jacobian_map(np.ones((8, 9)), (1.0, 1.0))
    text = svg_text(figure, label='a "figure" <of> folds', name="one")
    assert text.startswith("<svg")
    assert 'aria-label="a &quot;figure&quot; &lt;of&gt; folds"' in text
    assert "<metadata" not in text
    assert 'id="one-' in text
    assert 'href="#one-' in text or "url(#one-" in text
