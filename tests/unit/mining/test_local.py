"""A tiny Llava of the real classes: it speaks rubbish, and the error says what came back."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from diffexplain.errors import ModelError
from diffexplain.mining.endpoint import image_part, text_part
from diffexplain.mining.ledger import Ledger
from diffexplain.mining.loading import load_model
from diffexplain.mining.local import LocalModel
from diffexplain.mining.questions import Groups, groups_asked
from tests.tiny import tiny_tokenizer

TEMPLATE = (
    "{% for m in messages %}{% for p in m['content'] %}"
    "{% if p['type'] == 'image' %}<image>{% else %}{{ p['text'] }}{% endif %}"
    "{% endfor %}{% endfor %}"
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from transformers import (
        CLIPImageProcessor,
        CLIPVisionConfig,
        LlamaConfig,
        LlavaConfig,
        LlavaForConditionalGeneration,
        LlavaProcessor,
    )

    path = tmp_path_factory.mktemp("llava")
    tokenizer = tiny_tokenizer()
    tokenizer.add_special_tokens({"additional_special_tokens": ["<image>"]})
    size = dict(hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2)
    config = LlavaConfig(
        vision_config=CLIPVisionConfig(image_size=16, patch_size=8, **size),
        text_config=LlamaConfig(
            vocab_size=len(tokenizer), max_position_embeddings=8192, num_key_value_heads=2, **size
        ),
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
        vision_feature_layer=-1,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        LlavaForConditionalGeneration(config).save_pretrained(path)
    pictures = CLIPImageProcessor(size={"shortest_edge": 16}, crop_size={"height": 16, "width": 16})
    LlavaProcessor(
        image_processor=pictures,
        tokenizer=tokenizer,
        patch_size=8,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=TEMPLATE,
    ).save_pretrained(path)
    return path


def test_it_answers_a_question_with_pictures(folder: Path) -> None:
    model = LocalModel(str(folder), max_tokens=8)
    picture = image_part(torch.rand(3, 16, 16, generator=torch.Generator().manual_seed(0)))
    answer = model.ask([{"role": "user", "content": [picture, text_part("what is it?")]}])
    assert isinstance(answer.text, str)
    assert 1 <= answer.tokens_out <= 8
    words = model.ask([{"role": "user", "content": "what is it?"}])
    assert answer.tokens_in == words.tokens_in + 4  # a picture of 2 × 2 patches
    assert model.ask([{"role": "user", "content": [picture, text_part("what is it?")]}]) == answer


def test_rubbish_ends_in_an_error_that_says_what_came_back(folder: Path, tmp_path: Path) -> None:
    model = LocalModel(str(folder), max_tokens=8)
    picture = image_part(torch.rand(3, 16, 16, generator=torch.Generator().manual_seed(0)))
    with pytest.raises(ModelError) as caught:
        Ledger(model, tmp_path).ask(groups_asked("birds", [picture]), Groups, "group pass 1")
    assert "no usable answer in 3 tries" in str(caught.value)
    said = str(caught.value).split("the last was ")[1].split("; try again")[0]
    assert len(said) > 2  # not nothing
    assert "\n" not in str(caught.value)


def test_a_spec_loads_it_and_a_folder_without_one_does_not(folder: Path, tmp_path: Path) -> None:
    assert load_model(f"transformers:{folder}").name == f"transformers:{folder}"
    with pytest.raises(ModelError, match="cannot be loaded"):
        load_model(f"transformers:{tmp_path}")


def test_without_a_chat_template_it_is_refused(folder: Path, tmp_path: Path) -> None:
    from transformers import AutoProcessor

    for file in folder.iterdir():
        if "template" not in file.name:
            (tmp_path / file.name).write_bytes(file.read_bytes())
    processor = AutoProcessor.from_pretrained(tmp_path)
    assert not getattr(processor, "chat_template", None)
    with pytest.raises(ModelError, match="has no chat template; choose an instruction-tuned one"):
        LocalModel(str(tmp_path))
