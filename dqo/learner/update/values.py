"""Values of a micro-batch's sampled tokens: of a critic of its own, or of a head on the policy's hidden states."""

import contextlib
import math
from collections.abc import Callable, Iterator
from typing import Any

from jaxtyping import Bool, Float
from torch import Tensor, device
from torch.nn import Module

from dqo.distributed import all_reduce_sum
from dqo.learner.update.logprobs import outputs_at, predicting_positions, used_rows
from dqo.learner.update.packing import MicroBatch


def token_values(model: Callable[..., Any], batch: MicroBatch, *, device: device) -> Float[Tensor, " sampled"]:
    """The value before each sampled token: of the state in which the policy samples it, so that all first tokens of a
    group have one value. float32. ``model``: a critic, whose logits have one column."""
    columns_U, used_M, row_N = predicting_positions(batch)
    values_M = used_rows(outputs_at(model, batch, columns_U, device), columns_U, used_M)[:, 0]
    return values_M.float()[row_N.to(device)]


def head_values(head: Module, hidden_RUD: Tensor, batch: MicroBatch) -> Float[Tensor, " sampled"]:
    """The same of a linear layer on the policy's last hidden states, as ``captured_hidden`` has them."""
    columns_U, used_M, row_N = predicting_positions(batch)
    values_M = head(used_rows(hidden_RUD, columns_U, used_M))[:, 0]
    return values_M.float()[row_N.to(values_M.device)]


@contextlib.contextmanager
def captured_hidden(lm_head: Module) -> Iterator[list[Tensor]]:
    """The first input of the LM head within the block: the hidden states of a forward pass. A hook works on a wrapped
    model too, such as a DeepSpeed engine's."""
    hidden: list[Tensor] = []

    def capture(module: Module, inputs: tuple[Tensor, ...]) -> None:
        if not hidden:  # a head that runs in chunks is called again
            hidden.append(inputs[0])

    handle = lm_head.register_forward_pre_hook(capture)
    try:
        yield hidden
    finally:
        handle.remove()


def value_metrics(
    values_BT: Float[Tensor, "batch tokens"],
    returns_BT: Float[Tensor, "batch tokens"],
    counted_BT: Bool[Tensor, "batch tokens"],
) -> dict[str, float]:
    """Means of the values before the update and of the returns over all tokens that count, and the share of the
    returns' variance that the values explain; NaN without a token, and without variance. A collective."""
    values_N, returns_N = values_BT[counted_BT].double(), returns_BT[counted_BT].double()
    count, values, returns, errors = all_reduce_sum([
        len(values_N), float(values_N.sum()), float(returns_N.sum()), float((returns_N - values_N).sum())
    ])  # fmt: skip
    means = [total / count if count else math.nan for total in (values, returns, errors)]
    squares = [float((numbers_N - mean).square().sum()) for numbers_N, mean in (
        (returns_N, means[1]), (returns_N - values_N, means[2])
    )]  # fmt: skip
    variance, unexplained = all_reduce_sum(squares)
    return {
        "critic/values/mean": means[0],
        "critic/returns/mean": means[1],
        "critic/vf_explained_var": 1 - unexplained / variance if variance > 0 else math.nan,
    }
