"""Data augmentation: which words are replaced, by what, how often; which copies are kept; which backbones can do it."""

import shutil
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch
from transformers import AutoTokenizer, BertConfig, BertForMaskedLM

from baselines.augmentation import CANDIDATES, Vocabulary, augmented
from bench.context import Context
from bench.encoder.backbones import load
from bench.encoder.masked_lm import has_head, with_head
from bench.errors import UserError
from bench.method import contestant
from bench.store import RunKey
from bench.tasks.batches import collate
from bench.tasks.examples import Examples


@pytest.fixture(scope="module")
def backbone(tmp_path_factory, tiny_backbone):
    """The tiny backbone's tokenizer beside a random BERT that kept its masked-language-modelling head."""
    folder = tmp_path_factory.mktemp("masked")
    for file in tiny_backbone.glob("*token*"):
        shutil.copy(file, folder)
    for file in tiny_backbone.glob("vocab*"):
        shutil.copy(file, folder)
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(AutoTokenizer.from_pretrained(folder)), hidden_size=48, num_hidden_layers=4,
        num_attention_heads=4, intermediate_size=96, max_position_embeddings=64, initializer_range=0.3,
    )  # fmt: skip
    BertForMaskedLM(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def tokenizer(backbone):
    return AutoTokenizer.from_pretrained(backbone)


@pytest.fixture(scope="module")
def model(backbone):
    encoder = load(str(backbone), num_labels=2, head="tinybert", pooling="cls")
    return with_head(encoder, str(backbone)).eval()


@pytest.fixture(scope="module")
def data(tiny_settings, tmp_path_factory, backbone):
    tiny = tiny_settings(tmp_path_factory.mktemp("data"), backbone={"name": str(backbone)})
    task = contestant(tiny, "teacher", "mrpc").task
    return Context(tiny, task, RunKey("mrpc", "teacher", "full", 0), tiny.results).train


def test_the_head_gives_the_logits_of_transformers(backbone, model, data):
    batch = collate([data[i] for i in range(6)])
    given = {name: batch[name] for name in ("input_ids", "attention_mask", "token_type_ids")}
    with torch.no_grad():
        expected = BertForMaskedLM.from_pretrained(backbone).eval()(**given).logits
        found = model.words(model(**given))
    real = batch["attention_mask"].bool()
    torch.testing.assert_close(found[real], expected[real], atol=1e-4, rtol=1e-4)


def sources(some: Examples, more: Examples) -> list[int]:
    """Return the position of each copy's original; row numbers are unique in `some`."""
    assert more.input_ids[: len(some)] == some.input_ids
    position = {idx: i for i, idx in enumerate(some.idx.tolist())}
    return [position[idx] for idx in more.idx.tolist()[len(some) :]]


@pytest.mark.parametrize("copies", [1, 3, 12])
def test_copies_follow_the_originals_and_inherit_everything_else(model, tokenizer, data, copies):
    some = data.take(range(40))
    more = augmented(model, tokenizer, some, copies, seed=0)
    of = [*range(40), *sources(some, more)]
    np.testing.assert_array_equal(more.labels, some.labels[of])
    np.testing.assert_array_equal(more.difficulty, some.difficulty[of])
    assert more.segments == [some.segments[i] for i in of]
    assert [len(ids) for ids in more.input_ids] == [len(some.input_ids[i]) for i in of]
    assert max(Counter(of[40:]).values()) <= 2 * copies
    assert augmented(model, tokenizer, some, copies, seed=0).input_ids == more.input_ids
    assert augmented(model, tokenizer, some, copies, seed=1).input_ids != more.input_ids


def test_a_copy_is_new_and_alters_one_sentence(model, tokenizer, data):
    some = data.take(range(60))
    more = augmented(model, tokenizer, some, 12, seed=3)
    of, altered_segments = sources(some, more), Counter()
    rows = [(i, *ids) for i, ids in zip([*range(60), *of], more.input_ids, strict=True)]
    assert len(set(rows)) == len(rows)
    for copy, i in zip(more.input_ids[60:], of, strict=True):
        changed = np.flatnonzero(np.array(copy) != np.array(some.input_ids[i]))
        segments = set(np.array(some.segments[i])[changed].tolist())
        assert len(segments) == 1
        altered_segments.update(segments)
    assert min(altered_segments[0], altered_segments[1]) > 0.3 * len(of)


def test_words_are_replaced_by_likely_words_and_the_rest_stays(model, tokenizer, data):
    some = data.take(range(30))
    vocabulary = Vocabulary.of(tokenizer)
    more = augmented(model, tokenizer, some, 8, seed=0)
    changed = expected = 0.0
    for copy, i in zip(more.input_ids[30:], sources(some, more), strict=True):
        ids, segments = np.array(some.input_ids[i]), np.array(some.segments[i])
        places, different = vocabulary.places(some.input_ids[i]), np.array(copy) != ids
        assert not different[np.setdiff1d(np.arange(len(ids)), places)].any()
        words = (segments[places] == segments[different][0]).sum()
        changed += different.sum()
        expected += 0.4 * words / (1 - 0.6**words)  # a copy in which nothing changed is dropped
    assert changed / expected == pytest.approx(1, abs=0.08)
    ids = some.input_ids[0]
    place = int(vocabulary.places(ids)[2])
    batch = collate([some[0]])
    batch["input_ids"][0, place] = tokenizer.mask_token_id
    with torch.no_grad():
        hidden = model(batch["input_ids"], batch["attention_mask"], batch["token_type_ids"])
        logits = model.words(hidden[0, place]).masked_fill(~torch.from_numpy(vocabulary.words), -torch.inf)
    likely = set(logits.topk(CANDIDATES).indices.tolist())
    many = augmented(model, tokenizer, some.take([0]), 200, seed=0)
    seen = {copy[place] for copy in many.input_ids}
    assert seen <= likely | {ids[place]} and len(seen) >= CANDIDATES - 1


def test_a_text_without_a_word_to_replace_has_no_copies(model, tokenizer, data):
    special = tokenizer.all_special_ids[-1]
    none = replace(data.take(range(3)), input_ids=[[special]] * 3, segments=[[0]] * 3)
    assert augmented(model, tokenizer, none, 5, seed=0).input_ids == none.input_ids


def test_stop_words_pieces_punctuation_and_special_tokens_are_never_replaced():
    class Tokenizer:
        all_special_ids = (0, 1)
        tokens = ("[CLS]", "[SEP]", "the", "run", "##ner", ".", "7", "[unused1]", "nil", "The", "t", "couldn")

        def __len__(self):
            return len(self.tokens)

        def convert_ids_to_tokens(self, ids):
            return [self.tokens[i] for i in ids]

    vocabulary = Vocabulary.of(Tokenizer())
    assert vocabulary.words.nonzero()[0].tolist() == [2, 3, 8, 9, 10, 11]
    assert vocabulary.stop.nonzero()[0].tolist() == [2, 9, 10, 11]
    #               [CLS] the run ##ner run . 7 nil The couldn t [SEP]: the first "run" goes on, the second does not
    assert vocabulary.places([0, 2, 3, 4, 3, 5, 6, 8, 9, 11, 10, 1]).tolist() == [4, 7]


def test_a_backbone_without_the_head_is_refused(tiny_settings, tiny_backbone, backbone, tmp_path):
    assert has_head(str(backbone)) and not has_head(str(tiny_backbone))
    options = {"sizes": {"2": {"layers": 2, "hidden": 24, "ffn": 48, "heads": 4}}, "augmentation": 2}

    def check(**sections):
        values = tiny_settings(tmp_path, **sections).model_dump()
        values["contestants"]["tinybert"]["options"] = options
        tiny = type(tiny_settings(tmp_path)).model_validate(values)
        contestant(tiny, "tinybert", "sst2").check()

    check(backbone={"name": str(backbone)})
    with pytest.raises(UserError, match="no masked-language-modelling head"):
        check()


def test_tinybert_trains_on_the_copies(tiny_settings, backbone, tmp_path):
    tiny = tiny_settings(tmp_path, backbone={"name": str(backbone)})
    values = tiny.model_dump()
    values["contestants"]["teacher"]["options"] |= {"epochs": 0.2}
    values["contestants"]["tinybert"]["options"] |= {
        "augmentation": 2, "representation_epochs": 0.1, "epochs": 0.1
    }  # fmt: skip
    tiny = type(tiny).model_validate(values)
    teacher = contestant(tiny, "teacher", "sst2")
    key = RunKey("sst2", "teacher", "full", 0)
    model = teacher.train(Context(tiny, teacher.task, key, tmp_path / "teacher"), "full")
    model.save_pretrained(tiny.root / "runs" / key.path / "model")
    made = contestant(tiny, "tinybert", "sst2")
    seen = []

    class Watched(Context):
        def fit(self, model, loss, plan, stage, *, select=False, train=None, **more):
            seen.append((stage, len(train)))
            return super().fit(model, loss, plan, stage, select=select, train=train, **more)

    context = Watched(tiny, made.task, RunKey("sst2", "tinybert", "2x24", 0), tmp_path / "state")
    made.train(context, "2x24")
    rows = {count for _, count in seen}
    assert [stage for stage, _ in seen] == ["representations", "predictions"] and len(rows) == 1
    told = {stage.examples for stage in made.stages("2x24", len(context.train))}
    assert told == {3 * len(context.train)}
    assert len(context.train) < rows.pop() <= told.pop()  # an upper bound: equal copies are dropped
