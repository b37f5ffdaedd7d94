"""Short chat templates, each with one trait of a published model's template."""

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

TURNS = (
    "{% for m in messages %}<{{ m.role }}>{{ m.content }}<end>{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)
NO_SYSTEM = "{% if messages[0].role == 'system' %}{{ raise_exception('no system role') }}{% endif %}" + TURNS  # Gemma
ALTERNATING = NO_SYSTEM + (
    "{% for m in messages %}{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('must alternate') }}{% endif %}{% endfor %}"
)
IGNORES_SYSTEM = TURNS.replace("messages %}<", "messages if m.role != 'system' %}<")
THINKING = TURNS + "{% if enable_thinking is defined and enable_thinking is false %}<nothink>{% endif %}"  # Qwen 3
EFFORT = "{% if effort is not defined %}{% set effort = 'medium' %}{% endif %}{{ effort }}" + TURNS  # gpt-oss
DATED = "{{ strftime_now('%d %b %Y') }} " + TURNS  # Llama 3.2
DEVELOPER = TURNS.replace("{{ m.role }}", "{{ 'instructions' if m.role == 'developer' else m.role }}")
PARTS = TURNS.replace("{{ m.content }}", "{% for part in m.content %}{{ part.text }}{% endfor %}")  # Idefics
CALLS = "{% for c in m.tool_calls or [] %}[{{ c.function.name }} ARGUMENTS]{% endfor %}<end>"
OBJECTS = CALLS.replace("ARGUMENTS", "{{ c.function.arguments | tojson }}")
TOOLS = "{% if tools %}<tools>{{ tools | tojson }}{% endif %}" + TURNS.replace("<end>", OBJECTS)  # Qwen 2.5
JSON_CALLS = TURNS.replace("<end>", CALLS.replace("ARGUMENTS", "{{ '' + c.function.arguments }}"))
NULL_CALLS = TURNS.replace(  # DeepSeek V3
    "{{ m.content }}<end>", "{% if m.content is none %}" + OBJECTS + "{% else %}{{ m.content }}<end>{% endif %}"
)


def tokenizer(template: str | dict[str, str] | None = TURNS, **names: str) -> PreTrainedTokenizerFast:
    """One token per byte, and the special tokens <bos>, <eos> and <end>."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    backend = Tokenizer(models.BPE({letter: i for i, letter in enumerate(letters)}, []))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens([AddedToken(name, special=True) for name in ("<bos>", "<eos>", "<end>")])
    made = PreTrainedTokenizerFast(tokenizer_object=backend, **({"bos_token": "<bos>", "eos_token": "<eos>"} | names))
    made.chat_template = template  # pyright: ignore[reportAttributeAccessIssue]
    return made
