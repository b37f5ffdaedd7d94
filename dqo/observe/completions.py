"""Every completion of a run, to be read with pandas, DuckDB or the hub's viewer: one parquet file a step."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from dqo.files.atomic import replacing, sweep
from dqo.observe.text import prompt_text
from dqo.records import Step


class Completions:
    """Writes ``step_00012.parquet``, one row a completion; whole or not at all."""

    def __init__(self, *, folder: Path):
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder

    def __call__(self, step: Step) -> None:
        with replacing(self.folder / f"step_{step.number:05d}.parquet") as path:
            pq.write_table(table(step), path, compression="zstd")

    def forget_after(self, number: int) -> None:
        """Remove the files of later steps, which a resumed run writes again, and what a killed one left behind."""
        for path in self.folder.glob("step_*.parquet"):
            if (step := path.stem.removeprefix("step_")).isdigit() and int(step) > number:
                path.unlink()
        sweep(self.folder)


def table(step: Step) -> pa.Table:
    """Columns: step, position (of the prompt), i (in its group), prompt, completion, reward, ``rewards/<part>``,
    correct (null: unknown), valid, credit, advantage (mean over sampled tokens), finished, length (sampled tokens)."""
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
            "prompt": pa.array([prompt_text(prompt) for prompt, _ in rows], pa.string()),
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
