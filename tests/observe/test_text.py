from dqo.observe.text import prompt_text
from dqo.records import Prompt


def test_prompt_text_of_a_conversation():
    messages = ({"role": "system", "content": "Be brief."}, {"role": "user", "content": "A city?"})
    assert (
        prompt_text(Prompt(position=0, tokens=(3,), content=messages, columns={})) == "system: Be brief.\nuser: A city?"
    )
