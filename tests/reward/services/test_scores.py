import pytest

from dqo.errors import ConfigError
from dqo.reward.services.scores import Scale


@pytest.mark.parametrize(
    ("answer", "score"),
    [
        ("Score: 7", 7.0),
        ("It is clear.\n\n**Score:** 7.5/10", 7.5),
        ('{"score": 2}', 2.0),
        ("score = 3 out of 10", 3.0),
        ("7", 7.0),
        ("<think>Score: 2</think>\nScore: 10", 10.0),
        ("Score: 5\nScore: 5", 5.0),
        ("Score: 0", None),
        ("Score: 11", None),
        ("Score: -3", None),
        ("Score: 7/100", None),
        ("Score: N", None),
        ("Score: nan", None),
        ("Score: 3\nScore: 9", None),
        ("There are 7 ideas", None),
        ("", None),
    ],
)
def test_a_score_from_1_to_10(answer, score):
    assert Scale(1.0, 10.0).read(answer) == score


def test_a_scale_below_zero():
    scale = Scale(-1.0, 1.0)
    assert [scale.read(f"Score: {said}") for said in ("-1", "-0.5", "1", "1/1", "2")] == [-1.0, -0.5, 1.0, 1.0, None]
    assert [scale.reward(score) for score in (-1.0, 0.0, 1.0)] == [0.0, 0.5, 1.0]
    assert "from -1 to 1:" in scale.again


@pytest.mark.parametrize(("lowest", "highest"), [(10.0, 1.0), (1.0, 1.0)])
def test_a_scale_without_room_is_refused(lowest, highest):
    with pytest.raises(ConfigError, match=r"^reward.scale=\[.*\]: the lowest score, then the highest; type"):
        Scale(lowest, highest)
