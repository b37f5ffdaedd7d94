"""Third-party Jinja templates: their text and their variables."""

import pytest

from dqo.errors import ConfigError
from dqo.models.templates import template_text, template_variables

NAMED = {"rag": "{{ documents }}", "tool_use": "{{ tools }}"}


def test_a_template_is_a_text_a_file_or_the_name_of_one_of_the_models_own(tmp_path):
    (tmp_path / "chat.jinja").write_text("{{ messages }}")
    assert template_text(None, NAMED) is None
    assert template_text("{{ messages }}", NAMED) == "{{ messages }}"
    assert template_text(str(tmp_path / "chat.jinja")) == "{{ messages }}"
    assert template_text("rag", NAMED) == "{{ documents }}"
    with pytest.raises(
        ConfigError, match=r"^model.chat_template=chat: .*=FILE, model.chat_template=rag \| tool_use, or n"
    ):
        template_text("chat", NAMED)
    with pytest.raises(ConfigError, match=r"type model.chat_template=FILE, or null for the model's own$"):
        template_text("chat", "{{ one }}")


@pytest.mark.parametrize(
    ("template", "variables"),
    [
        ("{{ a }}{% set b = 1 %}{{ b }}", {"a": False}),
        ("{% if not a is defined %}{% set a = 1 %}{% endif %}{{ a }}", {"a": True}),
        ("{% if a is undefined %}{% set a = 1 %}{% endif %}{{ a }}", {"a": True}),
        ("{% set a = a | default(1) %}{{ a }}", {"a": True}),
        ("{% if a is defined and a is false %}x{% endif %}", {"a": False}),
        ("{% for m in a %}{% if m %}{% set inner = m %}{% endif %}{{ inner }}{% endfor %}", {"a": False}),
        ("{% macro f(x) %}{{ x }}{{ a }}{% endmacro %}{{ f(1) }}{{ range(3) }}", {"a": False}),
        ("{% for m in a %}{% generation %}{{ m }}{% endgeneration %}{% break %}{% endfor %}", {"a": False}),
    ],
)
def test_variables_that_a_template_takes_from_outside(template, variables):
    assert template_variables(template) == variables
