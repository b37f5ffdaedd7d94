from dqo.contracts import says
from dqo.reward.none import NoReward
from tests.factories import make_rollouts


def test_nothing_is_judged_and_all_is_valid():
    rewards = NoReward().score(make_rollouts(["w1", "w2", "", "w3"], 2))
    assert rewards.valid_PK.all()
    assert rewards.correct_PK is None
    assert not rewards.parts
    assert rewards.total_PK.tolist() == [[0.0, 0.0], [0.0, 0.0]]
    assert says(NoReward, "judges_nothing", of="score")
