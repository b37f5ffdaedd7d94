"""Keys and values that are of a wrong type, out of range, missing, unknown or contradictory."""

from tests.bad_input.harness import Case

COUNT = "or more is needed"


def case(typed: str, *says: str, process: bool = False, more: tuple[str, ...] = ()) -> Case:
    return Case(typed=typed, says=says, process=process, more=more)


COMMON = [
    case("k=four", "k=four: a whole number is needed", "type k=8"),
    case("k=1.5", "k=1.5: a whole number is needed", "type k=8"),
    case("k=null", "k=null: a whole number is needed", "type k=8"),
    case("k=", "k=: a whole number is needed", "type k=8"),
    case("k=[1,2]", "k=[1, 2]: a whole number is needed", "type k=8"),
    case("k=1,2", "k=1,2: several values", "type -m k=1,2, or k=[1,2]"),
    case("k=0", f"k=0: 1 {COUNT}", "type k=8"),
    case("k=1", "k=1: ", "pays completions for differing", "type k=8, or alpha=0"),
    case("k=2 credit=dpp", "k=2: ", "type k=3 or more, or advantage=unbiased, or alpha=0", process=True),
    case("k=1000000000", "k=1000000000: prompts_per_step * k is 2000000000", "at most 1000000", "type k=8"),
    case("prompts_per_step=1000000000", "prompts_per_step=1000000000", "type prompts_per_step=8"),
    case("prompts_per_step=0", "prompts_per_step=0", "type prompts_per_step=4"),
    case("alpha=-1", "alpha=-1: 0 or more and at most 1e+06", "type alpha=1.0"),
    case("alpha=nan", "alpha=nan: a finite number", "type alpha=1.0"),
    case("alpha=1e308", "alpha=1e+308", "type alpha=1.0"),
    case("alpha={a:1}", "alpha={'a': 1}: a number is needed", "type alpha=1.0"),
    case("beta=inf", "beta=inf", "type beta=0.02"),
    case("credit=none", "credit=none: ", "this credit pays nothing", "type credit=dpp, or alpha=0"),
    case("steps=0", f"steps=0: 1 {COUNT}", "type steps=100"),
    case("steps=-3", f"steps=-3: 1 {COUNT}", "type steps=100"),
    case("steps=1e3", "steps=1000.0: a whole number is needed", "type steps=100"),
    case("steps=99999999999999999999", "at most 9223372036854775807", "type steps=100"),
    case("seed=-1", f"seed=-1: 0 {COUNT}", "type seed=0"),
    case("seed=99999999999999999999", "at most 9223372036854775807", "type seed=0"),
    case("learning_rate=0", "learning_rate=0: 1e-12 or more", "type learning_rate=1e-5"),
    case("learning_rate=1e30", "learning_rate=1e+30: 1e-12 or more and at most 10", "type learning_rate=1e-5"),
    case("temperature=0", "temperature=0: 0.001 or more and at most 1000", "type temperature=1.0"),
    case("temperature=1e-30", "temperature=1e-30", "type temperature=1.0"),
    case("max_completion_length=0", "max_completion_length=0: 1 or more and", "type max_completion_length=64"),
    case("max_completion_length=64", "more than the model's context of 64", "type max_completion_length=60"),
    case("model.context_length=3", "more than the model's context of 3", "type model=NAME"),
    case("ahead=2", "ahead=2: 0 or more and at most 1", "type ahead=0"),
    case("redraws=100000000", "redraws=100000000: 0 or more and at most 100", "type redraws=0"),
    case("eval.n=0", "eval.n=0: 1 or more and at most 1000000", "type eval.n=10"),
    case("eval.m=3", "unknown key eval.m; did you mean eval.n?"),
    case("eval=5", "eval=5: it is not one value", "type eval.KEY=VALUE"),
    case("log.live=maybe", "log.live=maybe: true or false is needed", "type log.live=true|false"),
    case("checkpoint.keep_every=3", "multiple of checkpoint.every=20", "type checkpoint.keep_every=20"),
    case("sft.steps=0", f"sft.steps=0: 1 {COUNT}", "type sft.steps=200"),
    case("nproc=2", "nproc=2: TorchSingle is one process", "type learner=deepspeed_zero, or nproc=1"),
    case("rollout=vllm rollout.tensor_parallel_size=2 ahead=1", "ahead=1: workers that share", "type ahead=0"),
    case("nproc=0", "nproc=0: 1 or more", "type nproc=1"),
    case("nproc=3 learner=deepspeed_zero", "prompts_per_step=2: 3 workers share them equally", "prompts_per_step=3"),
    case("learner=deepspeed_zero learner.stage=4", "learner.stage=4: 0 or more and at most 3", "type learner.stage=2"),
    case("learner=deepspeed_zero learner.offload_param=true", "learner.offload_param=true: ", "type learner.stage=3"),
    case("device=tpu", "device=tpu: allowed are auto | cpu | cuda"),
    case("dry_run=perhaps", "dry_run=perhaps: true or false is needed", "type dry_run=true|false"),
    case("alhpa=1", "unknown key alhpa; did you mean alpha?", process=True),
    case("+colour=red", "unknown key colour"),
    case("~k", "k has no value; type k="),
    case("alpha", "alpha has no value; type alpha=VALUE"),
    case("--no-such-flag", "--no-such-flag"),
]

GROUPS = [
    case(
        "credit=dppp",
        "credit=dppp: there is no such option; type credit=distance | dpp | dpp_correct | dpp_correct_rbf | none",
    ),
    case("reward=[check,math]", "reward=[check,math]: one option of a group", "type reward=check"),
    case("credit.kernle=rbf", "unknown key credit.kernle; did you mean credit.kernel?"),
    case("credit.kernel=cosin", "credit.kernel=cosin: allowed are cosine | rbf | polynomial"),
    case("credit.kernel=rbf credit.sigma=0", "credit.sigma=0: more than 0", "type credit.sigma=0.4"),
    case("credit.gate=threshold", "credit.threshold", "type credit.threshold="),
    case("credit=dpp credit.threshold=0.5", "credit.threshold=0.5", "type credit.gate=threshold"),
    case(
        "credit=dpp_correct reward=python reward.function=user_classes.score",
        "reward.correct_above=null: credit.gate=correct",
        "type reward.correct_above=0.5, or credit.gate=none",
    ),
    case(
        "reward=check_and_python reward.parts.style.function=a.b reward.correct_from=style",
        "reward.parts.style.correct_above=null",
        "type reward.parts.style.correct_above=0.5",
    ),
    case("credit=", "credit=: there is no such option"),
    case("model.layers=100000000", "model.layers=100000000", "meant to be tiny", "type model.hidden_size=128"),
    case("~credit", "credit has no value; type credit="),
    case("model.hidden_size=100 model.heads=8", "model.hidden_size=100", "model.heads=8", "type model.heads=4"),
    case("model.layers=0", "model.layers=0: 1 or more", "type model.layers=4"),
    case("task.held_out=501", "task.held_out=501", "type task.held_out="),
    case("task=cities task.phrasings=0", "task.phrasings=0: 1 or more and at most 24", "type task.phrasings="),
    case("rollout=hf rollout.top_p=0", "rollout.top_p=0: more than 0 and at most 1", "type rollout.top_p=1.0"),
    case("rollout=hf rollout.stop_tokens=[xyz]", "rollout.stop_tokens=['xyz']", "is not one token"),
    case("rollout=hf rollout.top_p=high", "rollout.top_p=high: a number is needed", "type rollout.top_p=1.0"),
    case("rollout=hf rollout.dtype=int8", "rollout.dtype=int8: allowed are auto | float32"),
    case("reward=python", "reward.function has no value; type reward.function=", process=True),
    case(
        "reward=python reward.function=no_such.score credit.gate=none",
        "reward.function=no_such.score",
        "no module no_such in",
    ),
    case(
        "reward=math reward.on_error=maybe",
        "reward.on_error=maybe: allowed are raise | mask | NUMBER",
        "type reward.on_error=mask",
    ),
    case("reward=weighted credit.gate=none", "reward=weighted has no parts", "reward/check_and_python.yaml"),
    case("embed=sentence embed.model=no/where embed.packaged=null", "embed.model=no/where", "type embed.model=FOLDER"),
    case("embed.dim=0", "embed.dim=0", "type embed.dim="),
    case("advantage.scale_rewards=often", "advantage.scale_rewards=often: allowed are group | batch | none"),
    case(
        "advantage=unbiased advantage.baseline_decay=2",
        "advantage.baseline_decay=2: 0 or more and below 1",
        "type advantage.baseline_decay=0.9",
    ),
    case("loss.epsilon=-1", "loss.epsilon=-1: 0 or more and below 1", "type loss.epsilon="),
    case("loss.loss_type=ppo", "loss.loss_type=ppo: allowed are"),
    case("optim.adam_beta1=1", "optim.adam_beta1=1: 0 or more and below 1", "type optim.adam_beta1=0.9"),
    case(
        "optim.lr_scheduler_type=constant optim.warmup_steps=3",
        "optim.warmup_steps=3: the schedule constant has no warm-up",
        "type optim.lr_scheduler_type=",
    ),
    case("learner.lora_r=0", "learner.lora_r=0: 1 or more", "type learner.lora_r=16"),
    case(
        "learner.lora_r=4 learner.lora_target_modules=[nope]", "there is no 'nope'", "type learner.lora_target_modules="
    ),
    case("learner.max_tokens_per_micro_batch=0", "learner.max_tokens_per_micro_batch=0"),
]

KEYS = COMMON + GROUPS
