"""The terms of ``loss.terms`` as one: what they need, their marks, supervised completions, state and sum."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from dqo.batching import join
from dqo.capabilities import DROPPED, SUPERVISED_NLL, LossTerm, Marking, Stateful, Supervising
from dqo.errors import ConfigError
from dqo.records import Estimates, Experience, LossInputs, Supervised, Targets

Means = Mapping[str, tuple[Tensor, Tensor]]


class Terms:
    """Terms by name. A term sees its own marks alone, so that two terms can use one name."""

    def __init__(self, terms: Mapping[str, Any], metrics: Sequence[str]):
        """``metrics``: names that the loss itself reports. Raises ConfigError for a value that is no term, and for a
        metric that two would report."""
        owners = dict.fromkeys(metrics, "the loss")
        for name, term in terms.items():
            if not isinstance(term, LossTerm):
                raise ConfigError(
                    f"loss.terms.{name}={term}: a term is needed, a node with a _target_ as in loss/entropy.yaml; type "
                    "loss=entropy, or another option of docs/credits.md"
                )
            for metric in term.names:
                if metric in owners and metric != SUPERVISED_NLL:
                    raise ConfigError(
                        f"loss.terms.{name}: {owners[metric]} reports the metric {metric}, too; leave one of the two "
                        f"out: type '~loss.terms.{name}'"
                    )
                owners[metric] = f"loss.terms.{name}"
        self._terms: Mapping[str, LossTerm] = terms

    @property
    def names(self) -> tuple[str, ...]:
        """Metrics of all terms."""
        own = [metric for term in self._terms.values() for metric in term.names if metric != SUPERVISED_NLL]
        supervising = any(isinstance(term, Supervising) for term in self._terms.values())
        return (*own, *([SUPERVISED_NLL] if supervising else []))

    def any_says(self, what: str) -> bool:
        """Whether a term has the attribute ``what``, and it is true."""
        return any(getattr(term, what, False) for term in self._terms.values())

    @property
    def only_advantages(self) -> bool:
        """Whether no term needs a row without an advantage."""
        return all(getattr(term, "only_advantages", False) for term in self._terms.values())

    def marks(
        self, experience: Experience, estimates: Estimates, targets: Targets
    ) -> dict[str, Shaped[Tensor, "batch tokens"]]:
        """Marks of all terms, as term/mark; and ``DROPPED``, where a term drops the token. A collective."""
        found: dict[str, Tensor] = {}
        dropped: list[Tensor] = []
        for name, term in self._terms.items():
            if isinstance(term, Marking):
                marks = term.marks(experience, estimates, targets)
                found |= {f"{name}/{mark}": value_BT for mark, value_BT in marks.items()}
                dropped += [value_BT for mark, value_BT in marks.items() if mark == DROPPED]
        return found | ({DROPPED: torch.stack(dropped).any(0)} if dropped else {})

    def supervised(self, experience: Experience) -> Supervised | None:
        """Supervised completions of all terms in one record; None: there are none. A collective."""
        given = [term.supervised(experience) for term in self._terms.values() if isinstance(term, Supervising)]
        parts = [part for part in given if part is not None]
        if len({part.rollouts.k for part in parts}) > 1:
            parts = [_groups_of_one(part) for part in parts]
        return join(parts) if parts else None

    def each(self, inputs: LossInputs) -> Iterator[tuple[Float[Tensor, ""], Means]]:
        """What each term adds to the loss of a micro-batch, and its metrics."""
        for name, term in self._terms.items():
            of_term = {key: mark_N for key, mark_N in inputs.marks.items() if key.startswith(f"{name}/")}
            own = {key.removeprefix(f"{name}/"): mark_N for key, mark_N in of_term.items()}
            yield term(replace(inputs, marks=own))

    def state_dict(self) -> dict[str, Any]:
        """State of the stateful terms by name; empty without any."""
        return {name: term.state_dict() for name, term in self._stateful().items()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take back what ``state_dict`` returned. Raises ConfigError for the state of other terms."""
        stateful = self._stateful()
        for name in sorted(state.keys() ^ stateful.keys()):
            has, lacks = ("the checkpoint's", "this run's") if name in state else ("this run's", "the checkpoint's")
            raise ConfigError(
                f"resume: {has} loss.terms.{name} has a state and {lacks} has none; resume with the same loss="
            )
        for name, term in stateful.items():
            term.load_state_dict(state[name])

    def _stateful(self) -> dict[str, Stateful]:
        return {name: term for name, term in self._terms.items() if isinstance(term, Stateful)}


def _groups_of_one(part: Supervised) -> Supervised:
    """The same completions, each with a prompt of its own."""
    rollouts = part.rollouts
    prompts = tuple(prompt for prompt in rollouts.prompts for _ in range(rollouts.k))
    return replace(part, rollouts=replace(rollouts, prompts=prompts, k=1))
