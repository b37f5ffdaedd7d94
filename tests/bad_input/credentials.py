"""Secrets in a configuration: they are refused, and the message does not show them."""

from tests.bad_input.harness import Case

WHY = "config.yaml would keep it"
ENVIRONMENT = "os.environ['NAME']"

SECRETS = [
    Case(
        typed="log.project=${oc.env:SERVICE_TOKEN}",
        says=("log.project holds the value of $SERVICE_TOKEN", WHY, ENVIRONMENT),
        process=True,
    ),
    Case(typed="k=${oc.env:SERVICE_TOKEN}", says=("k holds the value of $SERVICE_TOKEN", WHY)),
    Case(typed="log.project=correct-horse-battery-staple", says=("log.project holds the value of $SERVICE_TOKEN",)),
    Case(typed="+x.y=[a,correct-horse-battery-staple]", says=("+x.y holds the value of $SERVICE_TOKEN",)),
    Case(
        typed="--config-dir mine experiment=mine",
        files={"mine/experiment/mine.yaml": "# @package _global_\nlog: {project: '${oc.env:SERVICE_TOKEN}'}\n"},
        says=("log.project holds the value of $SERVICE_TOKEN", WHY),
    ),
    Case(typed="correct-horse-battery-staple", says=("the command line holds the value of $SERVICE_TOKEN",)),
    Case(typed="+correct-horse-battery-staple=1", says=("the command line holds the value of $SERVICE_TOKEN",)),
    Case(typed="model=hf model.path=hf_" + "a" * 34, says=("model.path holds a Hugging Face token", WHY)),
    Case(typed="log.project=https://me:secret@example.com/x", says=("log.project holds a password", WHY)),
]
