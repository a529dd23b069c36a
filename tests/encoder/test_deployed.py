"""The deployed form answers as the model does, whatever its shape."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from toys import cascade, encoder, examples

from bench.encoder import Cascade, Encoder
from bench.encoder.early.deployed import Batch, deploy
from bench.measuring.recording import model_inputs
from bench.tasks.examples import Examples

CPU = torch.device("cpu")


def trained(model: Encoder | Cascade) -> Encoder | Cascade:
    """Biases and norms as training leaves them, not at zero and one."""
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 1:
                parameter.add_(0.3 * torch.randn_like(parameter))
    return model


def same_answers(model: Encoder | Cascade, data: Examples, positions: np.ndarray, keep: np.ndarray | None = None):
    """All exits of the model and of its deployed form; beyond the first exit only the rows `keep` go on."""
    with torch.inference_mode():
        expected = model(**model_inputs(data, positions, CPU)).exit_logits
        going = deploy(model).begin(Batch.of(data, positions, CPU))
        rows = np.arange(len(positions))
        for e in range(model.exit_count):
            found = going.advance(e)
            torch.testing.assert_close(found, expected[e][rows], atol=1e-5, rtol=1e-5)
            if keep is not None and e == 0:
                rows = keep
                going.keep(keep)


@st.composite
def encoders(draw: st.DrawFn) -> Encoder:
    layers = draw(st.integers(1, 4))
    layout = draw(st.sampled_from(["bert", "modernbert"]))
    head_size = draw(st.sampled_from([3, 8] if layout == "bert" else [2, 8]))
    some = st.lists(st.integers(1, layers), unique=True)
    return trained(
        encoder(
            draw(st.integers(0, 9)),
            layout=layout,
            hidden_size=draw(st.sampled_from([12, 32])),
            head_size=head_size,
            heads=draw(st.lists(st.integers(1, 4), min_size=layers, max_size=layers)),
            ffn=draw(st.lists(st.integers(1, 50), min_size=layers, max_size=layers)),
            rank=draw(st.none() | st.integers(1, 12)),
            exits=sorted({*draw(some), layers}),
            head=draw(st.sampled_from(["tanh", "pooler", "own-pooler", "tinybert", "distilbert"])),
            pooling=draw(st.sampled_from(["cls", "mean"])),
            hidden_act=draw(st.sampled_from(["gelu", "relu", "gelu_new"])),
            type_vocab_size=draw(st.sampled_from([0, 2] if layout == "bert" else [0])),
            num_labels=draw(st.integers(1, 3)),
            initializer_range=0.1,
        )
    )


@settings(max_examples=80, deadline=None)
@given(encoders(), st.integers(1, 9), st.integers(1, 24), st.booleans(), st.data())
def test_every_shape_answers_the_same(model, count, longest, second, data):
    texts = examples(count, seed=longest, longest=max(3, longest))
    if longest < 3:  # the shortest there is
        texts = Examples(texts.idx, texts.labels, [ids[:longest] for ids in texts.input_ids], texts.segments)
    cut = [segment[: len(ids)] for segment, ids in zip(texts.segments, texts.input_ids, strict=True)]
    texts = Examples(texts.idx, texts.labels, texts.input_ids, cut if second else [[0] * len(s) for s in cut])
    keep = np.array(sorted(data.draw(st.sets(st.integers(0, count - 1), min_size=1))))
    same_answers(model, texts, np.arange(count))
    same_answers(model, texts, np.arange(count), keep)


@pytest.mark.parametrize("rows", [[0], [3, 4, 5], list(range(20))])
@pytest.mark.parametrize("pooling", ["cls", "mean"])
@pytest.mark.parametrize("layout", ["bert", "modernbert"])
def test_a_cascade_answers_the_same(rows, pooling, layout):
    same_answers(trained(cascade(pooling=pooling, layout=layout)), examples(20), np.array(rows), np.array([0]))


def test_large_tensors_take_the_other_gelu():
    model = trained(encoder(hidden_size=64, ffn=[900] * 3, initializer_range=0.05))
    same_answers(model, examples(12), np.arange(12))


def test_the_model_is_left_as_it_was():
    model = trained(encoder(pooling="mean", head="pooler"))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    deployed = deploy(model)
    with torch.inference_mode():
        going = deployed.begin(Batch.of(examples(4), np.arange(4), CPU))
        for e in range(model.exit_count):
            going.advance(e)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
