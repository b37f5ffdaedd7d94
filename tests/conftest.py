import pytest
import torch

from tests.factories import tiny_llama, word_tokenizer


@pytest.fixture(autouse=True)
def one_thread():
    """Small models are slower on two threads than on one, and results repeat."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def tokenizer():
    return word_tokenizer()


@pytest.fixture
def policy():
    return tiny_llama()
