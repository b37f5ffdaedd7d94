"""Folders that cannot hold a run, missing devices, runs that cannot be resumed."""

import torch

from tests.bad_input.harness import Case

PLACES = [
    Case(typed="run_dir=file", files={"file": ""}, says=("run_dir=file is a file", "type run_dir=ANOTHER_FOLDER")),
    Case(typed="run_dir=file/run", files={"file": ""}, says=("run_dir=file/run", "type run_dir=ANOTHER_FOLDER")),
    Case(typed="run_dir=/proc/run", says=("run_dir=/proc/run: cannot be written", "type run_dir=ANOTHER_FOLDER")),
    Case(typed="run_dir=", says=("run_dir", "type run_dir=")),
    Case(typed="run_dir=null", says=("run_dir",)),
    Case(typed="run_dir=" + "x" * 300, says=("run_dir=xxx", "type run_dir=ANOTHER_FOLDER")),
    Case(
        typed="run_dir=old",
        files={"old/metrics.jsonl": "{}\n"},
        says=("run_dir=old holds a run already (metrics.jsonl)", "type resume=old to go on, or another run_dir="),
    ),
    Case(typed="resume=nowhere", says=("resume=nowhere: no run is there", "type resume=FOLDER_OF_A_RUN"), process=True),
    Case(typed="resume=old", files={"old/metrics.jsonl": ""}, says=("resume=old: no run is there",)),
    Case(typed="resume=sweep/0_alpha=0,k=4", says=("resume=sweep/0_alpha=0,k=4: no run is there",)),
    Case(typed="resume=run", command="sft", says=("resume=run: dqo-sft starts anew each time; leave resume out",)),
    *([] if torch.cuda.is_available() else [Case(typed="device=cuda", says=("torch sees no GPU", "type device=cpu"))]),
]
