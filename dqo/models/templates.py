"""What a Jinja template of others can fail with while it is rendered."""

from jinja2 import TemplateError

TEMPLATE_ERRORS = (
    TemplateError, TypeError, ValueError, LookupError, ArithmeticError, AttributeError, RecursionError, MemoryError,
)  # fmt: skip
