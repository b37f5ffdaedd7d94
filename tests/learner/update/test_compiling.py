import logging
import re

import pytest
import torch

from dqo.learner.update.compiling import compile_layers, compiled_graphs, is_compiled
from dqo.learner.update.forms import Form, fastest_form
from dqo.learner.update.reference import Reference
from tests.factories import make_experience, tiny_llama
from tests.learner.builders import CPU, Recorder, assert_same, gradient, learn, make_learner, tiny_qwen2


@pytest.fixture
def log(caplog):
    caplog.set_level(logging.INFO, "dqo")
    return lambda: [record.getMessage() for record in caplog.records if "so far" not in record.getMessage()]


@pytest.fixture(autouse=True)
def forget_graphs():
    """Graphs of other tests would count towards torch's limit."""
    torch.compiler.reset()


@pytest.mark.slow
def test_compiled_layers_learn_the_same(log):
    experience = make_experience(prompts=3, k=4)
    expected, got = (gradient(tiny_llama(), experience, compile=on, budget=40) for on in (False, True))
    assert_same(got, expected, atol=1e-5)
    assert log() == []


@pytest.mark.slow
@pytest.mark.parametrize("shared_prompt", [True, False])
def test_compiled_layers_with_adapters_that_recompute_their_activations_learn_the_same(shared_prompt):
    gradients = []
    for compiles in (False, True):
        recorder = Recorder()
        learner = make_learner(
            tiny_qwen2(), optim=recorder, lora_r=2, gradient_checkpointing=True, shared_prompt=shared_prompt, budget=40
        )
        if compiles:
            assert compile_layers(learner.model, learner.form, CPU, bf16=False, backend="aot_eager")
        learn(learner, make_experience(prompts=3, k=4))
        gradients += recorder.gradients
    assert_same(*gradients, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("make", [tiny_llama, tiny_qwen2])
def test_new_shapes_are_not_compiled_again(make):
    """The first two shapes have several sequences and one: all others take the same graphs."""
    policy = make()
    assert compile_layers(policy, Form.PLAIN, CPU, bf16=False, backend="aot_eager")
    for stance, shapes in (("default", [(3, 9), (1, 7)]), ("fail_on_recompile", [(2, 5), (1, 12), (7, 30), (1, 64)])):
        with torch.compiler.set_stance(stance):
            for shape in shapes:
                policy(input_ids=torch.full(shape, 3), use_cache=False).logits.sum().backward()
    assert compiled_graphs() > 0


@pytest.mark.slow
def test_a_run_compiles_a_few_graphs_for_all_its_steps():
    learner = make_learner(tiny_llama(), compile=True, budget=40)
    graphs = [
        learn(learner, make_experience(prompts=p, k=k, words=words, seed=seed))["update/compiled_graphs"]
        for seed, (p, k, words) in enumerate([(3, 4, 6), (2, 5, 9), (1, 2, 5), (4, 3, 12)])
    ]
    assert graphs[0] > 0
    assert graphs[1:] == graphs[1:2] * 3
    of_another = learn(make_learner(tiny_llama()), make_experience(prompts=3, k=4))
    assert of_another["update/compiled_graphs"] == 0


def test_names_stay_and_the_reference_is_compiled_too():
    policy = tiny_llama()
    names = list(policy.state_dict())
    assert compile_layers(policy, Form.PLAIN, CPU, bf16=False, backend="eager")
    assert is_compiled(policy) and list(policy.state_dict()) == names
    reference = Reference(policy)
    assert reference.copy is not None and is_compiled(reference.copy)


def wrong_values(graph, inputs):
    return lambda *given: [1.1 * out if isinstance(out, torch.Tensor) else out for out in graph(*given)]


def wrong_gradients(graph, inputs):
    def scaled(out):
        return out + 0.1 * (out - out.detach()) if isinstance(out, torch.Tensor) and out.requires_grad else out

    return lambda *given: [scaled(out) for out in graph(*given)]


def without_compiler(graph, inputs):
    raise RuntimeError("Failed to find C compiler")


FAULTS = {
    "wrong values": (wrong_values, "gives log-probabilities that are .* nats off"),
    "wrong gradients": (wrong_gradients, "gives gradients that are .* of their length off"),
    "no compiler": (without_compiler, "cannot be computed .*Failed to find C compiler"),
}


@pytest.mark.parametrize("case", FAULTS)
def test_a_model_that_cannot_be_compiled_is_computed_as_before_and_one_line_says_so(case, log):
    backend, why = FAULTS[case]
    policy = tiny_llama()
    assert not compile_layers(policy, Form.PLAIN, CPU, bf16=False, backend=backend)
    (line,) = log()
    assert re.search(f"^learner.compile has no effect: LlamaForCausalLM, compiled, {why}", line)
    assert not is_compiled(policy)


def test_a_model_without_transformers_layers_is_not_compiled(log):
    policy = tiny_llama()
    policy.model.layers = torch.nn.ModuleList()
    assert not compile_layers(policy, Form.PLAIN, CPU, bf16=False)
    assert log() == ["learner.compile has no effect: LlamaForCausalLM has no layers of transformers' own class"]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("form", [Form.FLEX, Form.PLAIN])
@pytest.mark.parametrize("bf16", [False, True])
def test_on_a_gpu_compiled_layers_give_the_same(form, bf16, log):
    """The trial is the test; the kernels' own shapes need heads at least 16 wide, as tiny_llama's are."""
    device = torch.device("cuda")
    policy = tiny_llama().to(device=device)
    assert fastest_form(policy, device, shared_prompt=True, bf16=bf16) is Form.FLEX
    assert compile_layers(policy, form, device, bf16=bf16)
    assert log() == []
