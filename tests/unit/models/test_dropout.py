import torch

from kd_ray.models.dropout import dropout


def test_dropout_keeps_the_mean_and_drops_its_share() -> None:
    torch.manual_seed(0)
    out = dropout(torch.ones(1000, 101), 0.15, training=True)
    assert abs((out == 0).float().mean().item() - 0.15) < 0.005
    assert abs(out.mean().item() - 1) < 0.01
    assert len(out.unique()) == 2


def test_dropout_treats_each_byte_of_a_word_alike() -> None:
    torch.manual_seed(0)
    dropped = (dropout(torch.ones(20000, 8), 0.5, training=True) == 0).float().mean(0)
    assert (dropped - 0.5).abs().max() < 0.02


def test_gradient_passes_where_the_value_does() -> None:
    torch.manual_seed(0)
    x = torch.randn(50, requires_grad=True)
    out = dropout(x, 0.5, training=True)
    (gradient,) = torch.autograd.grad(out.sum(), x)
    torch.testing.assert_close(gradient * x, out)


def test_dropout_is_seeded_and_off_in_evaluation() -> None:
    x = torch.randn(40)
    torch.manual_seed(4)
    first = dropout(x, 0.3, training=True)
    torch.manual_seed(4)
    assert torch.equal(first, dropout(x, 0.3, training=True))
    assert dropout(x, 0.3, training=False) is x
