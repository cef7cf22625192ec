import torch
import torch.nn.functional as F
from model_doubles import BLANK, BOS, EOS, MELS, VOCABULARY

from kd_ray.config.model import Recognizer
from kd_ray.models.decoding import attention_greedy, ctc_greedy
from kd_ray.models.recognizer import RecognizerModel


def test_four_random_utterances_can_be_learned_by_both_heads() -> None:
    torch.manual_seed(0)
    config = Recognizer.model_validate(
        {
            "front_end": {"num_mels": MELS},
            "encoder": {
                "cnn_channels": [8, 8],
                "rnn_layers": 1,
                "rnn_size": 24,
                "dnn_size": 32,
                "dropout": 0,
            },
            "decoder": {
                "embedding_size": 16,
                "hidden_size": 32,
                "attention_size": 32,
                "dropout": 0,
            },
        }
    )
    model = RecognizerModel(config, vocabulary_size=VOCABULARY, blank=BLANK, bos=BOS, eos=EOS)
    features, lengths = torch.randn(4, 40, MELS), torch.tensor([40, 28, 32, 36])
    labels, label_lengths = torch.randint(3, VOCABULARY, (4, 5)), torch.tensor([5, 3, 4, 5])
    ends = torch.cat([labels, torch.zeros(4, 1, dtype=torch.int64)], dim=1)
    ends[torch.arange(4), label_lengths] = EOS
    ends[torch.arange(6) > label_lengths.unsqueeze(1)] = -100
    references = [
        row[:length].tolist() for row, length in zip(labels, label_lengths.tolist(), strict=True)
    ]
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    for _ in range(60):
        out = model(model.normalize(features, lengths), lengths, labels, label_lengths)
        ctc = F.ctc_loss(
            out.ctc_logits.log_softmax(-1).transpose(0, 1), labels, out.ctc_lengths, label_lengths
        )
        loss = ctc + F.cross_entropy(out.decoder_logits.flatten(0, 1), ends.flatten())
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 5.0)
        optimizer.step()
    model.eval()
    encoded = model.encode(model.normalize(features, lengths), lengths)
    assert ctc_greedy(model.ctc_logits(encoded), encoded.lengths, BLANK) == references
    assert attention_greedy(model, encoded, torch.full((4,), 10)) == references
