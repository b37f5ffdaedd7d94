import pytest

from dqo.credit.clusters.comparison import Sameness
from dqo.errors import ConfigError
from tests.config.builders import checked
from tests.credit.builders import comparison


def test_the_endpoint_of_a_judge():
    endpoint = comparison(Sameness.judge, base_url="http://x", model="m", timeout=2.0).endpoint
    assert (endpoint.base_url, endpoint.model, endpoint.timeout) == ("http://x", "m", 2.0)


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"by": "judge"}, r"^credit\.base_url=null: credit\.by=judge asks a language model; type credit\.base_url=URL"),
        ({"by": "judge", "base_url": "http://x"}, r"^credit\.model=null: credit\.by=judge asks"),
        ({"model": "m"}, r"^credit\.model=m: credit\.by=key has no use for it; type credit\.by=judge"),
        ({"similarity": 2.0}, r"credit\.similarity"),
        ({"floor": 1.0}, r"credit\.floor"),
    ],
)
def test_keys_that_contradict_are_refused(keys, message):
    with pytest.raises(ConfigError, match=message):
        checked("credit=partition", **{f"credit__{key}": value for key, value in keys.items()})
