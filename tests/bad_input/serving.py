"""dqo-serve, and the encoder that is asked for over HTTP."""

from tests.bad_input.harness import Case

NOWHERE = "embed.base_url=http://127.0.0.1:9/v1"  # the port of a service that nobody runs


def serve(typed: str, *says: str, process: bool = False) -> Case:
    return Case(typed=f"port=0 {typed}", says=says, command="serve", process=process)


def remote(typed: str, *says: str) -> Case:
    return Case(typed=f"embed=remote {typed}", says=says)


SERVING = [
    serve("host=0.0.0.0", "host=0.0.0.0: other machines reach it, and $DQO_TOKEN is not set", "type export DQO_TOKEN="),
    serve("host=no.such.host.invalid", "host=no.such.host.invalid port=0: cannot be listened at", "host=127.0.0.1"),
    serve("host=192.0.2.1", "host=192.0.2.1 port=0: cannot be listened at", "type port=0 for any free port"),
    serve("port=65536", "port=65536: 0 or more and at most 65535 is needed", "type port=8100"),
    serve("port=http", "port=http: a whole number is needed", "type port=8100"),
    serve("serve=[]", "serve=[]: ", "type serve=[reward,embed]"),
    serve("serve=[policy]", "serve=[policy]: allowed are reward | embed"),
    serve("reward=none", "reward=none judges nothing", "type reward=check, or serve=[embed]"),
    serve("max_texts=9000", "a request of so many texts never fits into waiting_texts=8192", "type max_texts=8192"),
    serve("batch_texts=0", "batch_texts=0: 1 or more", "type batch_texts=256"),
    serve("max_body_mb=0", "max_body_mb=0: more than 0", "type max_body_mb=16.0"),
    serve("grace=0", "grace=0: more than 0", "type grace=30.0"),
    serve("dry_run=true", "dqo-serve has no dry run"),
    serve("nproc=2", "dqo-serve is one process"),
    serve("resume=run", "resume=run: dqo-serve starts anew each time"),
    serve("-m seed=0,1", "-m: this command makes no sweep"),
    serve("tokens=8", "unknown key tokens"),
    remote("", "embed.base_url has no value", "type embed.base_url=http://HOST:8000/v1"),
    remote(NOWHERE, "embed.model has no value", "type embed.model=NAME"),
    remote(
        f"{NOWHERE} embed.model=x", f"{NOWHERE} does not answer", "start that service, or type another embed.base_url"
    ),
    remote("embed.base_url=127.0.0.1:8100 embed.model=x", "no URL", "type embed.base_url=http://HOST:PORT"),
    remote(
        f"{NOWHERE} embed.model=x embed.batch=0", "embed.batch=0: 1 or more and at most 2048", "type embed.batch=64"
    ),
    remote(f"{NOWHERE} embed.model=x embed.dimensions=0", "embed.dimensions=0: 1 or more", "null"),
    remote(f"{NOWHERE} embed.model=x embed.patience=-1", "embed.patience=-1: 0 or more", "type embed.patience=300.0"),
    remote(f"{NOWHERE} embed.model=x embed.normalize_text=[spaces]", "embed.normalize_text=[spaces]: allowed are"),
    remote(f"{NOWHERE} embed.model=x embed.token=abc", "unknown key embed.token", "type export DQO_TOKEN=…"),
    serve("token=abc", "unknown key token", "type export DQO_TOKEN=…"),
]
