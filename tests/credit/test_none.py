from dqo.credit.none import NoCredit
from dqo.stages import Credit
from tests.credit.groups import group


def test_credits_are_0_and_need_no_embeddings():
    credit = NoCredit()
    assert isinstance(credit, Credit) and not credit.uses_embeddings
    assert credit.assign(*group([[1.0, 0.0, 2.0]] * 2), None).tolist() == [[0.0] * 3] * 2
