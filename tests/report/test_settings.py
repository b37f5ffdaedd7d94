from dqo.report.settings import label, varied_keys


def test_a_choice_is_named_once():
    runs = [
        {"alpha": alpha, "k": 4, "loss.alpha": alpha, "run_dir": f"runs/{alpha}", "log.live": bool(alpha)}
        for alpha in (0.0, 1.0)
    ]
    assert varied_keys(runs) == ["alpha"]
    assert label(runs[1], ["alpha"]) == "alpha=1"


def test_another_option_of_a_group_is_named_after_its_class():
    runs = [
        {"credit._target_": "dqo.credit.none.Nothing"},
        {"credit._target_": "dqo.credit.dpp.Dpp", "credit.sigma": 0.3},
    ]
    assert varied_keys(runs) == ["credit"]
    assert [label(run, ["credit"]) for run in runs] == ["credit=nothing", "credit=dpp"]


def test_a_key_of_a_group_is_named_where_its_option_is_the_same():
    runs = [{"credit._target_": "a.Dpp", "credit.kernel": kernel} for kernel in ("rbf", "cosine")]
    assert varied_keys(runs) == ["credit.kernel"]


def test_equal_runs_differ_in_nothing():
    assert varied_keys([{"alpha": 1.0}, {"alpha": 1.0}]) == []
