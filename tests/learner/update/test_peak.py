import pytest
import torch

from dqo.learner.update.peak import Peak


def test_a_cpu_has_no_peak():
    assert Peak(torch.device("cpu")).metric() == {}


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_the_peak_is_what_was_allocated_in_between_on_top_of_what_is_in_use():
    device, size = torch.device("cuda"), 2**30
    held = torch.zeros(size, dtype=torch.uint8, device=device)
    peak = Peak(device)
    free, total = torch.cuda.mem_get_info(device)
    del held
    more = [torch.zeros(size, dtype=torch.uint8, device=device) for _ in range(3)]
    del more
    expected = (total - free + 2 * size) / 1e9
    assert peak.metric() == {"memory/peak": pytest.approx(expected, rel=0.1)}
