from dqo.config.planned_jobs import planned_jobs

BASIC = {"_target_": "hydra._internal.core_plugins.basic_sweeper.BasicSweeper", "params": None}


def multirun(*task, sweeper=BASIC):
    return {"hydra": {"sweeper": sweeper, "overrides": {"task": [*task]}}}


def test_jobs_are_the_product_of_what_is_swept():
    assert planned_jobs(multirun("alpha=0,1,2", "k=4,8", "model=tiny")) == 6
    assert planned_jobs(multirun("seed=range(5)")) == 5
    assert planned_jobs(multirun("alpha=1", sweeper={**BASIC, "params": {"k": "4,8"}})) == 2


def test_a_sweeper_that_chooses_as_it_goes_has_no_plan():
    assert planned_jobs(multirun("alpha=0,1", sweeper={"_target_": "hydra_plugins.optuna.OptunaSweeper"})) == 0
    assert planned_jobs({}) == 0
