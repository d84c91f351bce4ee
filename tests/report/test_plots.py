"""Layout of the plots: nothing leaves the drawing, labels meet neither each other nor a point, and the staircase is unbeaten."""

from __future__ import annotations

import itertools

from hypothesis import given, settings
from hypothesis import strategies as st

from ramp_edge.report.plots import (
    BITS,
    WIDTH,
    Box,
    PlacedLabel,
    draw_scatter,
    draw_strips,
    shade,
    shade_names,
    stretches,
    unbeaten,
)
from ramp_edge.report.view import Axis, Point, Scatter, Series, Strip, Strips

LETTER = 13 * 0.61


def point(x: float, y: float, name: str = "Q4_K", error: float | None = None, chosen: bool = False) -> Point:
    return Point(label=name, x=x, y=y, y_error=error, series=Series.OURS, chosen=chosen, tip=name)


def scatter(points: tuple[Point, ...]) -> Scatter:
    return Scatter(
        title="KL by size",
        description="d",
        x=Axis(label="file size", unit="MB"),
        y=Axis(label="KL", unit="nats", logarithmic=True),
        points=points,
    )


def box_of(label: PlacedLabel) -> Box:
    width = len(label.text) * LETTER
    left = label.x - {"start": 0.0, "middle": width / 2, "end": width}[label.anchor]
    return Box(left=left, top=label.y - 10, right=left + width, bottom=label.y)


POINTS = st.lists(
    st.tuples(
        st.floats(min_value=1, max_value=1e5),
        st.floats(min_value=1e-6, max_value=10),
        st.text(alphabet="IQ34_XS", min_size=1, max_size=30),
        st.none() | st.floats(min_value=0, max_value=5),
    ),
    min_size=1,
    max_size=25,
)


@given(POINTS)
@settings(max_examples=60)
def test_everything_lies_inside_and_labels_apart(raw: list[tuple[float, float, str, float | None]]) -> None:
    points = tuple(point(x, y, name, error, chosen=i == 0) for i, (x, y, name, error) in enumerate(raw))
    drawn = draw_scatter(scatter(points))
    for mark in drawn.marks:
        assert drawn.left <= mark.x <= drawn.right
        assert drawn.top - 1 <= mark.y <= drawn.bottom + 1
        if mark.low is not None and mark.high is not None:
            assert drawn.top - 1 <= mark.high <= mark.y <= mark.low <= drawn.bottom + 1
    boxes = [box_of(label) for label in drawn.labels]
    assert not any(a.meets(b) for a, b in itertools.combinations(boxes, 2))
    assert all(box.left >= drawn.left - 1 and box.right <= WIDTH for box in boxes)
    dots = [Box(left=m.x - 4, top=m.y - 4, right=m.x + 4, bottom=m.y + 4) for m in drawn.marks]
    assert not any(box.meets(dot) for box in boxes for dot in dots)


def test_the_chosen_one_has_its_label_in_a_crowd() -> None:
    crowd = tuple(point(50 + i / 10, 0.1 + i / 1000, f"rival {i}") for i in range(30))
    drawn = draw_scatter(scatter((*crowd, point(51.5, 0.05, "knapsack", 0.001, chosen=True))))
    assert "knapsack" in {label.text for label in drawn.labels}


@given(st.lists(st.tuples(st.integers(1, 20), st.integers(1, 20)), min_size=1, max_size=20), st.booleans())
def test_unbeaten_is_what_nothing_beats(raw: list[tuple[int, int]], more_is_better: bool) -> None:
    points = [point(float(x), float(y)) for x, y in raw]
    kept = unbeaten(points, more_is_better=more_is_better)

    def beats(a: Point, b: Point) -> bool:
        closer_x = a.x >= b.x if more_is_better else a.x <= b.x
        return closer_x and a.y <= b.y and (a.x, a.y) != (b.x, b.y)

    expected = {(p.x, p.y) for p in points if not any(beats(other, p) for other in points)}
    assert {(p.x, p.y) for p in kept} == expected


def test_strips_begin_at_zero_and_show_every_repeat() -> None:
    strips = (
        Strip(label="depth 0", samples=(10.0, 12.0, 11.0), median=11.0, predicted=20.0, tip="t"),
        Strip(label="d" * 60, samples=(4.0,), median=4.0, predicted=None, tip="t"),
    )
    drawn = draw_strips(Strips(title="t", description="d", axis=Axis(label="decode", unit="tok/s"), strips=strips))
    first, second = drawn.rows
    assert len(first.dots) == 3
    assert drawn.ticks[0].text == "0"
    assert first.predicted is not None and first.predicted <= drawn.right
    # Twice the speed is twice as far from the axis' beginning.
    assert first.predicted - drawn.left == 2 * (first.dots[0] - drawn.left)
    assert second.label.endswith("…") and second.predicted is None
    assert drawn.has_prediction


def test_bars_end_where_their_sum_does() -> None:
    parts = stretches([(30.0, "weights", "w"), (60.0, "kv", "k")], 120.0)
    assert [(p.start, p.width) for p in parts] == [(0.0, 25.0), (25.0, 50.0)]


def test_every_type_has_a_shade_and_the_legend_all() -> None:
    from ramp_edge.codec.types import QuantType

    shades = {t: shade(t.bits_per_weight) for t in QuantType}
    assert [number for number, _ in shade_names()] == list(range(1, len(BITS) + 2))
    assert shades[QuantType.IQ1_S] == 1
    assert shades[QuantType.F16] == len(BITS) + 1
    ordered = sorted(QuantType, key=lambda t: t.bits_per_weight)
    assert [shades[t] for t in ordered] == sorted(shades.values())
