"""Names of the folders of a sweep's jobs."""

import string

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf

from dqo.config.job_folder import LONGEST, job_folder

VALUES = st.text(st.sampled_from(string.ascii_letters + string.digits + " /:\\'\"[]{}(),=.-_*?<>|é你"), max_size=300)


@pytest.mark.parametrize(
    ("swept", "name"),
    [
        ("", "7"),
        ("alpha=0,k=4", "7_alpha=0,k=4"),
        ("+new=1e-5", "7_+new=1e-5"),
        ("task.template=Grüße", "7_task.template=Grüße"),
    ],
)
def test_plain_values_stay_as_they_were_typed(swept, name):
    assert job_folder(7, swept) == name


def test_a_function_by_path_makes_one_folder():
    name = job_folder(0, "reward.function=dir/f.py:g")
    assert name.startswith("0_reward.function=dir-f.py-g-") and "/" not in name and ":" not in name


@settings(max_examples=300, deadline=None, derandomize=True)
@given(one=VALUES, other=VALUES)
def test_two_values_never_share_a_name_and_every_name_is_safe(one, other):
    names = [job_folder(3, f"model.path={value}") for value in (one, other)]
    assert (one == other) == (names[0] == names[1])
    for name in names:
        assert len(name.encode()) <= LONGEST and not set("/:\\'\"[]{}() *?<>|") & set(name)


def test_conf_takes_a_value_with_every_special_character():
    text = "a={x: [1, 'é']},b=${y}"
    config = OmegaConf.create({"swept": text.replace("${", r"\${"), "name": "${job_folder:1,${swept}}"})
    assert config.name == job_folder(1, text)
