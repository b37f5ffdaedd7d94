import pytest

from dqo.models.conversation import conversation, conversation_tokens, judged_input
from dqo.records import Prompt
from tests.helpers.classifiers import TEMPLATE, pair_tokenizer


def prompt(content) -> Prompt:
    return Prompt(position=0, tokens=(1,), content=content, columns={})


SYSTEM, USER = {"role": "system", "content": "a"}, {"role": "user", "content": "b c"}
PREFILL = {"role": "assistant", "content": "so "}


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("b c", [USER, {"role": "assistant", "content": "yes"}]),
        ((SYSTEM, USER), [SYSTEM, USER, {"role": "assistant", "content": "yes"}]),
        ((SYSTEM, USER, PREFILL), [SYSTEM, USER, {"role": "assistant", "content": "so yes"}]),
    ],
)
def test_the_completion_is_the_assistants_last_turn(content, expected):
    assert conversation(prompt(content), "yes") == expected


def templated(bos: str | None = None):
    tokenizer = pair_tokenizer()
    tokenizer.chat_template, tokenizer.bos_token = TEMPLATE, bos
    return tokenizer


def decoded(tokenizer, given, **limit):
    encoding, cut = judged_input(tokenizer, prompt(given), "yes no", **limit)
    return tokenizer.decode(encoding["input_ids"]), cut


def test_a_conversation_is_cut_at_its_start_and_keeps_a_beginning_of_text():
    tokenizer = templated()
    assert decoded(tokenizer, "a b c", limit=7) == ("user a b c assistant yes no", False)
    assert decoded(tokenizer, "a b c", limit=5) == ("b c assistant yes no", True)
    assert decoded(tokenizer, "a b c", limit=1) == ("no", True)
    tokenizer = templated("[CLS]")
    tokenizer.chat_template = "{{ bos_token }} " + TEMPLATE
    assert decoded(tokenizer, "a b c", limit=5) == ("[CLS] c assistant yes no", True)


def test_a_pair_is_cut_at_the_start_of_the_prompt():
    tokenizer = pair_tokenizer()
    assert decoded(tokenizer, "a b c d", limit=9) == ("[CLS] a b c d [SEP] yes no [SEP]", False)
    assert decoded(tokenizer, "a b c d", limit=7) == ("[CLS] c d [SEP] yes no [SEP]", True)
    text, cut = decoded(tokenizer, "a", limit=4)  # the completion alone is too long
    assert cut and text.endswith("no [SEP]")
    assert decoded(tokenizer, (SYSTEM, USER, PREFILL), limit=99) == ("[CLS] a b c [SEP] so yes no [SEP]", False)


def test_both_forms_name_the_tokens_that_the_model_reads():
    tokenizer = templated()
    assert (
        conversation_tokens(tokenizer, prompt("a"), "b")
        == tokenizer("user a assistant b", add_special_tokens=False)["input_ids"]
    )
    tokenizer.chat_template = None
    encoding, _ = judged_input(tokenizer, prompt("a"), "b", limit=9)
    assert encoding["token_type_ids"] == [0, 0, 0, 1, 1]
