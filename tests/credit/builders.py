"""Credits with the values of their YAML files."""

from dqo.credit.clusters.comparison import Comparison, Sameness
from dqo.credit.dpp import Dpp, Embedding, Precision, Quality
from dqo.credit.gating.gate import Gate, Gating
from dqo.dpp import Kernel
from dqo.embed.fake import Fake
from dqo.references import References
from tests.factories import word_tokenizer
from tests.helpers.toy_stages import CountingTask


def dpp(gate=Gate.none, threshold=None, *, references=None, samples=5, **changes):
    keys = {
        "embedding": Embedding.plain, "kernel": Kernel.cosine, "sigma": 0.4, "degree": 2, "offset": 0.0,
        "quality": Quality.none, "quality_temperature": 1.0, "dtype": Precision.float32,
    }  # fmt: skip
    gating = Gating(gate=gate, threshold=threshold, reference_samples=samples)
    return Dpp(references or References(), **(keys | changes), gating=gating)


def gated(cls, gate=Gate.none, threshold=None, **keys):
    """A credit of a class with a gate."""
    return cls(References(), **keys, gating=Gating(gate=gate, threshold=threshold))


def comparison(by=Sameness.key, **changes):
    keys = {
        "similarity": 0.8, "base_url": None, "model": None, "concurrency": 8, "retries": 0, "timeout": 5.0,
        "patience": 0.0, "max_tokens": 64,
    }  # fmt: skip
    return Comparison(by=by, **(keys | changes))


def available():
    """What the program hands over to a credit by name."""
    return {"references": References(), "task": CountingTask(), "embed": Fake(dim=64), "tokenizer": word_tokenizer()}
