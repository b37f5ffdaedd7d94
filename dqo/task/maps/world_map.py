"""The picture ``answers.png``: answers that name places, on a world map (Figure 3 of arXiv 2509.04784)."""

import math
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol, runtime_checkable

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Circle
from matplotlib.patheffects import withStroke
from matplotlib.transforms import Bbox

INK, PALE, LAND, DOTS, CIRCLE = "#222222", "#7d868c", "#e6ebee", "#b9c4cb", "#d55e00"
LABELS = 8  # most frequent places that get a label
FULL_RADIUS = 0.55  # of the circle for 100 % of the answers, in map units (the world is 5.4 wide)
CORNERS = ((1, 0), (-1, 0), (0, 1), (0, -1), (1, 1), (-1, 1), (1, -1), (-1, -1))


@runtime_checkable
class Place(Protocol):
    """A named point on the earth. Example: Paris, 48.9 north, 2.3 east."""

    @property
    def name(self) -> str:
        """The label on the map."""
        ...

    @property
    def latitude(self) -> float:
        """Degrees, north positive."""
        ...

    @property
    def longitude(self) -> float:
        """Degrees, east positive."""
        ...


@runtime_checkable
class Atlas(Protocol):
    """A task whose answers are places."""

    def place(self, text: str) -> Place | None:
        """The place that an answer names, or None."""
        ...

    def places(self) -> Sequence[Place]:
        """All places that the task knows."""
        ...


def draw_answers(path: Path, *, atlas: Atlas, panels: Sequence[tuple[str, Sequence[str]]]) -> None:
    """Write a PNG with one map per panel, side by side. Each place that was answered gets a circle; the circle's area
    is the place's share of all answers.

    ``panels`` are pairs of title and answers: ``[("after", ["Paris", "Paris", "Lima"])]``. The faint dots are all
    places that the task knows.
    """
    figure = Figure(figsize=(8.0 * len(panels), 4.7), dpi=100, layout="constrained")
    canvas = FigureCanvasAgg(figure)
    shown = []
    for axes, (title, answers) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
        found = [atlas.place(text) for text in answers]
        counts = Counter((place.name, place.latitude, place.longitude) for place in found if place is not None)
        _draw_world(axes, atlas.places())
        _draw_title(axes, title, counts, len(found))
        shown.append((axes, counts, len(found)))
    canvas.draw()  # computes the layout, which the labels' positions depend on
    for axes, counts, total in shown:
        _draw_circles(axes, counts, total)
        _draw_labels(axes, canvas, counts, total)
    figure.text(0.995, 0.02, "area of a circle: share of all answers", fontsize=12, color=PALE, ha="right")
    figure.savefig(path)


def _draw_world(axes: Axes, places: Sequence[Place]) -> None:
    spots = [project(place.latitude, place.longitude) for place in places]
    xs, ys = [x for x, _ in spots], [y for _, y in spots]
    axes.scatter(xs, ys, s=80, color=LAND, linewidths=0, zorder=0)  # wide and pale: the continents
    axes.scatter(xs, ys, s=2, color=DOTS, linewidths=0, zorder=1)
    axes.set_xlim(-2.45, 2.75)
    axes.set_ylim(-0.95, 1.2)
    axes.set_aspect("equal")
    axes.axis("off")


def _draw_title(axes: Axes, title: str, counts: Counter, total: int) -> None:
    valid = counts.total()
    axes.set_title(title, loc="left", fontsize=19, color=INK, fontweight="bold", parse_math=False)
    axes.text(
        0.0, -0.02,
        f"{len(counts)} different places in {total} answers; {valid / total:.0%} of the answers name a place",
        transform=axes.transAxes, fontsize=14, color=INK, va="top",
    )  # fmt: skip


def _draw_circles(axes: Axes, counts: Counter, total: int) -> None:
    for (_, latitude, longitude), count in counts.most_common():
        circle = Circle(
            project(latitude, longitude), FULL_RADIUS * math.sqrt(count / total),
            facecolor=CIRCLE, alpha=0.6, edgecolor="white", linewidth=0.8, zorder=2, clip_on=False,
        )  # fmt: skip
        axes.add_patch(circle)


def _draw_labels(axes: Axes, canvas: FigureCanvasAgg, counts: Counter, total: int) -> None:
    """Write names and shares of the most frequent places; a label that would overlap another one is left out."""
    taken: list[Bbox] = []
    for (name, latitude, longitude), count in counts.most_common(LABELS):
        x, y = project(latitude, longitude)
        reach = FULL_RADIUS * math.sqrt(count / total) + 0.02
        for right, up in CORNERS:
            lean = 1 / math.hypot(right, up)
            text = axes.text(
                x + right * reach * lean, y + up * reach * lean, f"{name} {count / total:.0%}",
                ha=("right", "center", "left")[right + 1], va=("top", "center", "bottom")[up + 1],
                fontsize=12, color=INK, zorder=3, path_effects=[withStroke(linewidth=3, foreground="white")],
                parse_math=False,
            )  # fmt: skip
            box = text.get_window_extent(canvas.get_renderer())
            inside = axes.bbox.x0 <= box.x0 and box.x1 <= axes.bbox.x1
            if inside and not any(box.overlaps(other) for other in taken):
                taken.append(box)
                break
            text.remove()


def project(latitude: float, longitude: float) -> tuple[float, float]:
    """Map coordinates (x, y) of degrees, x about -2.7 to 2.7 and y about -1.3 to 1.3.

    Equal Earth projection (Šavrič, Patterson & Jenny 2018): areas are true, so the density of circles can be
    compared between regions.
    """
    a1, a2, a3, a4 = 1.340264, -0.081106, 0.000893, 0.003796
    theta = math.asin(math.sqrt(3) / 2 * math.sin(math.radians(latitude)))
    slope = 9 * a4 * theta**8 + 7 * a3 * theta**6 + 3 * a2 * theta**2 + a1
    x = 2 * math.sqrt(3) * math.radians(longitude) * math.cos(theta) / (3 * slope)
    return x, a4 * theta**9 + a3 * theta**7 + a2 * theta**3 + a1 * theta
