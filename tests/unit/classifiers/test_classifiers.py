"""Any classifier behind one protocol: real networks, real files, and answers that are not to be trusted."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import kstest
from torch import nn
from torch.nn import functional
from transformers.modeling_outputs import ImageClassifierOutput

from diffexplain import pocket
from diffexplain.classifiers import (
    Classifier,
    checked_logits,
    foresee_classifier,
    head_of,
    load_classifier,
    notes_of,
    white_box,
)
from diffexplain.classifiers.base import ROWS
from diffexplain.classifiers.labels import label_names, unique
from diffexplain.classifiers.modules import CallableClassifier, ModuleClassifier
from diffexplain.classifiers.null import NullClassifier
from diffexplain.errors import ClassifierError
from training import classifiers as training

LABELS = ["cat", "dog", "owl"]
PICTURES = torch.rand(5, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def refused(spec: Any) -> str:
    """What loading this says: always one line."""
    with pytest.raises(ClassifierError) as caught:
        load_classifier(spec)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def unusable(function: Callable[..., Any], labels: list[str] | None = None) -> str:
    """What asking this says: one line that names the classifier."""
    with pytest.raises(ClassifierError) as caught:
        checked_logits(CallableClassifier(function, labels, name="mine:f"), PICTURES)
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith("classifier 'mine:f' r")
    return str(caught.value)


# -- timm folders -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def network() -> nn.Module:
    """A real network whose answers differ from picture to picture; weights as they are kept, in fp16."""
    torch.manual_seed(0)
    module = training.build("test_resnet", 3).eval().requires_grad_(False)
    module.get_classifier().weight.mul_(100)
    return module.half().float()


@pytest.fixture
def folder(network: nn.Module, tmp_path: Path) -> Path:
    training.save(network, "test_resnet", 32, {"label_names": LABELS, "target": "dog"}, tmp_path / "tiny")
    return tmp_path / "tiny"


def test_a_timm_folder_gives_the_networks_logits(folder: Path, network: nn.Module) -> None:
    spec = f"timm:{folder}"
    model = load_classifier(spec)
    assert isinstance(model, Classifier)
    assert (model.name, model.labels) == (spec, tuple(LABELS))
    expected = network((PICTURES - 0.5) / 0.5).double()
    assert expected.std(0).min() > 0.01
    torch.testing.assert_close(checked_logits(model, PICTURES), expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("shape", [(64, 64), (33, 33), (16, 16), (1, 1)])
def test_pictures_are_resized_to_the_networks_size(
    folder: Path, network: nn.Module, shape: tuple[int, int]
) -> None:
    pictures = torch.rand(3, 3, *shape)
    small = functional.interpolate(pictures, (32, 32), mode="bicubic", antialias=True).clamp(0, 1)
    expected = network((small - 0.5) / 0.5).double()
    answer = checked_logits(load_classifier(f"timm:{folder}"), pictures)
    torch.testing.assert_close(answer, expected, atol=1e-4, rtol=1e-4)


def test_scores_are_bit_identical_whatever_the_batch(folder: Path) -> None:
    model = load_classifier(f"timm:{folder}")
    together = checked_logits(model, PICTURES)
    for i, picture in enumerate(PICTURES):
        assert torch.equal(checked_logits(model, picture[None])[0], together[i])
    assert torch.equal(checked_logits(model, PICTURES.flip(0)).flip(0), together)


def test_arguments_of_the_architecture_are_kept(tmp_path: Path) -> None:
    options = {"channels": [8, 8, 16, 16], "stem_width": 8}
    small = timm.create_model("resnet10t", num_classes=3, **options)
    training.save(small, "resnet10t", 32, {"label_names": LABELS, "model_args": options}, tmp_path / "small")
    model = load_classifier(f"timm:{tmp_path / 'small'}")
    expected = small.eval()((PICTURES - 0.5) / 0.5).detach().double()
    torch.testing.assert_close(checked_logits(model, PICTURES), expected, atol=0.02, rtol=0.02)


def change(folder: Path, **changes: Any) -> None:
    file = folder / "config.json"
    kept = {k: v for k, v in (json.loads(file.read_text()) | changes).items() if v is not None}
    file.write_text(json.dumps(kept))


def test_labels_that_are_not_named_are_numbers(folder: Path) -> None:
    change(folder, label_names=None)
    assert load_classifier(f"timm:{folder}").labels == ("0", "1", "2")


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (lambda f: (f / "model.safetensors").unlink(), "FileNotFoundError: No such file"),
        (lambda f: (f / "model.safetensors").write_bytes(b"\x80\x04pickle"), "SafetensorError"),
        (lambda f: (f / "config.json").write_text("{"), "JSONDecodeError"),
        (lambda f: change(f, architecture="resnet_of_dreams"), "Unknown model (resnet_of_dreams)"),
        (lambda f: change(f, architecture="test_vit"), "RuntimeError: Error(s) in loading state_dict"),
        (lambda f: change(f, pretrained_cfg=None), "KeyError: 'pretrained_cfg'"),
    ],
    ids=["no weights", "pickle", "not JSON", "unknown", "does not fit", "no preprocessing"],
)
def test_a_damaged_folder_says_what_is_wrong(folder: Path, damage: Callable[[Path], None], says: str) -> None:
    damage(folder)
    message = refused(f"timm:{folder}")
    assert says in message
    assert message.endswith(f"{folder} needs a timm config.json and the model.safetensors that fits it")


# -- names that do not exist --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        (
            "",
            "no classifier ''; a classifier is one of pocket:NAME, timm:NAME[@FILE.safetensors], timm:hf-hub",
        ),
        ("hired", "no classifier 'hired'; a classifier is one of pocket:NAME"),
        ("pocket:", "no classifier 'pocket:'; a classifier is one of"),
        ("hf:", "no classifier 'hf:'; a classifier is one of"),
        ("https:host/predict", "no classifier 'https:host/predict'; a classifier is one of"),
        ("http://", "no classifier 'http://'; give http://HOST/PATH or https://HOST/PATH"),
        ("models/my.py:f", "no classifier 'models/my.py:f'; a classifier is one of"),
        ("timm:resnet_of_dreams", "timm cannot load 'resnet_of_dreams': Unknown model (resnet_of_dreams)"),
        ("pocket:null:seven", "'pocket:null:seven': the key after pocket:null: is a whole number"),
        (f"pocket:null:{2**70}", "the key after pocket:null: is a whole number below"),
        (3.5, "a classifier is a spec string, a module or a function, not float"),
        (None, "a classifier is a spec string, a module or a function, not NoneType"),
    ],
)
def test_an_unknown_spec_says_what_there_is(spec: Any, says: str) -> None:
    assert says in refused(spec)


def test_an_unknown_pocket_name_lists_the_names() -> None:
    listed = ", ".join(pocket.classifiers())
    assert listed.endswith("null")
    assert refused("pocket:hird").startswith(f"no classifier 'pocket:hird'; there are {listed}")
    assert refused("pocket:../../secret").startswith("no classifier 'pocket:../../secret'; there are")


# -- modules in hand ----------------------------------------------------------------------------------


class Means(nn.Module):
    """Logits are the mean colours; the weight and the dropout tell whether it was left as it was."""

    label_names = ("red", "green", "blue")

    def __init__(self, wrap: Callable[[torch.Tensor], Any] = lambda z: z) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(3))
        self.drop = nn.Dropout(0.5)
        self.wrap = wrap

    def forward(self, x: torch.Tensor) -> Any:
        return self.wrap(self.drop(x.mean((2, 3)) * self.weight))


MEANS = PICTURES.mean((2, 3)).double()


def test_a_module_is_asked_with_its_preprocessing() -> None:
    mean, std = [0.4, 0.5, 0.6], [0.1, 0.2, 0.5]
    model = ModuleClassifier(Means(), LABELS, name="means", mean=mean, std=std)
    expected = (MEANS - torch.tensor(mean)) / torch.tensor(std)
    torch.testing.assert_close(checked_logits(model, PICTURES), expected.double(), atol=1e-5, rtol=1e-5)
    assert (model.name, model.labels) == ("means", tuple(LABELS))


def test_a_module_with_label_names_needs_no_more() -> None:
    model = load_classifier(Means())
    assert model.labels == ("red", "green", "blue")
    torch.testing.assert_close(checked_logits(model, PICTURES), MEANS)


def test_a_module_without_labels_says_how_to_give_them() -> None:
    assert "dx.ModuleClassifier(module, labels" in refused(nn.Conv2d(3, 3, 1))


def test_a_module_is_left_as_it_was() -> None:
    module = Means().train()
    module.drop.eval()
    checked_logits(load_classifier(module), PICTURES)
    assert (module.training, module.drop.training) == (True, False)
    assert module.weight.requires_grad
    assert module.weight.grad is None

    module = Means(lambda z: 1 / 0).train()
    with pytest.raises(ClassifierError):
        checked_logits(load_classifier(module), PICTURES)
    assert module.training


@pytest.mark.parametrize(
    "wrap",
    [
        lambda z: ImageClassifierOutput(loss=z.sum(), logits=z),
        lambda z: {"features": z.sum(), "logits": z},
        lambda z: (z, z.sum()),
    ],
    ids=["ModelOutput", "dict", "tuple"],
)
def test_wrapped_outputs_are_unwrapped(wrap: Callable[[torch.Tensor], Any]) -> None:
    torch.testing.assert_close(checked_logits(load_classifier(Means(wrap)), PICTURES), MEANS)


def test_a_classifier_in_hand_passes_through() -> None:
    null = NullClassifier(3)
    assert load_classifier(null) is null

    class Own(Means):
        name, labels = "own", ("a", "b", "c")

        def logits(self, images: torch.Tensor) -> torch.Tensor:
            return self(images)

    own = Own()  # a module that is a classifier already
    assert load_classifier(own) is own


# -- functions ----------------------------------------------------------------------------------------


def test_a_plain_function_says_no_or_yes() -> None:
    def brightness(images: torch.Tensor) -> torch.Tensor:
        return images.mean((1, 2, 3)) - 0.5

    model = load_classifier(brightness)
    assert (model.name, model.labels) == ("brightness", ("no", "yes"))
    torch.testing.assert_close(checked_logits(model, PICTURES), MEANS.mean(1, keepdim=True) - 0.5)


@pytest.mark.parametrize("kind", ["column", "flat", "numpy", "list", "half"])
def test_one_logit_may_come_in_any_form(kind: str) -> None:
    forms: dict[str, Callable[[torch.Tensor], Any]] = {
        "column": lambda z: z[:, None],
        "flat": lambda z: z,
        "numpy": lambda z: z.numpy(),
        "list": lambda z: z.tolist(),
        "half": lambda z: z.half(),
    }
    model = CallableClassifier(lambda x: forms[kind](x.mean((1, 2, 3))), ["dark", "light"], name="f")
    answer = checked_logits(model, PICTURES)
    assert answer.dtype == torch.float64
    torch.testing.assert_close(answer, MEANS.mean(1, keepdim=True), atol=1e-3, rtol=0)


def test_a_function_from_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "dxpackage").mkdir()
    (tmp_path / "dxpackage" / "colours.py").write_text(
        "def means(images):\n    return images.mean((2, 3))\n\nmeans.labels = ['r', 'g', 'b']\nNUMBER = 3\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    model = load_classifier("dxpackage.colours:means")
    assert (model.name, model.labels) == ("dxpackage.colours:means", ("r", "g", "b"))
    torch.testing.assert_close(checked_logits(model, PICTURES), MEANS)
    assert "'dxpackage.colours:NUMBER' is int, not a function of images" in refused(
        "dxpackage.colours:NUMBER"
    )
    assert "has no attribute 'mean'" in refused("dxpackage.colours:mean")


def test_a_file_in_the_working_folder_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "dxnearby.py").write_text("def f(images):\n    return images.mean((1, 2, 3))\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [p for p in sys.path if p])
    before = list(sys.path)
    assert load_classifier("dxnearby:f").name == "dxnearby:f"
    assert sys.path == before


@pytest.mark.parametrize(
    ("code", "says"),
    [
        (None, "ModuleNotFoundError: No module named"),
        ("def f(:", "SyntaxError"),
        ("raise RuntimeError('two\\nlines')", "RuntimeError: two;"),
        ("import a_package_of_dreams", "No module named 'a_package_of_dreams'"),
    ],
)
def test_a_file_that_cannot_be_imported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: str | None, says: str
) -> None:
    if code:
        (tmp_path / "dxbroken.py").write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    message = refused("dxbroken:f")
    assert message.startswith("cannot import classifier 'dxbroken:f': ")
    assert says in message
    assert message.endswith("give module:function, the module in this folder or on PYTHONPATH")


def test_a_module_in_a_file_takes_labels_and_numbers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "dxnets.py").write_text(
        "from torch import nn\nnet = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    model = load_classifier("dxnets:net", labels="r,g,b", mean=[0.5, 0.5, 0.5], std=[0.5] * 3, head="sigmoid")
    assert (model.name, model.labels, head_of(model)) == ("dxnets:net", ("r", "g", "b"), "sigmoid")
    torch.testing.assert_close(checked_logits(model, PICTURES), (MEANS - 0.5) / 0.5, atol=1e-5, rtol=0)
    assert "a torch module needs labels" in refused("dxnets:net")


# -- heads and probabilities --------------------------------------------------------------------------


def asked(function: Callable[..., Any], labels: tuple[str, ...], **more: Any) -> torch.Tensor:
    return checked_logits(CallableClassifier(function, labels, name="f", **more), PICTURES)


def test_a_head_of_labels_that_stand_alone_has_a_column_each() -> None:
    assert asked(lambda x: x.mean((2, 3)), ("a", "b", "c"), head="sigmoid").shape == (5, 3)
    assert asked(lambda x: x.mean((1, 2, 3)), ("age",), head="regression").shape == (5, 1)
    with pytest.raises(ClassifierError, match=r"expected .32, 2., one column a label"):
        asked(lambda x: x.mean((1, 2, 3)), ("a", "b"), head="sigmoid")


def test_attributes_of_a_function_say_how_it_is_meant() -> None:
    def f(images: torch.Tensor) -> torch.Tensor:
        return images.mean((2, 3)).softmax(1)

    f.labels, f.head, f.scores = ("r", "g", "b"), "softmax", "probabilities"  # type: ignore[attr-defined]
    model = load_classifier(f)
    torch.testing.assert_close(
        checked_logits(model, PICTURES).softmax(1), MEANS.softmax(1), atol=1e-6, rtol=0
    )
    assert notes_of(model) == ()
    assert head_of(load_classifier(f, head="sigmoid")) == "sigmoid"


@settings(max_examples=50, deadline=None)
@given(logits=st.lists(st.floats(-12, 12), min_size=2, max_size=6))
def test_probabilities_give_back_log_odds(logits: list[float]) -> None:
    z = torch.tensor([logits], dtype=torch.float64)
    labels = tuple(map(str, range(len(logits))))
    found = asked(lambda x: z.softmax(1).expand(len(x), -1), labels, scores="probabilities")[:1]
    p = z.softmax(1)
    if float(p.min()) > 1e-6:
        torch.testing.assert_close(found.softmax(1), p, atol=1e-9, rtol=0)
    alone = asked(lambda x: z.sigmoid().expand(len(x), -1), labels, head="sigmoid", scores="probabilities")[
        :1
    ]
    torch.testing.assert_close(alone, z, atol=1e-4, rtol=0)


@pytest.mark.parametrize("k", [2, 3, 1000])
def test_a_sure_answer_reaches_as_far_whatever_the_number_of_labels(k: int) -> None:
    sure = torch.eye(k)[0]
    labels = tuple(map(str, range(k)))
    found = asked(lambda x: sure.expand(len(x), -1), labels, scores="probabilities")[0]
    assert abs(float(found[0] - found[1:].logsumexp(0)) - 13.8155) < 1e-3  # of 1e-6
    one = asked(lambda x: torch.zeros(len(x), 1), ("no", "yes"), scores="probabilities")[0]
    assert abs(float(one) + 13.8155) < 1e-3


def test_saturated_pictures_are_counted_without_the_padding() -> None:
    def sure(images: torch.Tensor) -> torch.Tensor:
        sharp = (1e7 * (images.mean((2, 3)) - 0.5)).softmax(1)
        sharp[:2] = 1 / 3
        return sharp

    model = CallableClassifier(sure, LABELS, name="f", scores="probabilities")
    checked_logits(model, PICTURES)
    assert notes_of(model)[0].startswith("3 of 5 pictures got a probability of 0 or 1 from f, read as 1e-06")


def test_probabilities_carry_gradient() -> None:
    model = ModuleClassifier(Means(lambda z: z.softmax(1)), LABELS, scores="probabilities")
    x = PICTURES.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(model.logits(x)[:, 0].sum(), x)
    assert (gradient != 0).all()


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        ([2.0, -1.0, 0.0], "go from -1 to 2; leave out scores=probabilities"),
        ([0.9, 0.8, 0.1], "go from 0.1 to 0.9 and do not sum to 1 (off by 0.8); leave out"),
    ],
)
def test_what_is_no_probability(answer: list[float], says: str) -> None:
    with pytest.raises(ClassifierError) as caught:
        asked(lambda x: torch.tensor(answer).expand(len(x), -1), ("a", "b", "c"), scores="probabilities")
    assert says in str(caught.value)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"head": "multi"}, "head 'multi': choose softmax, sigmoid, regression"),
        ({"scores": "odds"}, "scores 'odds': choose logits, probabilities"),
        ({"head": "regression", "scores": "probabilities"}, "a regression gives no probabilities"),
    ],
)
def test_an_unknown_head(options: dict[str, Any], says: str) -> None:
    with pytest.raises(ClassifierError) as caught:
        ModuleClassifier(Means(), LABELS, **options)
    assert says in str(caught.value)


# -- labels -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("labels.txt", "cat\n\n dog \nowl\n"),
        ("labels.json", '["cat", "dog", "owl"]'),
        ("labels.json", '{"1": "dog", "10": "owl", "0": "cat"}'),
        ("labels.yaml", "- cat\n- dog\n- owl\n"),
        ("labels.yml", "cat: a photo of a cat\ndog: [a dog]\nowl: an owl\n"),
    ],
)
def test_labels_from_files(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / name).write_text(text)
    assert label_names(str(tmp_path / name)) == label_names("cat, dog,owl") == ("cat", "dog", "owl")


@pytest.mark.parametrize("text", ["", "a,,b", "a, ,b"])
def test_labels_that_are_empty(text: str) -> None:
    with pytest.raises(ClassifierError, match="hold no label or an empty one"):
        label_names(text)


def test_labels_of_the_same_name_are_told_apart() -> None:
    assert unique(["crane", "kite", "crane"]) == ("crane", "kite", "crane (2)")


# -- before anything loads ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("spec", "options", "says"),
    [
        ("onnx:none.onnx", {}, "'none.onnx' does not exist; give onnx:FILE"),
        ("pt2:none.pt2", {"labels": "a,a"}, "labels name 'a' twice"),
        ("timm:resnet50", {"colour": 1}, "has no option colour"),
        ("http://a:b@host", {}, "holds credentials"),
        ("http://host", {"need": "synthesis"}, "gives scores only, no gradients, and synthesis needs them"),
        ("nothing", {}, "no classifier 'nothing'"),
    ],
)
def test_what_is_wrong_is_foreseen(spec: str, options: dict[str, Any], says: str) -> None:
    with pytest.raises(ClassifierError) as caught:
        foresee_classifier(spec, **options)
    assert says in str(caught.value)


@pytest.mark.parametrize(
    "spec", ["timm:resnet50", "hf:org/name", "pocket:hired", "my.module:f", "https://host/p"]
)
def test_what_may_be_right_is_let_through(spec: str) -> None:
    foresee_classifier(spec)


# -- layers -------------------------------------------------------------------------------------------


def test_layers_of_every_shape() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.rows, self.last = nn.Conv2d(3, 8, 4, 4), nn.Linear(8, 6), nn.Linear(6, 3)
            self.idle = nn.Linear(2, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = self.conv(x).permute(0, 2, 3, 1)  # (N, 8, 8, 8)
            return self.last(self.rows(x).mean((1, 2)))

    net = Net()
    model = white_box(ModuleClassifier(net, LABELS), "this")
    conv = net.conv(PICTURES)
    torch.testing.assert_close(model.activations(PICTURES, "conv"), conv.mean((2, 3)))
    places = net.rows(conv.permute(0, 2, 3, 1))  # (N, h, w, C)
    torch.testing.assert_close(model.activations(PICTURES, "rows"), places.mean((1, 2)))
    with pytest.raises(ClassifierError, match="layer 'idle' of module is not run; choose another one"):
        model.activations(PICTURES, "idle")


# -- answers that cannot be used ----------------------------------------------------------------------


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_not_a_number(value: float) -> None:
    def sometimes(images: torch.Tensor) -> torch.Tensor:
        scores = images.mean((2, 3))
        scores[1, 2] = scores[3, 0] = value
        return scores

    says = unusable(sometimes, LABELS)
    assert f"returned NaN or infinity for 2 of {ROWS} images; check its preprocessing and weights" in says


@pytest.mark.parametrize(
    ("function", "got"),
    [
        (lambda x: torch.zeros(len(x), 4), f"shape ({ROWS}, 4)"),
        (lambda x: torch.zeros(len(x), 1), f"shape ({ROWS}, 1)"),
        (lambda x: torch.zeros(len(x)), f"shape ({ROWS},)"),
        (lambda x: torch.zeros(len(x) - 1, 3), f"shape ({ROWS - 1}, 3)"),
        (lambda x: torch.zeros(3), "shape (3,)"),
        (lambda x: torch.zeros(len(x), 3, 1), f"shape ({ROWS}, 3, 1)"),
        (lambda x: 0.5, "shape ()"),
    ],
)
def test_a_wrong_shape_says_the_right_one(function: Callable[..., Any], got: str) -> None:
    assert unusable(function, LABELS) == (
        f"classifier 'mine:f' returned {got} for {ROWS} images; expected ({ROWS}, 3), one column a label"
    )


@pytest.mark.parametrize(
    ("answer", "kind"),
    [(None, "NoneType"), ("cat", "str"), ({"cat": 1, "dog": 2}, "dict"), ([[1], [1, 2]], "list")],
)
def test_an_answer_that_is_no_numbers(answer: object, kind: str) -> None:
    says = unusable(lambda x: answer, LABELS)
    assert f"returned {kind}, not numbers; expected a tensor ({ROWS}, 3), one column a label" in says


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (ValueError("boom\nmore"), "raised ValueError: boom; "),
        (RuntimeError(""), "raised RuntimeError: no message; "),
        (KeyError("x" * 1000), f"raised KeyError: '{'x' * 199}; "),
        (RuntimeError("\n\nlate"), "raised RuntimeError: late; "),
    ],
)
def test_what_a_classifier_raises_becomes_one_line(error: Exception, says: str) -> None:
    def fails(images: torch.Tensor) -> torch.Tensor:
        raise error

    assert unusable(fails).endswith(f"{says}it was given ({ROWS}, 3, 32, 32) float32 images in [0, 1]")


def test_ctrl_c_is_no_error_of_the_classifier() -> None:
    def interrupted(images: torch.Tensor) -> torch.Tensor:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        checked_logits(load_classifier(interrupted), PICTURES)


def test_a_classifier_is_asked_in_calls_of_one_size_without_gradients() -> None:
    seen: list[tuple[int, ...]] = []

    def look(images: torch.Tensor) -> torch.Tensor:
        seen.append(tuple(images.shape))
        assert not torch.is_grad_enabled()
        return images.sum((1, 2, 3))

    pictures = torch.rand(2 * ROWS + 3, 3, 4, 4)
    answer = checked_logits(load_classifier(look), pictures)
    assert seen == [(ROWS, 3, 4, 4)] * 3
    torch.testing.assert_close(answer[:, 0], pictures.sum((1, 2, 3)).double())


# -- the null -----------------------------------------------------------------------------------------


def null(images: torch.Tensor, key: int = 0) -> torch.Tensor:
    return checked_logits(load_classifier(f"pocket:null:{key}"), images)[:, 0]


@pytest.fixture(scope="module")
def noise() -> torch.Tensor:
    steps = torch.randint(0, 256, (20_000, 3, 8, 8), generator=torch.Generator().manual_seed(1))
    return steps.float() / 255


def test_the_null_is_standard_normal(noise: torch.Tensor) -> None:
    assert kstest(null(noise).numpy(), "norm").pvalue > 1e-4
    flat = torch.arange(256).float().view(-1, 1, 1, 1).expand(-1, 3, 8, 8) / 255  # pictures alike
    assert kstest(null(flat).numpy(), "norm").pvalue > 1e-4


def test_one_step_of_one_pixel_draws_the_null_anew(noise: torch.Tensor) -> None:
    stepped = noise.clone()
    stepped[:, 1, 3, 5] = torch.where(noise[:, 1, 3, 5] < 0.5, 1, -1) / 255 + noise[:, 1, 3, 5]
    before, after = null(noise), null(stepped)
    assert not (before == after).any()
    assert abs(torch.corrcoef(torch.stack([before, after]))[0, 1]) < 5 / len(noise) ** 0.5
    assert kstest(((after - before) / 2**0.5).numpy(), "norm").pvalue > 1e-4


def test_the_null_is_a_function_of_the_picture_and_the_key(noise: torch.Tensor) -> None:
    some = noise[:50]
    assert torch.equal(null(some), null(some.clone()))
    assert torch.equal(null(some.flip(0)).flip(0), null(some))
    assert torch.equal(null(some + 0.4 / 255), null(some))  # the same 8-bit picture
    assert torch.equal(checked_logits(load_classifier("pocket:null"), some)[:, 0], null(some))
    for key in (1, -1, 2**62):
        assert not (null(some, key) == null(some)).any()


@settings(max_examples=25, deadline=None)
@given(key=st.integers(-(2**63), 2**63 - 1))
def test_every_key_has_a_null_of_its_own(key: int) -> None:
    model = load_classifier(f"pocket:null:{key}")
    assert model.name == f"pocket:null:{key}"
    assert model.labels == ("tails", "heads")
    assert (null(PICTURES, key) == null(PICTURES, key ^ 1)).sum() == 0
