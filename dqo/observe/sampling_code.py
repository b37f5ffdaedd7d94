"""Python code that samples from a written policy: for the command at the end of a run, and for the model card."""

import json
from collections.abc import Sequence

from dqo.records import Prompt

LONGEST = 300  # characters; of a longer prompt only the form is shown
PLACEHOLDER = "YOUR PROMPT"


def sampling_code(folder: str, prompt: Prompt, rendered: str | None, *, count: int) -> Sequence[str]:
    """Lines that print ``count`` answers. They give no sampling parameters: generation_config.json has the run's.

    ``rendered``: the text that ``prompt.tokens`` are of, the chat template's words included; None: not known.
    """
    return (
        "from transformers import AutoModelForCausalLM, AutoTokenizer",
        f"folder = {json.dumps(folder)}",
        "model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)",
        f"inputs = {_inputs(prompt, rendered)}",
        f"outs = model.generate(**inputs, num_return_sequences={count})",
        'print(*tokenizer.batch_decode(outs[:, inputs.input_ids.shape[1]:], skip_special_tokens=True), sep="\\n")',
    )


def _inputs(prompt: Prompt, rendered: str | None) -> str:
    content = prompt.content
    if rendered is not None and len(rendered) <= LONGEST:
        return f'tokenizer({json.dumps(rendered)}, add_special_tokens=False, return_tensors="pt")'
    if isinstance(content, str) and (rendered is None or rendered.endswith(content)):  # no chat template
        return f'tokenizer({json.dumps(_short(content))}, return_tensors="pt")'
    messages = [{"role": "user", "content": content}] if isinstance(content, str) else [dict(each) for each in content]
    if _short(repr(messages)) == PLACEHOLDER:
        messages = [{"role": "user", "content": PLACEHOLDER}]
    how = 'add_generation_prompt=True, return_dict=True, return_tensors="pt"'
    return f"tokenizer.apply_chat_template({json.dumps(messages)}, {how})"


def _short(text: str) -> str:
    return text if len(text) <= LONGEST else PLACEHOLDER
