"""The pictures, by their pixels: written, not blank, the right colors in the right places."""

import json
from dataclasses import dataclass, replace

import numpy
import pytest
from matplotlib.image import imread

from dqo.observe.curves import draw_curves
from dqo.task.maps.world_map import draw_answers, project
from tests.helpers.steps import make_evaluation


@dataclass(frozen=True)
class Spot:
    name: str
    latitude: float
    longitude: float


class Globe:
    """An atlas with a place every ten degrees; "nowhere" is not one of them."""

    spots = tuple(Spot(f"{y} {x}", float(y), float(x)) for y in range(-30, 61, 10) for x in range(-120, 151, 10))

    def place(self, text: str):
        return next((spot for spot in self.spots if spot.name == text), None)

    def places(self):
        return self.spots


def is_orange(pixels: numpy.ndarray) -> numpy.ndarray:
    red, green, blue = pixels[..., 0], pixels[..., 1], pixels[..., 2]
    return (red > 0.8) & (blue < 0.55) & (green < 0.75)


def test_the_area_of_a_circle_is_the_share_of_answers(tmp_path):
    path = tmp_path / "answers.png"
    some = make_evaluation(text="0 0")
    few = replace(some, answers=tuple(replace(a, texts=("0 0", "nowhere", "nowhere", "nowhere")) for a in some.answers))
    draw_answers(path, atlas=Globe(), panels=[("before", few.texts), ("after $x_$", some.texts)])
    pixels = imread(path)
    assert pixels.shape[1] == 1600
    left, right = (int(is_orange(half).sum()) for half in (pixels[:, :800], pixels[:, 800:]))
    assert left > 100
    assert right / left == pytest.approx(4.0, rel=0.25)  # 8 of 8 answers against 2 of 8; labels cover some pixels


def test_a_map_of_answers_without_a_place(tmp_path):
    draw_answers(tmp_path / "answers.png", atlas=Globe(), panels=[("before", ["nowhere"] * 3)])
    pixels = imread(tmp_path / "answers.png")
    assert not is_orange(pixels).any()
    assert (pixels[..., :3] < 0.95).any(-1).mean() > 0.02  # the dots and the title


def test_equal_earth_is_symmetric_and_bounded():
    assert project(0.0, 0.0) == (0.0, 0.0)
    x, y = project(0.0, 180.0)
    assert (x, y) == (pytest.approx(2.7066, abs=1e-3), 0.0)
    assert project(90.0, 0.0)[1] == pytest.approx(1.3174, abs=1e-3)
    assert project(-40.0, -70.0) == pytest.approx(tuple(-c for c in project(40.0, 70.0)))


def lines(steps: int = 20) -> list[dict]:
    records = [{"step": s, "reward": s / steps, "correct": s / steps, "completions/distinct": 4.0, "credit": 0.3,
                "credit_spread": None} for s in range(1, steps + 1)]  # fmt: skip
    return [{"step": 0, "eval/pass@1": 0.1, "eval/distinct_correct": 1.0}, *records,
            {"step": steps, "eval/pass@1": 0.9, "eval/distinct_correct": 6.0}]  # fmt: skip


def test_curves_are_drawn_in_their_colors(tmp_path):
    path = tmp_path / "curves.png"
    draw_curves(path, lines=json.loads(json.dumps(lines())), title="cities $x_$ α = 1")
    pixels = imread(path)
    assert pixels.shape[:2] == (1000, 1600)
    assert is_orange(pixels[:500, :800]).sum() > 500  # pass@1
    assert is_orange(pixels[:500, 800:]).sum() > 500  # distinct_correct
    assert not is_orange(pixels[500:]).any()  # there are no distances and no spread


def test_curves_of_a_run_with_no_or_one_step(tmp_path):
    draw_curves(tmp_path / "curves.png", lines=[], title="")
    draw_curves(tmp_path / "curves.png", lines=lines()[:2], title="one step")
    assert imread(tmp_path / "curves.png").std() > 0.01
