from tests.helpers.user_module import folder

__all__ = ["folder"]
