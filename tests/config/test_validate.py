import pytest

from dqo.config.validate import validate
from dqo.errors import ConfigError
from tests.config.builders import checked

JOINT = ("task=concepts", "credit=dpp", "reward=check", "rollout=vllm")  # no gate
PYTHON = ("reward=python", "reward.function=a.b")


def test_the_defaults_pass():
    validate(checked())


@pytest.mark.parametrize(
    ("options", "changes", "message"),
    [
        ((), {"k": 10**6}, r"k=1000000: prompts_per_step \* k is 4000000 .* type k=8"),
        ((), {"run_dir": " "}, r"run_dir= names no folder"),
        (PYTHON, {}, r"reward\.correct_above=null: credit\.gate=correct .* type reward\.correct_above=0\.5"),
        (
            ("reward=check_and_python", "reward.parts.style.function=a.b", "reward.correct_from=style"),
            {},
            r"reward\.parts\.style\.correct_above=null",
        ),
        (
            ("reward=check_and_python", "reward.parts.style.function=a.b", "reward.correct_from=null"),
            {},
            "correct_from",
        ),
        ((), {"checkpoint__keep_every": 50}, r"multiple of checkpoint\.every=20; type checkpoint\.keep_every=40"),
        (
            (),
            {"checkpoint__keep_every": 50, "checkpoint__every": 0},
            r"multiple of checkpoint\.every=0; type checkpoint\.keep_every=0",
        ),
        (JOINT, {"ahead": 1, "rollout__tensor_parallel_size": 2}, r"ahead=1: workers that share .*; type ahead=0"),
        (JOINT, {"k": 1}, r"k=1: .*no others; type k=8, or alpha=0"),
        (JOINT, {"k": 2}, r"k=2: .*removes them entirely; type k=3 or more, or advantage=unbiased"),
        (("credit=none",), {}, r"credit=none: .*; type credit=dpp, or alpha=0"),
    ],
)
def test_contradictions_end_in_what_to_type(options, changes, message):
    with pytest.raises(ConfigError, match=message):
        validate(checked(*options, **changes))


def test_small_groups_are_fine_without_the_credit_or_with_an_independent_baseline():
    validate(checked(*JOINT, k=1, alpha=0.0))
    validate(checked(*JOINT, k=2, alpha=0.0))
    validate(checked(*JOINT, "advantage=unbiased", k=2))
    validate(checked("credit=none", alpha=0.0))


def test_a_file_is_no_folder(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="is a file; type run_dir="):
        validate(checked(run_dir=str(tmp_path / "file")))
