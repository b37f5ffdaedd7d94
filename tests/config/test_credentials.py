import pytest

from dqo.config.credentials import refuse_secrets
from dqo.errors import ConfigError

SECRET = "correct-horse-battery-staple"


@pytest.fixture(autouse=True)
def environment(monkeypatch):
    monkeypatch.setenv("SERVICE_API_KEY", SECRET)
    monkeypatch.setenv("SHORT_TOKEN", "1")
    monkeypatch.setenv("COLOUR", "magenta-and-green")


@pytest.mark.parametrize("value", [SECRET, f"https://host/?key={SECRET}", ["a", {"b": SECRET}], {SECRET: 1}])
def test_the_environment_s_secrets_are_found_and_not_shown(value):
    with pytest.raises(
        ConfigError, match=r"reward\.key holds the value of \$SERVICE_API_KEY, .*; take it out"
    ) as caught:
        refuse_secrets([("k", 8), ("reward.key", value)])
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize(
    ("value", "what"),
    [
        ("hf_" + "aB3" * 12, "Hugging Face token"),
        ("sk-ant-api03-" + "a1" * 20, "API key"),
        ("ghp_" + "a1" * 18, "GitHub token"),
        ("AKIA" + "ABCD" * 4, "AWS key"),
        ("https://me:word@host/x", "password"),
    ],
)
def test_what_looks_like_one(value, what):
    with pytest.raises(ConfigError, match=what):
        refuse_secrets([("log.project", value)])


def test_what_is_none():
    values = [
        1,
        None,
        "magenta-and-green",
        "runs/task-sk-learn-with-a-long-name-of-a-run",
        "hf_models/a",
        "https://host:80/x",
    ]
    refuse_secrets([("key", value) for value in values])
