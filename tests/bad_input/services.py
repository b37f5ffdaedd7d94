"""Rewards that ask a service: addresses, rubrics and numbers that cannot be right."""

from tests.bad_input.harness import Case, Files

NOBODY = "http://127.0.0.1:9"  # the port of discard, which nothing listens on
JUDGE = f"reward=judge reward.base_url={NOBODY}/v1 reward.model=m reward.correct_above=0.5"
REMOTE = f"reward=remote reward.url={NOBODY} reward.correct_above=0.5"
RUBRIC = f"{JUDGE} reward.rubric_file=rubric.jinja"


def case(typed: str, *says: str, files: Files | None = None) -> Case:
    return Case(typed=typed, says=says, files=files or {})


def rubric(content: str | bytes, *says: str) -> Case:
    return case(RUBRIC, "rubric.jinja", *says, files={"rubric.jinja": content})


CALLS: list[tuple[str, ...]] = [
    ("concurrency=0", "concurrency=0: 1 or more and at most 1024"),
    ("concurrency=5000", "concurrency=5000: 1 or more and at most 1024"),
    ("timeout=0", "timeout=0: more than 0", "timeout=30.0"),
    ("timeout=never", "timeout=never: a number is needed"),
    ("retries=-1", "retries=-1: 0 or more"),
    ("patience=-1", "patience=-1: 0 or more", "patience=300.0"),
    ("patience=inf", "patience=inf: a finite number is needed"),
]

SERVICES = [
    *(case(f"{JUDGE} reward.{typed}", *(f"reward.{said}" for said in says)) for typed, *says in CALLS),
    case(f"{REMOTE} reward.patience=-1", "reward.patience=-1: 0 or more", "type reward.patience=300.0"),
    case("credit=partition credit.by=key credit.patience=-1", "credit.patience=-1: 0 or more", "credit.patience=300.0"),
    case("eval.judge.patience=long", "eval.judge.patience=long: a number is needed", "eval.judge.patience=300.0"),
    case("reward=judge", "reward.base_url has no value; type reward.base_url="),
    case(f"reward=judge reward.base_url={NOBODY}", "reward.model has no value; type reward.model="),
    case(JUDGE, f"reward.base_url={NOBODY}/v1 does not answer", "start that service, or type another reward.base_url"),
    case(f"{JUDGE} reward.base_url=localhost:8000", "reward.base_url=localhost:8000: no URL", "=http://HOST:PORT"),
    case(f"{JUDGE} reward.base_url=http://me:word@host", "reward.base_url holds a password", "take it out"),
    case(f"{JUDGE} reward.scale=[10,1]", "reward.scale=[10,1]: the lowest score", "type reward.scale=[1,10]"),
    case(f"{JUDGE} reward.scale=[1]", "reward.scale=[1]", "type reward.scale=[1,10]"),
    case(f"{JUDGE} reward.scale=10", "reward.scale=10", "type reward.scale=[1,10]"),
    case(f"{JUDGE} reward.temperature=3", "reward.temperature=3: 0 or more and at most 2"),
    case(f"{JUDGE} reward.repeats=0", "reward.repeats=0: 1 or more and at most 100", "type reward.repeats=1"),
    case(f"{JUDGE} reward.repeats=3", "reward.repeats=3 with reward.temperature=0", "type reward.temperature=0.7"),
    case(f"{JUDGE} reward.max_tokens=0", "reward.max_tokens=0", "type reward.max_tokens=64"),
    case(f"{JUDGE} reward.price_per_million_in=-1", "reward.price_per_million_in=-1: 0 or more"),
    case(f"{JUDGE} reward.on_unread=maybe", "reward.on_unread=maybe: allowed are raise | mask | NUMBER"),
    case(f"{JUDGE} reward.rubric=x", "reward.rubric", "reward.rubric_file"),
    case(f"{JUDGE} reward.rubric_file=none.jinja", "reward.rubric_file=none.jinja: there is no such file", "or null"),
    rubric("{{ completion", "a text file with a Jinja template is needed"),
    rubric("Is it good?", "does not show the completion; write {{ completion | json }} in it"),
    rubric("{{ columns.right }} {{ completion }}", "no attribute 'right'; a rubric can show prompt, completion"),
    rubric("{{ answer }} {{ completion }}", "'answer' is undefined; a rubric can show prompt, completion"),
    rubric(b"\xff\xfe{{ completion }}", "can't decode", "a text file with a Jinja template is needed"),
    case("reward=remote", "reward.url has no value; type reward.url="),
    case(REMOTE, f"reward.url={NOBODY} does not answer", "start that service, or type another reward.url"),
    case(f"{REMOTE} reward.url=[]", "reward.url=[]: an address is needed; type reward.url=http://HOST:PORT"),
    case(f"{REMOTE} reward.url=ftp://host", "reward.url=ftp://host: no URL; type reward.url=http://HOST:PORT"),
    case(f"{REMOTE} reward.url=[{NOBODY},host:80]", "reward.url=host:80: no URL; type reward.url=http://HOST:PORT"),
    case(f"{REMOTE} reward.form=xml", "reward.form=xml: allowed are dqo | openrlhf"),
    case(f"{REMOTE} reward.batch=0", "reward.batch=0: 1 or more is needed; type reward.batch=64"),
    case(f"{REMOTE} reward.label_column=right", "reward.label_column=right: there is no such column; there are"),
    case(
        f"reward=remote reward.form=openrlhf reward.url={NOBODY} credit.gate=correct",
        "reward.correct_above=null: credit.gate=correct",
        "type reward.correct_above=0.5, or credit.gate=none",
    ),
]
