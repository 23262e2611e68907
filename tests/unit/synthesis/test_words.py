"""Words of soft prompts: neighbours against brute force, hard prompts against every prompt there is."""

from __future__ import annotations

import base64
import io
from dataclasses import replace
from functools import cache

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from torch.nn import functional as F

from diffexplain.editors.generator import Generator, load_generator
from diffexplain.errors import EditorError, InputError
from diffexplain.synthesis import SynthesisOptions
from diffexplain.synthesis.blanks import (
    BlankOptions,
    LanguageModel,
    _PseudoLabel,
    gumbel_words,
    load_language_model,
    masked_prompt,
    shared_words,
)
from diffexplain.synthesis.optimisation import optimisation_seeds
from diffexplain.synthesis.telling import captions, report
from diffexplain.synthesis.words import (
    _shortest,
    hard_prompt,
    nearest_words,
    noises,
    pooled_losses,
    typed_words,
)
from diffexplain.targets import ClassObjective, class_objective
from tests.tiny import tiny_pipeline_folder

OPTIONS = SynthesisOptions(
    tokens=1, text="a", word="p", steps=12, rate=1.0, restarts=2, seeds=2, pool=4, mode="detached"
)


@pytest.fixture(scope="module")
def generator(tmp_path_factory) -> Generator:
    folder = tiny_pipeline_folder(tmp_path_factory.mktemp("tiny"))
    return load_generator(str(folder), steps=2)


@cache
def brightness() -> ClassObjective:
    """Log-odds: how bright the picture is, strongly."""
    from diffexplain.classifiers.modules import ModuleClassifier

    class Bright(torch.nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return 40 * (images.mean((1, 2, 3), keepdim=False)[:, None] - 0.5)

    return class_objective(ModuleClassifier(Bright(), ("dark", "bright")), "bright")


def test_nearest_words_are_those_of_brute_force(generator):
    tokens, table = typed_words(generator)
    soft = torch.randn(3, table.shape[1], generator=torch.Generator().manual_seed(0))
    found = nearest_words(generator, soft, k=4)
    for row, neighbours in zip(soft, found, strict=True):
        distances = {t: 1 - float(F.cosine_similarity(row, e, dim=0)) for t, e in zip(tokens, table)}  # noqa: B905
        best = sorted(distances, key=distances.__getitem__)[:4]
        assert [w.token for w in neighbours.words] == best
        assert [w.distance for w in neighbours.words] == pytest.approx([distances[t] for t in best], abs=1e-5)
        assert neighbours.pieces == ()


def test_a_words_own_embedding_is_nearest_to_itself_and_pieces_stand_apart(generator):
    soft = generator.embedding("q")
    (found,) = nearest_words(generator, 3.0 * soft, k=2)
    assert found.words[0].token == "q"
    assert found.words[0].distance == pytest.approx(0, abs=1e-6)
    (apart,) = nearest_words(generator, soft, k=2, among={"a", "b", "c"})
    assert {w.token for w in apart.words} <= {"a", "b", "c"}
    assert apart.pieces[0].token == "q"
    with pytest.raises(InputError, match="k is 0"):
        nearest_words(generator, soft, k=0)


def test_hard_prompt_is_among_the_best_of_all_words(generator):
    tokens, table = typed_words(generator)
    found = hard_prompt(generator, brightness(), OPTIONS)
    every = pooled_losses(generator, brightness(), table[:, None], "a", OPTIONS).mean(1)
    assert found.loss == pytest.approx(float(every[tokens.index(found.words[0])]), rel=1e-3)
    assert found.loss <= float(every.quantile(0.25))
    assert found.text == f"a {found.words[0]}"
    assert len(found.curve) == OPTIONS.steps
    assert 2 <= found.tried <= OPTIONS.steps * OPTIONS.restarts


def test_words_are_those_that_can_be_typed(generator):
    tokens, table = typed_words(generator)
    assert tokens == list("abcdefghijklmnopqrstuvwxyz")  # the vocabulary has the capitals too
    assert len(generator.vocabulary[0]) == 26
    for token, row in zip(tokens, table, strict=True):
        assert torch.equal(generator.embedding(token)[0], row)


def test_hard_prompt_reads_as_typed(generator):
    """The words as a typed prompt make the pictures that were scored."""
    found = hard_prompt(generator, brightness(), OPTIONS)
    images = generator.images(generator.prompts([found.text] * 4), noises(OPTIONS))
    assert float(brightness().loss(images).mean()) == pytest.approx(found.loss, rel=1e-3)


def test_hard_prompt_sets_out_from_a_soft_one(generator):
    """Without a step beyond the first, the words are those nearest to it, less what it does not take."""
    tokens, table = typed_words(generator)
    every = pooled_losses(generator, brightness(), table[:, None], "a", OPTIONS).mean(1)
    best = int(every.argmin())
    found = hard_prompt(generator, brightness(), replace(OPTIONS, steps=1, restarts=1), start=table[[best]])
    assert found.words == (tokens[best],)


def test_shortest_prompt_keeps_what_it_takes_and_drops_the_rest():
    """Words 1 and 4 each halve the loss; word 2 helps less than chance would; the others do nothing."""
    chance = torch.linspace(-0.1, 0.1, 16).double()
    asked = []

    def losses(key):
        asked.append(key)
        return 4.0 * 0.5 ** len({1, 4} & set(key)) - 0.01 * (2 in key) + chance

    found, loss = _shortest((3, 4, 2, 1, 4, 0), losses)
    assert found == (4, 1)  # in their order
    assert loss == pytest.approx(1.0)
    assert len(asked) == len(set(asked)) == 5 + 5 + 1 - 1  # one is both without a word and a shorter one


def test_a_prompt_whose_loss_is_no_number_stays_as_it_is():
    found, loss = _shortest((3, 4), lambda key: torch.full((16,), torch.nan))
    assert found == (3, 4)
    assert loss != loss


@given(st.lists(st.integers(0, 5), min_size=1, max_size=8), st.integers(0, 2**20))
def test_shortest_prompt_is_hardly_worse_than_the_prompt_itself(key, seed):
    def losses(some):
        return torch.rand(16, generator=torch.Generator().manual_seed(hash((some, seed)) % 2**31)).double()

    found, loss = _shortest(tuple(key), losses)
    assert set(found) <= set(key)
    assert loss == pytest.approx(float(losses(found).mean()))
    assert loss <= float(losses(tuple(key)).mean()) + 0.25  # differences of at most 1 have no larger error


# -- blanks ---------------------------------------------------------------------------------------------


def tiny_bert() -> LanguageModel:
    """A random BertForMaskedLM that knows the letters, a few words and word pieces."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
    from transformers import BertConfig, BertForMaskedLM, PreTrainedTokenizerFast

    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "picture", "of", "with", "##s", "##b"]
    vocabulary = {w: i for i, w in enumerate([*words, *"abcdefghij"])}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        unk_token="[UNK]",
        pad_token="[PAD]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        mask_token="[MASK]",
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        config = BertConfig(
            vocab_size=len(vocabulary),
            hidden_size=16,
            num_hidden_layers=2,
            num_attention_heads=2,
            intermediate_size=32,
            max_position_embeddings=40,
        )
        model = BertForMaskedLM(config).eval().requires_grad_(False)
    return LanguageModel(model, fast)


def test_shared_words_leave_out_pieces_and_specials(generator):
    tokens = generator.vocabulary[0]
    shared = shared_words(tiny_bert().tokenizer, tokens)
    assert [word for word, _, _ in shared] == list("abcdefghij")
    for word, theirs, ours in shared:
        assert tiny_bert().tokenizer.convert_ids_to_tokens(theirs) == word
        assert tokens[ours] == word


def test_blanks_are_filled_with_some_of_the_best_words(generator):
    options = SynthesisOptions(steps=14, rate=1.0, restarts=2, seeds=2, pool=4)
    found = masked_prompt(generator, brightness(), tiny_bert(), template="a [MASK]", options=options)
    tokens, table = typed_words(generator)
    letters = [tokens.index(w) for w in "abcdefghij"]
    every = pooled_losses(generator, brightness(), table[letters][:, None], "a", options).mean(1)
    assert found.words[0] in "abcdefghij"
    assert found.loss <= float(every.median())
    assert found.text == f"a {found.words[0]}"


def test_words_between_blanks_stay_as_they_are(generator):
    options = SynthesisOptions(steps=2, restarts=1, seeds=1, pool=2)
    template = "a [MASK] with [MASK]"
    found = masked_prompt(generator, brightness(), tiny_bert(), template=template, options=options)
    first, second = found.words
    assert found.text == f"a {first} with {second}"
    images = generator.images(generator.prompts([found.text] * 2), noises(options))
    assert float(brightness().loss(images).mean()) == pytest.approx(found.loss, rel=1e-3)


def test_blanks_bad_input(generator, tmp_path):
    with pytest.raises(InputError, match=r"no \[MASK\]"):
        masked_prompt(generator, brightness(), tiny_bert(), template="a picture")
    with pytest.raises(InputError, match="temperature above 0"):
        BlankOptions(temperature=0)
    with pytest.raises(EditorError, match=r"language model .* cannot be loaded"):
        load_language_model(str(tmp_path))


def test_a_language_model_is_loaded_from_its_folder(tmp_path):
    made = tiny_bert()
    made.model.save_pretrained(tmp_path)
    made.tokenizer.save_pretrained(tmp_path)
    loaded = load_language_model(str(tmp_path))
    assert loaded.tokenizer.mask_token == "[MASK]"
    torch.testing.assert_close(
        loaded.model.get_input_embeddings().weight, made.model.get_input_embeddings().weight
    )


def test_gumbel_words_are_drawn_as_the_softmax_says():
    logits = torch.tensor([0.5, 0.2, 0.3]).log().requires_grad_()
    drawn = gumbel_words(logits.expand(20_000, 3), 1.0, torch.Generator().manual_seed(0))
    assert set(drawn.detach().round(decimals=4).unique().tolist()) == {0.0, 1.0}
    torch.testing.assert_close(drawn.mean(0).detach(), torch.tensor([0.5, 0.2, 0.3]), atol=0.015, rtol=0)
    drawn[:, 0].mean().backward()
    assert logits.grad[0] > 0 > logits.grad[1]


def test_pseudo_labels_follow_what_does_better_and_never_return():
    label = _PseudoLabel()
    label.heard((1,), 1.0)
    label.heard((1,), 3.0)  # its mean is now 2
    label.heard((2,), 2.5)
    assert label.words == (1,)
    label.heard((3,), 1.5)
    assert label.words == (3,)
    label.heard((1,), 0.1)  # was one before
    assert label.words == (3,)
    label.heard((4,), float("nan"))
    assert label.words == (3,)


@given(st.integers(1, 40), st.integers(1, 4), st.integers(1, 3))
def test_every_noise_of_the_pool_has_its_turn(step, seeds, times):
    options = SynthesisOptions(seeds=seeds, pool=seeds * times, seed=5)
    assert len(noises(options, step)) == seeds
    met = {s for i in range(step, step + times) for s in noises(options, i)}
    assert met == set(noises(options)) == set(optimisation_seeds(seeds * times, 5))


# -- sentences ------------------------------------------------------------------------------------------


def test_captions_and_reports_show_the_pictures():
    heard = []

    def ask(messages):
        heard.append(messages)
        return "  A red\nsquare. "

    images = torch.zeros(2, 3, 4, 4)
    images[:, 0] = 1
    assert captions(images, ask) == ["A red square."] * 2
    assert report("square", images, ask, words=("red",)) == "A red square."
    (message,) = heard[-1]
    text, *pictures = message["content"]
    assert "'square'" in text["text"]
    assert "red" in text["text"]
    assert len(pictures) == 2
    data = pictures[0]["image_url"]["url"].removeprefix("data:image/png;base64,")
    assert Image.open(io.BytesIO(base64.b64decode(data))).getpixel((0, 0)) == (255, 0, 0)
    with pytest.raises(InputError, match="no images"):
        report("square", images[:0], ask)
