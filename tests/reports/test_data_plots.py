"""The page of `prepare_data.py inspect`: labels that can be read."""

import numpy as np
import pytest
from matplotlib.figure import Figure

from faces.audit.survey import ClassSurvey
from reports import data_plots


@pytest.mark.parametrize("low, high", [(200, 3000), (300, 700), (1, 10_000), (0.1, 900)])
def test_labels_of_an_axis_stand_beside_each_other(low, high, monkeypatch):
    """2 x 10^2, 3 x 10^2, ... were written over each other where sharpness spans a decade or so."""
    figures = []
    monkeypatch.setattr(Figure, "savefig", lambda self, *_, **__: figures.append(self))
    many = np.geomspace(low, high, 200)
    data_plots.spreads([ClassSurvey("real", brightness=many / high, contrast=many / high, sharpness=many)])
    (figure,) = figures
    figure.draw_without_rendering()
    for axis in figure.axes:
        labels = [*axis.get_xticklabels(), *axis.get_xticklabels(minor=True)]
        left, right = axis.get_xlim()
        boxes = sorted(
            (one.get_window_extent().x0, one.get_window_extent().x1)
            for one in labels
            if one.get_text() and left <= one.get_position()[0] <= right
        )
        assert len(boxes) >= 1
        assert all(one[1] <= other[0] for one, other in zip(boxes, boxes[1:], strict=False)), axis.get_title()
