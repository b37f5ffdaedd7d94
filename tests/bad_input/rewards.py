"""Rewards in process: models that are no reward models, and keys that cannot be right."""

from collections.abc import Callable
from pathlib import Path

from tests.bad_input.harness import Case
from tests.factories import tiny_llama, word_tokenizer
from tests.helpers.classifiers import edit_config, save_adapter, save_last_word_classifier

ALONE = "credit.gate=none"
MODEL = f"{ALONE} reward=reward_model reward.path=rm"
SUM = f"{ALONE} reward=weighted +reward@reward.parts.a=check"


def keys(typed: str, *says: str) -> Case:
    return Case(typed=f"{ALONE} {typed}", says=says)


def model(typed: str, *says: str, spoil: Callable[[Path], object] = lambda folder: None, process: bool = False) -> Case:
    """A reward model of two labels with one fault."""

    def files(folder: Path) -> None:
        save_last_word_classifier(folder / "rm", {"yes": [1.0, 2.0]}, ["help", "brevity"])
        spoil(folder / "rm")

    return Case(typed=f"{MODEL} {typed}", files=files, says=says, process=process)


def causal(folder: Path) -> None:
    tiny_llama().save_pretrained(folder)
    word_tokenizer().save_pretrained(folder)


def adapter(folder: Path) -> None:
    save_adapter(folder, folder.parent / "base")
    (folder / "adapter_model.safetensors").unlink()


def one_label(folder: Path) -> None:
    save_last_word_classifier(folder, {"yes": [1.0]}, ["help"])


def refusing_template(folder: Path) -> None:
    (folder / "chat_template.jinja").write_text("{{ raise_exception('one turn alone') }}")


HELP = "reward.labels=help"
JSONL = "task=jsonl task.path=my.jsonl task.held_out=1 max_completion_length=8"

REWARDS = [
    keys("reward=reward_model", "reward.path has no value; type reward.path="),
    keys("reward=reward_model reward.path=rm", "reward.path=rm: no such folder, and the hub is out of reach"),
    keys("reward=reward_model reward.path=a/b/c", "reward.path=a/b/c: is neither a folder nor a name on the hub"),
    model("", "reward.labels=null: the model has 2 labels (help, brevity)", "type reward.labels=0", process=True),
    model("reward.labels=2", "reward.labels=2: the model has no such label; there are 0 (help), 1 (brevity)"),
    model("reward.labels={help:1,style:2}", "reward.labels=style: the model has no such label"),
    model("reward.labels={help:much}", "reward.labels", "much"),
    model(
        f"{HELP} reward.max_length=0", "reward.max_length=0: 1 or more is needed, or null; type reward.max_length=null"
    ),
    model(f"{HELP} reward.max_length=9999", "reward.max_length=9999: the model reads at most 2048 tokens"),
    model(f"{HELP} reward.batch_tokens=0", "reward.batch_tokens=0: 1 or more"),
    model(f"{HELP} reward.dtype=int8", "reward.dtype=int8: allowed are auto | float32"),
    model(f"{HELP} reward.activation=relu", "reward.activation=relu: allowed are none | sigmoid | softmax"),
    model("reward.labels={}", "different labels of help, brevity are needed; type reward.labels=0"),
    model(f"{HELP} reward.activation=softmax", "always 1; type reward.activation=none", spoil=one_label),
    model(f"{HELP} reward.model_device=gpu", "reward.model_device=gpu: there are policy, cpu", "=policy"),
    model(f"{HELP} reward.chat_template=x", "reward.chat_template"),
    model(HELP, "is no sequence classifier (LlamaForCausalLM)", spoil=causal),
    model(HELP, "is an adapter without adapter_model.safetensors", spoil=adapter),
    model(HELP, "the weights lack", spoil=lambda folder: edit_config(folder, num_hidden_layers=1)),
    model(HELP, "its config.json cannot be read", spoil=lambda folder: (folder / "config.json").write_text("{")),
    model(HELP, "its chat template refuses the task's first prompt (one turn alone)", spoil=refusing_template),
    Case(typed="reward=reward_model reward.path=rm", says=("reward.correct_above=null: credit.gate=correct",)),
    keys(
        "task=concepts reward=rouge", "reward.reference_column=references: there is no such column; there are concepts"
    ),
    keys("reward=rouge reward.variant=rouge_3", "reward.variant=rouge_3: allowed are rouge_l | rouge_1 | rouge_2"),
    keys("reward=rouge reward.on_bad_answer=stop", "reward.on_bad_answer=stop: allowed are raise | skip | mask"),
    Case(
        typed=f"{ALONE} {JSONL} reward=rouge reward.reference_column=ref",
        files={"my.jsonl": '{"prompt": "a", "ref": "b"}\n{"prompt": "c", "ref": "!"}\n{"prompt": "d", "ref": ["e"]}\n'},
        says=("my.jsonl, line 2: \"ref\" is '!', which has no word to compare with (1 of 3", "on_bad_answer=skip"),
    ),
    keys("reward=length", "reward.min=null and reward.max=null: any length is right; type reward.max=100"),
    keys("reward=length reward.min=9 reward.max=8", "reward.min=9: is above reward.max=8; type reward.min=8"),
    keys("reward=length reward.max=0", "reward.max=0: 1 or more is needed, or null; type reward.max=50"),
    keys("reward=length reward.max=9 reward.unit=lines", "reward.unit=lines: allowed are tokens | words | characters"),
    keys("reward=format", "reward.pattern and reward.tags: neither is given; type reward.tags=[think,answer]"),
    keys("reward=format reward.pattern=a reward.tags=[b]", "reward.pattern and reward.tags: both are given"),
    keys("reward=format reward.pattern='(a'", "reward.pattern=(a: is no regular expression (missing )"),
    keys("reward=format reward.tags=['<b>']", "reward.tags=[<b>]: text of the form", "type reward.tags=[think,answer]"),
    keys("reward=format reward.tags=[b,b]", "reward.tags=[b,b]: each tag is expected once"),
    keys("reward=format reward.tags=b", "reward.tags=b: a list is needed, or null; type reward.tags=[think,answer]"),
    keys("reward=format reward.pattern=", "reward.pattern=: text is needed, or null; type reward.pattern="),
    keys("reward=format reward.tags=[b] reward.timeout=0", "reward.timeout=0: more than 0"),
    keys("reward=overlong reward.cache=0", "reward.cache=0: 1 or more is needed, or null; type reward.cache=null"),
    keys("reward=overlong reward.cache=999", "reward.cache=999: is above max_completion_length=", "reward.cache=null"),
    Case(
        typed=SUM, says=("reward.reward_weights={}: one number each for a is needed; type reward.reward_weights.a=1",)
    ),
    Case(
        typed=f"{SUM} reward.reward_weights.b=1", says=("reward.reward_weights={'b': 1", "weights.a=1 and leave out b")
    ),
    Case(typed=f"{SUM} reward.reward_weights=[1]", says=("type 'reward.reward_weights={NAME: VALUE}'",)),
    keys("reward=weighted +reward@reward.parts.a=none reward.reward_weights.a=1", "reward.parts.a: reward=none judges"),
    keys(
        "task=concepts reward=weighted +reward@reward.parts.a=rouge reward.reward_weights.a=1",
        "reward.parts.a.reference_column=references: there is no such column; there are concepts",
        "type reward.parts.a.reference_column=",
    ),
    keys("reward=weighted", "has no parts; type +reward@reward.parts.short=length", "reward.reward_weights.short=1"),
    keys("reward=weighted +reward@parts.a=check", "type +reward@reward.parts.a=OPTION"),
    keys("reward=weighted +reward.parts.a=check reward.reward_weights.a=1", "type +reward@reward.parts.a=check"),
    *(
        keys(
            f"reward=weighted {typed}", "no part a yet; type", f"+reward@reward.parts.a={option} reward.reward_weights"
        )
        for typed, option in (
            ("reward.parts.a=check", "check"),
            ("reward@reward.parts.a=check", "check"),
            ("reward.parts.a.max=3", "OPTION"),
        )
    ),
    keys(
        "reward=weighted +reward@reward.parts.a=length reward.reward_weights.a=1",
        "reward.parts.a.min=null and reward.parts.a.max=null: any length is right; type reward.parts.a.max=100",
    ),
    Case(typed=f"{SUM} reward.reward_weights.a=much", says=("reward.reward_weights", "much")),
]
