"""vLLM's own OpenAI server as the judge and as the encoder: a language model whose next word is a table."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx2
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from dqo.chat import Endpoint
from dqo.embed.remote import Remote
from dqo.errors import ConfigError
from dqo.reward.judge import Judge
from dqo.services import Calls
from tests.factories import make_rollouts, word_tokenizer
from tests.reward.tasks import PROMPTS, FixedPrompts

pytestmark = pytest.mark.slow
pytest.importorskip("vllm")
WORDS, SCORES = [f"w{n}" for n in range(1, 10)], [str(n) for n in range(1, 10)]
CALLS = {"concurrency": 4, "timeout": 60.0, "retries": 1, "patience": 10.0}


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    """A Llama whose one layer adds nothing: after the word w3 it says 3 and ends, after any other word it ends."""
    folder, tokenizer = tmp_path_factory.mktemp("model"), word_tokenizer([*WORDS, *SCORES])
    names = tokenizer.get_vocab()
    config = LlamaConfig(
        vocab_size=len(names), hidden_size=64, intermediate_size=64, num_hidden_layers=1, num_attention_heads=2,
        max_position_embeddings=256, pad_token_id=0, eos_token_id=1, bos_token_id=None, tie_word_embeddings=False,
    )  # fmt: skip
    llama = LlamaForCausalLM(config)
    with torch.no_grad():
        for layer in ("self_attn.o_proj", "mlp.down_proj"):
            llama.get_parameter(f"model.layers.0.{layer}.weight").zero_()
        llama.model.embed_tokens.weight.copy_(torch.eye(len(names), 64))
        llama.lm_head.weight.zero_()
        for name, token in names.items():
            following = SCORES[WORDS.index(name)] if name in WORDS else "<eos>"
            llama.lm_head.weight[names[following], token] = 10.0
    llama.save_pretrained(folder)
    tokenizer.chat_template = "{{ messages[-1].content }}"
    tokenizer.save_pretrained(folder)
    return folder


@contextmanager
def vllm_server(model: Path, *options: str) -> Iterator[str]:
    """The address of vLLM's OpenAI server of the model."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    more = {"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_NO_USAGE_STATS": "1", "VLLM_CPU_OMP_THREADS_BIND": "nobind"}
    command = [
        sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", str(model), "--served-model-name", "m",
        "--host", "127.0.0.1", "--port", str(port), "--dtype", "float32", "--enforce-eager", *options,
    ]  # fmt: skip
    with (model / "server.log").open("w+") as log:
        server = subprocess.Popen(
            command, env={**os.environ, **more, "HF_HUB_OFFLINE": "1"}, stdout=log, stderr=log, start_new_session=True
        )
        try:
            url = f"http://127.0.0.1:{port}"
            while not _is_there(url):
                assert server.poll() is None, (model / "server.log").read_text()[-3000:]
                time.sleep(0.5)
            yield f"{url}/v1"
        finally:
            os.killpg(server.pid, signal.SIGKILL)
            server.wait()


def _is_there(url: str) -> bool:
    try:
        return httpx2.get(f"{url}/health").is_success
    except httpx2.TransportError:
        return False


def test_vllm_s_server_judges(model, tmp_path):
    (tmp_path / "rubric").write_text("{{ completion }}")
    prompts = PROMPTS[:2]
    with vllm_server(model) as url:

        def judge(name: str) -> Judge:
            return Judge(
                FixedPrompts(prompts=prompts), endpoint=Endpoint(base_url=url, model=name, max_tokens=4, **CALLS),
                rubric_file=str(tmp_path / "rubric"), scale=[1.0, 9.0], temperature=0.0, repeats=1,
                price_per_million_in=None, price_per_million_out=None, cache_folder=None, on_unread="mask",
                correct_above=None, mask_truncated_completions=False,
            )  # fmt: skip

        scoring = judge("m")
        rewards = scoring.score(make_rollouts(["w1 w9", "w3", "other", "w5 w1", "w9", "w1 " * 400], 3, prompts=prompts))
        with pytest.raises(RuntimeError, match=r"HTTP 404: .*; type reward.model=NAME"):
            judge("other").score(make_rollouts(["w1"], 1, prompts=prompts[:1]))
    assert rewards.total_PK.tolist() == [[1.0, 0.25, 0.0], [0.0, 1.0, 0.0]]
    assert rewards.valid_PK.tolist() == [[True, True, False], [True, True, False]], "no score; longer than its context"
    counts = scoring.counters()
    assert counts["judge/unread"] == 2 and counts["judge/tokens_read"] >= 7 and counts["judge/requests"] >= 6


def test_vllm_s_server_embeds(model):
    with vllm_server(model, "--runner", "pooling", "--convert", "embed") as url:

        def encoder(name: str) -> Remote:
            return Remote(
                base_url=url, model=name, token_variable="NONE", dimensions=None, prefix="", normalize_text=[], batch=2,
                calls=Calls(**CALLS),
            )  # fmt: skip

        stage = encoder("m")
        found_PKD = stage.encode(make_rollouts(["w1 w9", "w3", "w9", "w2 w3"], 2))
        with pytest.raises(ConfigError, match=r"HTTP 404: .*; does it know embed.model=other\? Type embed.model=NAME"):
            encoder("other")
    cosines = found_PKD.flatten(0, 1) @ found_PKD.flatten(0, 1).T
    alike = torch.tensor([[1.0, 0, 1, 0], [0, 1, 0, 1]] * 2)
    torch.testing.assert_close(cosines, alike, atol=1e-5, rtol=0)  # it embeds a text's last token
