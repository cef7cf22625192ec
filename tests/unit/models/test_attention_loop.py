import torch
from model_doubles import tiny_model

from kd_ray.models.attention_loop import _AttentionLoop
from kd_ray.models.encoders import Encoded


def test_hand_written_loop_gradient_is_the_numerical_one() -> None:
    torch.manual_seed(0)
    steps, rows, frames, features, size, attention, width = 3, 2, 4, 2, 2, 3, 3

    def random(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, dtype=torch.float64, requires_grad=True)

    barrier = torch.zeros(rows, frames, dtype=torch.float64)
    barrier[1, 3:] = -torch.inf
    first = torch.zeros_like(barrier)
    first[:, 0] = 1
    inputs = (
        random(steps, rows, 3 * size),
        random(rows, frames, features),
        random(rows, frames, attention),
        barrier,
        first,
        random(3 * size, features),
        random(3 * size, size),
        random(3 * size),
        random(attention, size),
        random(attention, width),
        random(attention),
    )
    assert torch.autograd.gradcheck(_AttentionLoop.apply, inputs, fast_mode=True)


def test_teacher_forced_loop_is_step_after_step_with_the_same_gradients() -> None:
    model = tiny_model().double()
    decoder = model.decoder
    states = torch.randn(3, 6, model.encoder.output_size, dtype=torch.float64, requires_grad=True)
    encoded = Encoded(states, torch.tensor([6, 2, 4]))
    tokens = torch.randint(1, model.vocabulary_size, (3, 5))
    tensors = [states, *decoder.parameters()]

    looped = decoder(encoded, tokens)
    memory = decoder.memory(encoded)
    state = decoder.initial_state(memory)
    steps = []
    for position in range(5):
        state = decoder.step(decoder.read(tokens[:, position]), state, memory)
        steps.append(decoder.logits(state.hidden, state.context))
    stepped = torch.stack(steps, dim=1)

    torch.testing.assert_close(looped, stepped, rtol=0, atol=1e-12)
    weights = torch.randn_like(looped)
    ours = torch.autograd.grad((looped * weights).sum(), tensors)
    theirs = torch.autograd.grad((stepped * weights).sum(), tensors)
    for mine, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, other, rtol=0, atol=1e-10)


def test_alignment_is_a_distribution_over_own_frames() -> None:
    model = tiny_model()
    encoded = Encoded(torch.randn(2, 6, model.encoder.output_size), torch.tensor([6, 2]))
    memory = model.decoder.memory(encoded)
    state = model.decoder.initial_state(memory)
    for token in (1, 5, 7):
        state = model.decoder.step(model.decoder.read(torch.tensor([token] * 2)), state, memory)
        torch.testing.assert_close(state.alignment.sum(1), torch.ones(2))
        assert state.alignment[1, 2:].abs().max() == 0


def test_score_by_sigmoid_is_the_papers_tanh_attention() -> None:
    torch.manual_seed(1)
    energy, score = torch.randn(2, 5, 4, dtype=torch.float64), torch.randn(4, dtype=torch.float64)
    by_tanh = torch.softmax(torch.tanh(energy) @ score, dim=1)
    by_sigmoid = torch.softmax(torch.sigmoid(2 * energy) @ (2 * score), dim=1)
    torch.testing.assert_close(by_sigmoid, by_tanh, rtol=0, atol=1e-12)
