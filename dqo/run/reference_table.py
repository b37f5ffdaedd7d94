"""The initial policy's completions as parquet, one row a completion: what a resumed run reads back bit for bit."""

from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby, islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from dqo.files.atomic import replacing
from dqo.records import Prompt, Rewards, Rollouts
from dqo.references import Reference

PART = "rewards/"  # before the name of a part of the reward
ROWS = 1000  # of a row group: at most this many completions are encoded and decoded at a time
SCHEMA = pa.schema(
    {
        "prompt": pa.list_(pa.int32()),  # its tokens
        "position": pa.int64(),  # of the prompt, where it is drawn first
        "i": pa.int32(),  # index of the completion in its group
        "completion": pa.string(),
        "tokens": pa.list_(pa.int32()),  # behind the prompt
        "sampled": pa.list_(pa.bool_()),
        "logprobs": pa.list_(pa.float32()),
        "finished": pa.bool_(),
        "version": pa.int32(),
        "reward": pa.float32(),
        "correct": pa.bool_(),  # null: correctness is not defined
        "valid": pa.bool_(),
        "embedding": pa.list_(pa.float32()),  # null: no stage needs them
    }
)


def write(path: Path, groups: Sequence[Reference]) -> None:
    """Write the groups, at least one, atomically."""
    schema = SCHEMA
    for name in groups[0].rewards.parts:
        schema = schema.append(pa.field(f"{PART}{name}", pa.float32()))
    rows = (row for group in groups for row in _rows(group))
    with replacing(path) as new, pq.ParquetWriter(new, schema, compression="zstd") as file:
        while some := list(islice(rows, ROWS)):
            file.write_table(pa.Table.from_pylist(some, schema))


def read(path: Path, prompts: Iterable[Prompt]) -> dict[tuple[int, ...], Reference]:
    """Reads a file that ``write`` made: the groups of the given prompts, by the prompts' tokens. Prompts that the file
    lacks are left out."""
    wanted, found = {prompt.tokens: prompt for prompt in prompts}, {}
    with pq.ParquetFile(path) as file:
        rows = (row for batch in file.iter_batches(batch_size=ROWS) for row in batch.to_pylist())
        for tokens, group in groupby(rows, key=lambda row: tuple(row["prompt"])):
            if tokens in wanted:
                found[tokens] = _reference(wanted[tokens], list(group))
    return found


def _rows(group: Reference) -> Iterable[dict[str, Any]]:
    rollouts, rewards = group.rollouts, group.rewards
    (prompt,) = rollouts.prompts
    for i, text in enumerate(rollouts.texts):
        behind = slice(len(prompt.tokens), int(rollouts.lengths_B[i]))
        yield {
            "prompt": list(prompt.tokens),
            "position": prompt.position,
            "i": i,
            "completion": text,
            "tokens": rollouts.tokens_BT[i, behind].tolist(),
            "sampled": rollouts.sampled_BT[i, behind].tolist(),
            "logprobs": rollouts.logprobs_BT[i, behind].tolist(),
            "finished": bool(rollouts.finished_B[i]),
            "version": int(rollouts.versions_B[i]),
            "reward": float(rewards.total_PK[0, i]),
            "correct": None if rewards.correct_PK is None else bool(rewards.correct_PK[0, i]),
            "valid": bool(rewards.valid_PK[0, i]),
            "embedding": None if group.embeddings_KD is None else group.embeddings_KD[i].tolist(),
            **{f"{PART}{name}": float(part_PK[0, i]) for name, part_PK in rewards.parts.items()},
        }


def _reference(prompt: Prompt, rows: Sequence[Mapping[str, Any]]) -> Reference:
    def column(name: str, dtype: torch.dtype) -> Tensor:
        return torch.tensor([row[name] for row in rows], dtype=dtype)

    def tokens(name: str, dtype: torch.dtype, *, of_prompt: Sequence[Any]) -> Tensor:
        return pad_sequence([torch.tensor([*of_prompt, *row[name]], dtype=dtype) for row in rows], batch_first=True)

    nothing, has_embeddings = [0] * len(prompt.tokens), rows[0]["embedding"] is not None
    rollouts = Rollouts(
        prompts=(prompt,),
        k=len(rows),
        tokens_BT=tokens("tokens", torch.long, of_prompt=prompt.tokens),
        sampled_BT=tokens("sampled", torch.bool, of_prompt=nothing),
        logprobs_BT=tokens("logprobs", torch.float32, of_prompt=nothing),
        lengths_B=torch.tensor([len(prompt.tokens) + len(row["tokens"]) for row in rows]),
        finished_B=column("finished", torch.bool),
        versions_B=column("version", torch.long),
        texts=tuple(row["completion"] for row in rows),
    )
    rewards = Rewards(
        total_PK=column("reward", torch.float32)[None],
        parts={name.removeprefix(PART): column(name, torch.float32)[None] for name in rows[0] if name.startswith(PART)},
        correct_PK=None if rows[0]["correct"] is None else column("correct", torch.bool)[None],
        valid_PK=column("valid", torch.bool)[None],
    )
    return Reference(
        rollouts=rollouts,
        rewards=rewards,
        embeddings_KD=column("embedding", torch.float32) if has_embeddings else None,
    )
