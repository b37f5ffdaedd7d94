"""What is allowed and may not be meant."""

from dqo.config.schema import Config
from dqo.config.stage_answers import correct_example, silent_about_correct, term_that_says

LARGE = 10.0  # alpha times the largest credit of credit=elliptic, from which on rewards of about 1 no longer matter


def advice(config: Config) -> list[str]:
    """What is allowed and may not be meant, one line each with what to type. Said when a run starts."""
    return [
        *_ungated(config),
        *_flow_weights(config),
        *_inexact_kl(config),
        *_large_credit(config),
        *_two_kls(config),
        *_group_of_one(config),
    ]


def _ungated(config: Config) -> list[str]:
    key = silent_about_correct(config.reward, "reward")
    if config.alpha == 0 or config.credit.get("gate") != "none" or key is None:
        return []
    return [
        f"credit.gate=none and {key}=null: nothing says which completions are correct, so alpha={config.alpha:g} pays "
        f"gibberish, too, for being different; type credit.gate=threshold credit.threshold=LOWEST_GOOD_REWARD, or "
        f"credit.gate=reference (a bar of its own for each prompt), or credit.gate=correct {key}={correct_example(key)}"
    ]


def _flow_weights(config: Config) -> list[str]:
    loss_type = config.loss.get("loss_type", "grpo")
    if "flow_beta" not in config.advantage or loss_type == "grpo":
        return []
    return [
        f"advantage=flowrl with loss.loss_type={loss_type}: FlowRL divides the log-probability of a completion by its "
        "length; type loss.loss_type=grpo"
    ]


def _inexact_kl(config: Config) -> list[str]:
    needed = {"loss_type": "dr_grpo", "importance_sampling_level": "token", "use_bias_correction_kl": True}
    other = [key for key, value in needed.items() if config.loss.get(key, value) != value]
    if not other or not term_that_says(config, "completes_kl"):
        return []
    has = ", ".join(f"loss.{key}={str(config.loss[key]).lower()}" for key in other)
    types = " ".join(f"loss.{key}={str(needed[key]).lower()}" for key in other)
    return [f"the term kl_sequence with {has}: the gradient is not exactly that of the completions' KL; type {types}"]


def _two_kls(config: Config) -> list[str]:
    kl_coef = config.advantage.get("kl_coef")
    if not kl_coef or config.beta == 0:
        return []
    return [
        f"advantage.kl_coef={kl_coef:g} and beta={config.beta:g}: the KL to the initial model is in the reward and in "
        "the loss; type beta=0, or advantage.kl_coef=0"
    ]


def _group_of_one(config: Config) -> list[str]:
    keys = config.advantage
    needs_no_group = "gamma" in keys and keys.get("baseline") != "group"
    if config.k > 1 or needs_no_group or not keys["_target_"].startswith("dqo."):
        return []
    return [
        "k=1: this advantage compares completions of one group, so the rewards of groups of one teach nothing; type "
        "k=8, or algorithm=ppo, or algorithm=reinforce_pp"
    ]


def _large_credit(config: Config) -> list[str]:
    ridge = config.credit.get("ridge")
    if config.credit.get("bonus") != "leave_one_out" or not ridge or config.alpha / ridge <= LARGE:
        return []
    return [
        f"credit.bonus=leave_one_out: credits reach 1 / credit.ridge = {1 / ridge:g}, and alpha={config.alpha:g} times "
        f"that drowns the reward; type alpha={ridge:g}, or credit.bonus=leverage"
    ]
