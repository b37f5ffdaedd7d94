"""The tables of docs/results.md: what each way of getting diversity gives at equal budgets.

    python scripts/reproduce.py                                   train what is missing, print the tables
    python scripts/reproduce.py --tables countdown --stage select choose each arm's learning rate, on other seeds
    python scripts/reproduce.py --tables countdown --stage main   the runs of the table, at the chosen rates
    python scripts/reproduce.py --from FOLDER                     the tables of a folder of runs; nothing is trained

A run is a process with one thread; ``--jobs`` of them at a time. A run that has a summary.json is not repeated: start
the same command again to go on. The older tables (quickstart, kernels, engines, ahead) are printed if named.
"""

import argparse
import os
import signal
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from reproduce_claims import claims
from reproduce_jobs import Job, decoding_jobs, main_jobs, preparations, selection_jobs
from reproduce_matrix import SELECTION_SEEDS, TABLES, Arm, Table, chosen_arms
from reproduce_results import read_runs
from reproduce_runs import Scheduler
from reproduce_selection import choose
from reproduce_tables import decodings, print_table

DEFAULT = ("countdown", "alpha_k", "cities", "concepts")
STAGES = ("select", "main", "decoding")


def main() -> int:
    """Train what is missing and print the tables. Exit code 1 if a run failed."""
    options = parsed()
    tables = [TABLES[name] for name in options.tables]
    scheduler = Scheduler(options.jobs, time.monotonic() + 60 * options.minutes, options.seconds, options.extra)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP) if options.stage else ():
        signal.signal(number, stop)
    wanted: list[Job] = []
    for table in tables:
        arms, seeds = chosen_arms(table, options.arms), options.seeds or table.seeds
        if options.stage and table.prepared:
            for needed in preparations(table, seeds, options.runs):  # one after the other: some need those before them
                scheduler.run([needed], f"{table.name}, {needed.name}")
                wanted.append(needed)
        select = selection_jobs(table, arms, options.selection_seeds, options.runs)
        if "select" in options.stage:
            scheduler.run(select, f"{table.name}, learning rates")
            wanted += select
        chosen = choose(options.runs, table, arms, options.selection_seeds, write=bool(options.stage))
        if chosen and options.stage == ("select",):
            print("learning rates:", ", ".join(f"{name} ×{factor:g}" for name, factor in chosen.items()))
        for stage, jobs_of in (("main", main_jobs), ("decoding", decoding_jobs)):
            if stage in options.stage:
                jobs = jobs_of(table, arms, seeds, options.runs, chosen)
                scheduler.run(jobs, f"{table.name}, {stage}")
                wanted += jobs
        if options.stage != ("select",):
            show(table, arms, seeds, options.runs, chosen)
    report(scheduler, wanted)
    return 1 if scheduler.failed else 0


def show(table: Table, arms: Sequence[Arm], seeds: Sequence[int], runs: Path, chosen: Mapping[str, float]) -> None:
    """Print what the finished runs of a table say."""
    print_table(table, arms, seeds, runs, chosen)
    if text := decodings(table, arms, seeds, runs, chosen):
        print(f"\nOther decodings of the same policies:\n\n{text}")
    if table.name == "countdown":
        found = {arm.name: read_runs(table, arm, seeds, runs, chosen) for arm in arms}
        print(f"\nThe paper's claims on this table:\n\n{claims(found)}")
    sys.stdout.flush()


def parsed() -> argparse.Namespace:
    """The command line. ``stage``: the stages to run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tables", "--table", nargs="+", metavar="TABLE", choices=list(TABLES), default=list(DEFAULT))
    parser.add_argument("--stage", choices=["all", *STAGES, "tables"], default="all")
    parser.add_argument(
        "--arms", nargs="+", default=[], metavar="NAME", help="of the tables; the baseline is always in"
    )
    parser.add_argument("--seeds", type=numbers, help="0,1,2 in place of the tables' own")
    parser.add_argument("--selection-seeds", type=numbers, default=SELECTION_SEEDS)
    parser.add_argument("--jobs", type=int, default=cores(), help="runs at a time; the number of cores")
    parser.add_argument("--minutes", type=float, default=float("inf"), help="start no run that would end later")
    parser.add_argument("--seconds", type=float, help="expected of the first run, for --minutes; a table knows its own")
    parser.add_argument("--runs", type=Path, default=Path("runs/reproduce"))
    parser.add_argument("--from", dest="source", type=Path, help="folder of runs: print its tables, train nothing")
    parser.add_argument("--extra", nargs="+", default=[], metavar="KEY=VALUE", help="more overrides of every run")
    options = parser.parse_args()
    if options.jobs < 1:
        parser.error(f"--jobs {options.jobs}: 1 or more")
    if options.source and not options.source.is_dir():
        parser.error(f"--from {options.source}: there is no such folder")
    for table in (TABLES[name] for name in options.tables):
        if not {arm.name for arm in table.arms} >= {*options.arms}:
            parser.error(f"--arms: {table.name} has {', '.join(repr(arm.name) for arm in table.arms)}")
    options.runs = options.source or options.runs
    options.stage = {"all": STAGES, "tables": ()}.get(options.stage, (options.stage,))
    options.stage = () if options.source else options.stage
    return options


def numbers(text: str) -> tuple[int, ...]:
    """``0,1,2`` as numbers."""
    return tuple(int(seed) for seed in text.split(","))


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1


def stop(number: int, _: object) -> None:
    """A signal handler: leave, which stops the runs that are under way; they can be resumed."""
    signal.signal(number, signal.SIG_IGN)
    sys.exit(128 + number)


def report(scheduler: Scheduler, wanted: Sequence[Job]) -> None:
    """Names what failed and counts what is missing, on stderr."""
    missing = [job for job in wanted if not job.is_done]
    for job in scheduler.failed:
        print(f"failed: {job.folder}; its output: {job.folder}.log", file=sys.stderr)
    if missing:
        late = f", {len(scheduler.skipped)} for want of time" if scheduler.skipped else ""
        print(f"{len(missing)} of {len(wanted)} runs are missing{late}; the same command goes on", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
