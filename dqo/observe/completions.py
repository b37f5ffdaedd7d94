"""All completions of a run, one parquet file a step, for pandas, DuckDB or the hub's viewer."""

from collections.abc import Mapping
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from dqo.files.atomic import replacing, sweep
from dqo.records import Step


class Completions:
    """Writes each step's completions to ``step_00012.parquet``, one row a completion; the write is atomic."""

    def __init__(self, *, folder: Path):
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder

    def __call__(self, step: Step, metrics: Mapping[str, float]) -> None:
        """Write the file of a step. ``metrics`` is not used."""
        with replacing(self.folder / f"step_{step.number:05d}.parquet") as path:
            pq.write_table(table(step), path, compression="zstd")

    def forget_after(self, number: int) -> None:
        """Remove the files of steps after ``number``, which a resumed run writes again, and leftovers of a killed
        run."""
        for path in self.folder.glob("step_*.parquet"):
            if (step := path.stem.removeprefix("step_")).isdigit() and int(step) > number:
                path.unlink()
        sweep(self.folder)


def table(step: Step) -> pa.Table:
    """A table with one row for each completion of a step.

    Columns: step, position (of the prompt), i (index in the group), prompt, completion, reward, ``rewards/<part>``,
    correct (null: the reward does not define it), valid, credit, advantage (mean over the sampled tokens), finished,
    length (number of sampled tokens).
    """
    rollouts, rewards = step.experience.rollouts, step.experience.rewards
    rows = [(prompt, i) for prompt in rollouts.prompts for i in range(rollouts.k)]
    sampled_BT = rollouts.sampled_BT
    lengths_B = sampled_BT.sum(1)
    advantages_B = (step.targets.advantages_BT * sampled_BT).sum(1) / lengths_B.clamp_min(1)
    correct = [None] * len(rows) if rewards.correct_PK is None else rewards.correct_PK.flatten().tolist()
    return pa.table(
        {
            "step": pa.array([step.number] * len(rows), pa.int32()),
            "position": pa.array([prompt.position for prompt, _ in rows], pa.int64()),
            "i": pa.array([i for _, i in rows], pa.int32()),
            "prompt": pa.array([prompt.text for prompt, _ in rows], pa.string()),
            "completion": pa.array(rollouts.texts, pa.string()),
            "reward": pa.array(rewards.total_PK.flatten().numpy(), pa.float32()),
            **{
                f"rewards/{name}": pa.array(part_PK.flatten().numpy(), pa.float32())
                for name, part_PK in rewards.parts.items()
            },
            "correct": pa.array(correct, pa.bool_()),
            "valid": pa.array(rewards.valid_PK.flatten().tolist(), pa.bool_()),
            "credit": pa.array(step.experience.credits_PK.flatten().numpy(), pa.float32()),
            "advantage": pa.array(advantages_B.numpy(), pa.float32()),
            "finished": pa.array(rollouts.finished_B.tolist(), pa.bool_()),
            "length": pa.array(lengths_B.numpy(), pa.int32()),
        }
    )
