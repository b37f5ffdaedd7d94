"""A user's own YAML files and classes (--config-dir), and faulty interpolations."""

from tests.bad_input.harness import Case

CLASS = """
class Credit:
    uses_embeddings = False

    def __init__(self, *, scale: float):
        pass

    def assign(self, rollouts, rewards, embeddings_PKD):
        raise NotImplementedError


class Half:
    uses_embeddings = False


def function():
    pass


class Refuses(Credit):
    def __init__(self, *, scale: float):
        raise ValueError("scale is too wide")


class Wants:
    def __init__(self, engine, *, scale: float):
        pass
"""


def mine(yaml: str | bytes, *says: str, process: bool = False, typed: str = "") -> Case:
    """A case with credit=mine from the user's folder ``mine``, and a module ``user_classes``."""
    files = {"mine/credit/mine.yaml": yaml, "user_classes.py": CLASS}
    return Case(typed=f"--config-dir mine credit=mine {typed}", files=files, says=says, process=process)


YAML = [
    mine("_target_: dqo.credit.dpp.Dpp\n\tkernel: cosine\n", "mine/credit/mine.yaml", "line 2", process=True),
    mine("_target_: [dqo\n", "mine/credit/mine.yaml", "line 2"),
    mine("a: 1\na: 2\n", "mine/credit/mine.yaml", "duplicate key a"),
    mine(b"_target_: \xff\xfe\n", "mine/credit/mine.yaml", "UTF-8"),
    mine("- dpp\n- none\n", "credit=['dpp', 'none']: an option of the group is needed"),
    mine("", "credit names no class", "_target_: my_module.MyClass"),
    mine("scale: 0.1\n", "credit names no class", "type credit=OPTION", "_target_: my_module.MyClass"),
    mine("_target_: user_classes.Gone\n", "credit._target_=user_classes.Gone", "cannot be imported", process=True),
    mine(
        "_target_: no_such_module.Credit\n", "credit._target_=no_such_module.Credit", "No module named 'no_such_module'"
    ),
    mine("_target_: user_classes.function\n", "credit._target_=user_classes.function", "cannot be imported"),
    mine("_target_: 5\n", "credit._target_=5: a class is needed", "_target_: my_module.MyClass"),
    mine("_target_: user_classes.Credit\n", "credit.scale has no value; type credit.scale="),
    mine("_target_: user_classes.Credit\nscale: ???\n", "credit.scale has no value; type credit.scale="),
    mine(
        "_target_: user_classes.Credit\nscale: wide\n",
        "credit.scale=wide: a number is needed",
        "type credit.scale=NUMBER",
    ),
    mine("_target_: user_classes.Credit\nscale: 1\nshape: 2\n", "unknown key credit.shape; did you mean credit.scale?"),
    mine("_target_: user_classes.Half\n", "credit: Half lacks assign", "Credit of dqo.stages"),
    mine("_target_: user_classes.Refuses\nscale: 1\n", "Refuses(…) raised ValueError: scale is too wide", "line 22"),
    mine("_target_: user_classes.Wants\nscale: 1\n", "Wants asks for 'engine'", "policy"),
    mine("_target_: user_classes.Credit\nscale: ${aplha}\n", "credit.scale", "'aplha' not found"),
    mine("_target_: user_classes.Credit\nscale: ${credit.scale}\n", "credit.scale"),
    mine("_target_: user_classes.Credit\nscale: ${oc.env:NO_SUCH_VARIABLE}\n", "credit.scale", "NO_SUCH_VARIABLE"),
    mine("_target_: user_classes.Credit\nscale: ${no_such_resolver:1}\n", "credit.scale", "no_such_resolver"),
    mine("defaults:\n  - no_such\n", "credit/no_such"),
    Case(typed="--config-dir nowhere", says=("nowhere",)),
    Case(
        typed="--config-dir mine experiment=mine",
        files={"mine/experiment/mine.yaml": "# @package _global_\nalpha: -1\n"},
        says=("alpha=-1: 0 or more", "type alpha=1.0"),
    ),
    Case(
        typed="--config-dir mine experiment=mine",
        files={"mine/experiment/mine.yaml": "k: 4\n"},  # without the line "# @package _global_"
        says=("experiment: its file sets no keys of the run", "# @package _global_"),
    ),
    Case(typed="experiment=mine", says=("experiment=mine: there is no such option", "--config-dir FOLDER")),
    Case(typed="nope=1", says=("unknown key nope; --help lists the keys",)),
]
