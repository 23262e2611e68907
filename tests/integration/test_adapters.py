"""Every adapter on its real library, with tiny real models; a real server; one network through five."""

from __future__ import annotations

import base64
import copy
import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import nn

import diffexplain as dx
from diffexplain.classifiers import Classifier, WhiteBox, checked_logits, load_classifier, white_box
from diffexplain.classifiers.modules import ModuleClassifier
from diffexplain.classifiers.preprocessing import (
    Preprocessing,
    from_open_clip,
    from_processor,
    from_timm,
    from_torchvision,
    trial_picture,
)
from diffexplain.errors import ClassifierError
from diffexplain.images import decode_png
from diffexplain.worlds import avatars
from tests.tiny import tiny_clip_folder, tiny_tokenizer

LABELS = ("cat", "dog", "owl")
PICTURES = torch.randint(0, 256, (3, 3, 40, 40), generator=torch.Generator().manual_seed(0)).float() / 255
NUMBERS: dict[str, Any] = {"size": 32, "mean": (0.5, 0.4, 0.3), "std": (0.2, 0.3, 0.25)}


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    """No hub is asked, whatever the machine."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)


def refused(spec: Any, **options: Any) -> str:
    """What loading this says: always one line."""
    with pytest.raises(ClassifierError) as caught:
        load_classifier(spec, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def gradient_reaches(model: Classifier) -> None:
    """Through scores and through the last layer, to the pixels."""
    white = white_box(model, "this test")
    layer = white.layers[-1] if white.layers else None
    asks: list[Callable[[torch.Tensor], torch.Tensor]] = [white.logits]
    asks += [lambda x: white.activations(x, str(layer))] if layer else []
    for ask in asks:
        x = PICTURES.clone().requires_grad_()
        answer = ask(x)
        assert answer.ndim == 2
        assert len(answer) == len(x)
        (gradient,) = torch.autograd.grad((answer * torch.linspace(1, 2, answer.shape[1])).sum(), x)
        assert gradient.isfinite().all()
        assert (gradient != 0).float().mean() > 0.3


class Bright(nn.Module):
    """Three logits that tell colours apart; small, and nothing in it but a convolution."""

    def __init__(self, outputs: int = 3) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, stride=2)
        self.head = nn.Linear(8, outputs)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(torch.relu(self.conv(x)).mean((2, 3)))


@pytest.fixture(scope="module")
def network() -> nn.Module:
    torch.manual_seed(0)
    return Bright().eval().requires_grad_(False)


@pytest.fixture(scope="module")
def expected(network: nn.Module) -> torch.Tensor:
    return checked_logits(ModuleClassifier(network, LABELS, **NUMBERS), PICTURES)


# -- preprocessing is the library's own --------------------------------------------------------------

SHAPES = [(301, 427), (427, 301), (64, 64), (97, 240)]


def off(ours: Any, theirs: Callable[[Image.Image], torch.Tensor], shape: tuple[int, int], std: Any) -> float:
    """Mean difference in pixel values on a picture like a photo."""
    pixels = trial_picture(*shape, seed=3)
    x = torch.from_numpy(pixels).permute(2, 0, 1)[None].float().div(255).requires_grad_()
    found = ours(x)
    found.sum().backward()
    assert x.grad is not None
    assert (x.grad != 0).any()
    want = theirs(Image.fromarray(pixels))
    assert found[0].shape == want.shape
    return float(((found[0] - want).abs() * torch.tensor(std).view(3, 1, 1)).mean().detach())


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("mode", ["center", "squash", "border"])
@pytest.mark.parametrize(("interpolation", "crop"), [("bicubic", 0.9), ("bilinear", 0.875), ("lanczos", 1.0)])
def test_timm_preprocessing(shape: tuple[int, int], mode: str, interpolation: str, crop: float) -> None:
    from timm.data import create_transform

    std = (0.2, 0.25, 0.3)
    config = dict(
        input_size=(3, 96, 96), interpolation=interpolation, crop_pct=crop, crop_mode=mode,
        mean=(0.4, 0.5, 0.6), std=std,
    )  # fmt: skip
    theirs = create_transform(**config, is_training=False)
    assert off(from_timm(config), theirs, shape, std) < 1 / 255


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("name", ["ResNet50", "EfficientNet_B0", "ViT_B_16"])
def test_torchvision_preprocessing(shape: tuple[int, int], name: str) -> None:
    import torchvision

    preset = getattr(torchvision.models, f"{name}_Weights").DEFAULT.transforms()
    assert off(from_torchvision(preset), preset, shape, preset.std) < 1 / 255


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("resize", ["shortest", "longest", "squash"])
def test_open_clip_preprocessing(shape: tuple[int, int], resize: str) -> None:
    from open_clip.transform import PreprocessCfg, image_transform_v2

    config = PreprocessCfg(size=64, resize_mode=resize, interpolation="bicubic")
    theirs = image_transform_v2(config, is_train=False)
    assert off(from_open_clip(vars(config), theirs), theirs, shape, config.std) < 1 / 255


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize(
    "name", ["ViT", "CLIP", "Siglip", "ConvNext", "EfficientNet", "MobileViT", "Bit", "Levit"]
)
def test_transformers_preprocessing(shape: tuple[int, int], name: str) -> None:
    import transformers

    processor = getattr(transformers, f"{name}ImageProcessor")()
    std = processor.image_std or (1.0, 1.0, 1.0)
    theirs = lambda picture: processor(images=picture, return_tensors="pt")["pixel_values"][0]  # noqa: E731
    assert off(from_processor(processor), theirs, shape, std) < 1 / 255


def test_a_processor_that_cannot_be_followed_is_refused() -> None:
    from transformers import ViTImageProcessor

    class Own(ViTImageProcessor):
        def __call__(self, images: Any, **more: Any) -> Any:
            made = super().__call__(images, **more)
            return {"pixel_values": made["pixel_values"] * (2 if isinstance(images, Image.Image) else 1)}

    with pytest.raises(
        ClassifierError, match=r"the Own cannot be done as it is: ours differs by .* preprocessing="
    ):
        from_processor(Own(image_mean=[0.1] * 3))


# -- libraries ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("architecture", ["test_resnet", "test_vit", "test_convnext"])
def test_a_timm_checkpoint(architecture: str, tmp_path: Path) -> None:
    torch.manual_seed(1)
    made = timm.create_model(architecture, num_classes=3).eval()
    save_file(made.state_dict(), tmp_path / "net.safetensors")
    model = load_classifier(f"timm:{architecture}@{tmp_path / 'net.safetensors'}", labels="cat,dog,owl")
    assert (model.labels, model.head) == (LABELS, "softmax")
    assert isinstance(model, WhiteBox)
    config = timm.data.resolve_model_data_config(made)
    transform = timm.data.create_transform(**config, is_training=False)
    picture = Image.fromarray(trial_picture(160, 160))
    own = made(transform(picture)[None]).detach().double()
    ours = checked_logits(model, torch.from_numpy(trial_picture(160, 160)).permute(2, 0, 1)[None] / 255)
    torch.testing.assert_close(ours, own, atol=0.02 * float(own.std()) + 1e-4, rtol=0)
    gradient_reaches(model)
    assert load_classifier(model.name).labels == ("0", "1", "2")


def test_timm_labels_are_imagenets_where_it_was_trained_on(tmp_path: Path) -> None:
    save_file(timm.create_model("test_resnet").state_dict(), tmp_path / "net.safetensors")
    labels = load_classifier(f"timm:test_resnet@{tmp_path / 'net.safetensors'}").labels
    assert len(set(labels)) == 1000
    assert labels[207] == "golden retriever"


def test_torchvision(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from torchvision.models import get_model, get_model_weights

    name = "shufflenet_v2_x0_5"
    weights = get_model_weights(name).DEFAULT
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    kept = tmp_path / "hub" / "checkpoints" / Path(weights.url).name
    kept.parent.mkdir(parents=True)
    torch.manual_seed(2)
    made = get_model(name).eval()
    torch.save(made.state_dict(), kept)
    model = load_classifier(f"torchvision:{name}")
    assert model.labels[207] == "golden retriever"
    pixels = trial_picture(64, 64)
    own = made(weights.transforms()(Image.fromarray(pixels))[None]).detach().double()
    ours = checked_logits(model, torch.from_numpy(pixels).permute(2, 0, 1)[None] / 255)
    assert (ours - own).abs().max() < 0.05 * own.std()
    gradient_reaches(model)
    save_file(get_model(name, num_classes=3).state_dict(), tmp_path / "own.safetensors")
    own_model = load_classifier(f"torchvision:{name}@{tmp_path / 'own.safetensors'}", labels=LABELS)
    assert checked_logits(own_model, PICTURES).shape == (3, 3)
    assert "4 labels were given" in refused(own_model.name, labels="a,b,c,d")


@pytest.fixture(scope="module")
def vit_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from transformers import ViTConfig, ViTForImageClassification, ViTImageProcessor

    folder = tmp_path_factory.mktemp("vit")
    torch.manual_seed(3)
    config = ViTConfig(
        hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32, image_size=32,
        patch_size=8, id2label=dict(enumerate(LABELS)), label2id={n: i for i, n in enumerate(LABELS)},
    )  # fmt: skip
    ViTForImageClassification(config).save_pretrained(folder)
    ViTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(folder)
    return folder


def test_transformers(vit_folder: Path) -> None:
    from transformers import ViTForImageClassification, ViTImageProcessor

    model = load_classifier(f"hf:{vit_folder}")
    assert (model.labels, model.head) == (LABELS, "softmax")
    pixels = trial_picture(64, 64)
    inputs = ViTImageProcessor.from_pretrained(vit_folder)(
        images=Image.fromarray(pixels), return_tensors="pt"
    )
    own = ViTForImageClassification.from_pretrained(vit_folder).eval()(**inputs).logits.detach().double()
    ours = checked_logits(model, torch.from_numpy(pixels).permute(2, 0, 1)[None] / 255)
    torch.testing.assert_close(ours, own, atol=1e-3, rtol=0)
    gradient_reaches(model)
    tokens = white_box(model, "this").activations(PICTURES, "vit.layers.0")  # (N, T, C), averaged over tokens
    assert tokens.shape == (3, 16)


@pytest.mark.parametrize(
    ("problem", "head"), [("multi_label_classification", "sigmoid"), ("regression", "regression")]
)
def test_the_head_is_the_configurations(vit_folder: Path, tmp_path: Path, problem: str, head: str) -> None:
    for file in vit_folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    config = json.loads((tmp_path / "config.json").read_text()) | {"problem_type": problem}
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert load_classifier(f"hf:{tmp_path}").head == head
    assert load_classifier(f"hf:{tmp_path}", head="softmax").head == "softmax"


def test_clip_of_transformers(tmp_path: Path) -> None:
    from transformers import CLIPModel, CLIPProcessor

    folder = tiny_clip_folder(tmp_path)
    model = load_classifier(f"clip:{folder}", labels=["cat", "dog"])
    assert (model.labels, model.head) == (("cat", "dog"), "softmax")
    clip, processor = CLIPModel.from_pretrained(folder).eval(), CLIPProcessor.from_pretrained(folder)
    pixels = trial_picture(64, 64)
    texts = ["a photo of a cat.", "a photo of a dog."]
    inputs = processor(text=texts, images=Image.fromarray(pixels), return_tensors="pt", padding="max_length")
    own = clip(**inputs).logits_per_image.detach().double()
    ours = checked_logits(model, torch.from_numpy(pixels).permute(2, 0, 1)[None] / 255)
    torch.testing.assert_close(ours, own, atol=0.02, rtol=0)
    gradient_reaches(model)
    file = tmp_path / "prompts.yaml"
    file.write_text("cat: [a cat, two cats]\ndog: a dog\n")
    several = load_classifier(f"clip:{folder}", prompts=str(file))
    assert several.labels == ("cat", "dog")
    assert not torch.allclose(checked_logits(several, PICTURES), checked_logits(model, PICTURES))


def test_siglip_answers_each_label_alone(tmp_path: Path) -> None:
    from transformers import SiglipConfig, SiglipImageProcessor, SiglipModel

    tokenizer = tiny_tokenizer()
    part = dict(hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2)
    text = dict(part, vocab_size=len(tokenizer), max_position_embeddings=64, projection_size=16)
    made = SiglipModel(
        SiglipConfig(text_config=text, vision_config=dict(part, image_size=32, patch_size=8))
    ).eval()
    with torch.no_grad():
        made.logit_bias.fill_(-3.0)
    made.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    SiglipImageProcessor(size={"height": 32, "width": 32}).save_pretrained(tmp_path)
    model = load_classifier(f"clip:{tmp_path}", labels="cat,dog,owl", templates=["a {}"])
    assert model.head == "sigmoid"
    tokens = tokenizer(["a cat", "a dog", "a owl"], padding="max_length", max_length=64, return_tensors="pt")
    pixels = (
        torch.nn.functional.interpolate(PICTURES, (32, 32), mode="bicubic", antialias=True).clamp(0, 1) - 0.5
    ) * 2
    own = made(input_ids=tokens["input_ids"], pixel_values=pixels).logits_per_image.detach().double()
    torch.testing.assert_close(checked_logits(model, PICTURES), own, atol=0.02, rtol=0)
    gradient_reaches(model)


def test_open_clip(tmp_path: Path) -> None:
    import open_clip

    config = {
        "model_cfg": {
            "embed_dim": 16,
            "vision_cfg": {"image_size": 32, "layers": 1, "width": 32, "head_width": 16, "patch_size": 8},
            "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1},
        },
        "preprocess_cfg": {"size": 32, "resize_mode": "shortest", "interpolation": "bicubic"},
    }
    (tmp_path / "open_clip_config.json").write_text(json.dumps(config))
    torch.manual_seed(4)
    made = open_clip.CLIP(**config["model_cfg"]).eval()  # type: ignore[arg-type]
    save_file(made.state_dict(), tmp_path / "open_clip_model.safetensors")
    model = load_classifier(f"clip:{tmp_path}", labels="cat,dog")
    loaded, _, transform = open_clip.create_model_and_transforms(f"local-dir:{tmp_path}")
    pixels = trial_picture(64, 64)
    with torch.no_grad():
        image = loaded.eval().encode_image(transform(Image.fromarray(pixels))[None], normalize=True)
        texts = open_clip.tokenize(["a photo of a cat.", "a photo of a dog."])
        own = loaded.logit_scale.exp() * image @ loaded.encode_text(texts, normalize=True).T
    ours = checked_logits(model, torch.from_numpy(pixels).permute(2, 0, 1)[None] / 255)
    torch.testing.assert_close(ours, own.double(), atol=0.02, rtol=0)
    gradient_reaches(model)


# -- files -------------------------------------------------------------------------------------------


def export_onnx(network: nn.Module, file: Path, batch: int | None = None, **metadata: Any) -> Path:
    """A graph written by torch's exporter, with a free batch or a fixed one."""
    import onnx

    free = {} if batch else {"dynamic_axes": {"pictures": {0: "n"}, "scores": {0: "n"}}}
    shown = torch.rand(batch or 2, 3, 32, 32)
    torch.onnx.export(
        network, (shown,), file, dynamo=False, input_names=["pictures"], output_names=["scores"], **free
    )
    if metadata:
        graph = onnx.load(file)
        onnx.helper.set_model_props(
            graph, {k: v if isinstance(v, str) else json.dumps(v) for k, v in metadata.items()}
        )
        onnx.save(graph, file)
    return file


def export_pt2(network: nn.Module, file: Path, batch: int | None = None) -> Path:
    """A torch.export program, with a free batch or a fixed one."""
    shapes = None if batch else ({0: torch.export.Dim("n", min=1)},)
    own = copy.deepcopy(network)  # an exporter leaves its marks on what it has traced
    program = torch.export.export(own, (torch.rand(batch or 2, 3, 32, 32),), dynamic_shapes=shapes)
    torch.export.save(program, file)
    return file


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("batch", [None, 1, 4])
def test_onnx(network: nn.Module, expected: torch.Tensor, tmp_path: Path, batch: int | None) -> None:
    file = export_onnx(network, tmp_path / "net.onnx", batch)
    model = load_classifier(f"onnx:{file}", labels=LABELS, mean=NUMBERS["mean"], std=NUMBERS["std"], size=32)
    torch.testing.assert_close(checked_logits(model, PICTURES), expected, atol=1e-5, rtol=0)
    assert not isinstance(model, WhiteBox)
    with pytest.raises(ClassifierError, match="gives scores only, no gradients, and a test needs them"):
        white_box(model, "a test")


@pytest.mark.filterwarnings("ignore")
def test_onnx_says_it_in_its_metadata(network: nn.Module, expected: torch.Tensor, tmp_path: Path) -> None:
    said = {**NUMBERS, "names": str(dict(enumerate(LABELS))), "head": "sigmoid"}
    model = load_classifier(f"onnx:{export_onnx(network, tmp_path / 'net.onnx', 1, **said)}")
    assert (model.labels, model.head) == (LABELS, "sigmoid")
    torch.testing.assert_close(checked_logits(model, PICTURES), expected, atol=1e-5, rtol=0)
    assert load_classifier(model.name, head="softmax", labels="a,b,c").labels == ("a", "b", "c")


def test_onnx_of_bytes_in_the_other_layout(tmp_path: Path) -> None:
    from onnx import TensorProto, helper, save

    nodes = [
        helper.make_node("Cast", ["x"], ["f"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["f"], ["y"], axes=[1, 2], keepdims=0),
    ]
    taken = helper.make_tensor_value_info("x", TensorProto.UINT8, ["n", 40, 40, 3])
    made = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 3])
    graph = helper.make_model(
        helper.make_graph(nodes, "g", [taken], [made]), opset_imports=[helper.make_opsetid("", 13)]
    )
    graph.ir_version = 8
    save(graph, tmp_path / "bytes.onnx")
    model = load_classifier(f"onnx:{tmp_path / 'bytes.onnx'}")
    assert model.labels == ("0", "1", "2")
    torch.testing.assert_close(
        checked_logits(model, PICTURES), 255 * PICTURES.mean((2, 3)).double(), atol=1e-3, rtol=0
    )


@pytest.mark.parametrize("batch", [None, 1])
def test_pt2(network: nn.Module, expected: torch.Tensor, tmp_path: Path, batch: int | None) -> None:
    model = load_classifier(
        f"pt2:{export_pt2(network, tmp_path / 'net.pt2', batch)}", labels=LABELS, **NUMBERS
    )
    torch.testing.assert_close(checked_logits(model, PICTURES), expected, atol=1e-5, rtol=0)
    gradient_reaches(model)
    white, own = white_box(model, "this"), ModuleClassifier(network, LABELS, **NUMBERS)
    assert white.layers == own.layers == ("conv", "head")
    for layer in white.layers:
        torch.testing.assert_close(white.activations(PICTURES, layer), own.activations(PICTURES, layer))
    with pytest.raises(ClassifierError, match=r"layer 'cnv' is not in .* did you mean 'conv'\?"):
        white.activations(PICTURES, "cnv")


@pytest.mark.filterwarnings("ignore")
def test_torchscript(network: nn.Module, expected: torch.Tensor, tmp_path: Path) -> None:
    torch.jit.save(torch.jit.trace(network, torch.rand(2, 3, 32, 32)), tmp_path / "net.pt")
    model = load_classifier(f"torchscript:{tmp_path / 'net.pt'}", labels=LABELS, **NUMBERS)
    torch.testing.assert_close(checked_logits(model, PICTURES), expected, atol=1e-5, rtol=0)
    gradient_reaches(model)
    with pytest.raises(ClassifierError, match="its file names no layers"):
        white_box(model, "this").activations(PICTURES, "conv")
    assert "does not say its labels" in refused(model.name)


# -- a server ----------------------------------------------------------------------------------------


class Server:
    """A real server on loopback: speaks our contract, KServe and Hugging Face, and fails as it is told to."""

    def __init__(self, network: Classifier) -> None:
        self.network, self.faults, self.seen = network, list[Any](), list[tuple[str, dict[str, str], bytes]]()
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                server.answer(self, b"")

            def do_POST(self) -> None:
                server.answer(self, self.rfile.read(int(self.headers["Content-Length"])))

            def log_message(self, *args: Any) -> None: ...

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_port}"

    def answer(self, handler: BaseHTTPRequestHandler, body: bytes) -> None:
        self.seen.append((handler.path, dict(handler.headers), body))
        fault = self.faults.pop(0) if self.faults else None
        status, headers, text = 200, {}, ""
        if isinstance(fault, tuple):
            status, headers, text = fault
        elif isinstance(fault, float):
            time.sleep(fault)
        elif isinstance(fault, str):
            text = fault
        text = text or (json.dumps(self.spoken(handler, body)) if status == 200 else "")
        try:
            handler.send_response(status)
            for name, value in headers.items():
                handler.send_header(name, value)
            handler.end_headers()
            handler.wfile.write(text.encode())
        except OSError:  # who asked has gone
            pass

    def spoken(self, handler: BaseHTTPRequestHandler, body: bytes) -> Any:
        if handler.path.startswith("/v2/"):
            return self.kserve(body)
        if not body:
            return {"labels": list(self.network.labels)}
        if handler.headers["Content-Type"] == "image/png":
            return {"scores": self.scores([body])[0]}
        asked = json.loads(body)
        if handler.path == "/hf":
            logits = torch.tensor(self.scores([base64.b64decode(asked["inputs"])]))
            p = {"softmax": logits.softmax(1), "none": logits, "sigmoid": logits.sigmoid()}
            found = zip(
                self.network.labels, p[asked["parameters"]["function_to_apply"]][0].tolist(), strict=True
            )
            return sorted(({"label": n, "score": s} for n, s in found), key=lambda e: -float(e["score"]))
        return {"scores": self.scores([base64.b64decode(png) for png in asked["images"]])}

    def kserve(self, body: bytes) -> Any:
        if not body:
            shape = [-1, 3, 32, 32]
            return {"inputs": [{"name": "x", "datatype": "FP32", "shape": shape}],
                    "outputs": [{"name": "y", "datatype": "FP32", "shape": [-1, 3]}]}  # fmt: skip
        given = json.loads(body)["inputs"][0]
        assert (given["name"], given["datatype"]) == ("x", "FP32")
        x = torch.tensor(given["data"]).view(given["shape"])
        scores = self.network._module(x)  # type: ignore[attr-defined]
        return {
            "outputs": [
                {
                    "name": "y",
                    "shape": list(scores.shape),
                    "datatype": "FP32",
                    "data": scores.flatten().tolist(),
                }
            ]
        }

    def scores(self, pngs: list[bytes]) -> list[list[float]]:
        return checked_logits(self.network, torch.stack([decode_png(png) for png in pngs])).tolist()


@contextmanager
def serving(network: Classifier) -> Iterator[Server]:
    server = Server(network)
    thread = threading.Thread(target=server.http.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield server
    finally:
        server.http.shutdown()
        server.http.server_close()
        thread.join()


@pytest.fixture
def server(network: nn.Module) -> Iterator[Server]:
    with serving(ModuleClassifier(network, LABELS, **NUMBERS)) as server:
        yield server


@pytest.mark.parametrize(
    ("path", "options", "calls"),
    [
        ("", {}, 2),  # the labels, then all pictures at once
        ("", {"body": "png"}, 4),
        ("", {"labels": LABELS, "batch": 2}, 2),
        ("/hf", {"profile": "huggingface", "labels": LABELS}, 3),
        ("/hf", {"profile": "huggingface", "labels": LABELS, "scores": "logits"}, 3),
        ("/v2/models/net/infer", {"profile": "kserve", "labels": LABELS, **NUMBERS}, 2),
        ("/v2/models/net/infer", {"profile": "kserve", "labels": LABELS, "input": "x", **NUMBERS}, 1),
    ],
    ids=["json", "png", "batch", "hugging face", "hugging face logits", "kserve", "kserve named"],
)
def test_http(server: Server, expected: torch.Tensor, path: str, options: dict[str, Any], calls: int) -> None:
    model = load_classifier(server.url + path, **options)
    assert model.labels == LABELS
    found = checked_logits(model, PICTURES)
    torch.testing.assert_close(found.log_softmax(1), expected.log_softmax(1), atol=1e-4, rtol=0)
    assert len(server.seen) == calls
    checked_logits(model, PICTURES.flip(0))  # asked before: nothing is sent
    assert len(server.seen) == calls


@pytest.mark.parametrize(
    "fault",
    [
        (429, {"Retry-After": "0.01"}, "slow down"),
        (500, {}, "oops"),
        (503, {"Retry-After": "Wed, 21 Oct 2015 07:28:00 GMT"}, ""),
        '{"scores": [[1, 2',
        "<html>",
        0.6,
    ],
    ids=["429", "500", "503", "cut off", "html", "delay"],
)
def test_http_tries_again(server: Server, expected: torch.Tensor, fault: Any) -> None:
    server.faults = [fault, fault]
    model = load_classifier(server.url, labels=LABELS, backoff=0.01, timeout=0.3)
    torch.testing.assert_close(checked_logits(model, PICTURES), expected, atol=1e-5, rtol=0)
    assert len(server.seen) == 3
    assert model.notes == (f"{server.url}: 3 requests, 2 of them repeated after a failure",)


@pytest.mark.parametrize(
    ("fault", "says", "tries"),
    [
        (
            (500, {}, "out of memory\non GPU 0"),
            "answered 500 Internal Server Error: out of memory on GPU 0 after 3 tries",
            3,
        ),
        ((401, {}, "who are you"), "answered 401 Unauthorized: who are you", 1),
        ((302, {"Location": "http://127.0.0.1:1/"}, ""), "answered 302 Found: no message", 1),
        ("<html>", "answered no JSON", 3),
        ('{"score": 1}', "answered {\"score\": 1}, not scores (KeyError: 'scores')", 1),
        ('{"scores": [[1, 2]]}', "not scores (ValueError: 1 rows for 3 pictures)", 1),
        ('{"scores": [[1], [2], [3, 4]]}', "not scores", 1),
        ('{"scores": "many"}', "not scores", 1),
        ('{"scores": [[1, 2], [1, 2], [1, 2]]}', "returned shape (32, 2) for 32 images; expected (32, 3)", 1),
        ('{"scores": [[1, 2, NaN], [1, 2, 3], [1, 2, 3]]}', "returned NaN or infinity", 1),
        (
            '{"labels": ["x"], "scores": [[1]]}',
            "the server's labels are ['x'], here they are ['cat', 'dog', 'owl']",
            1,
        ),
        (1.0, "gave no answer within 0.2 s after 3 tries", 3),
    ],
)
def test_http_says_what_came(server: Server, fault: Any, says: str, tries: int) -> None:
    server.faults = [fault] * 3
    patience = 0.2 if isinstance(fault, float) else 30.0  # a busy machine answers late too
    model = load_classifier(server.url, labels=LABELS, backoff=0.01, timeout=patience, retries=2)
    with pytest.raises(ClassifierError) as caught:
        checked_logits(model, PICTURES)
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)
    assert len(server.seen) == tries


def test_http_keeps_to_its_bounds(server: Server, tmp_path: Path) -> None:
    asked = {"labels": LABELS, "batch": 1, "cache": str(tmp_path / "kept" / "answers.sqlite")}
    capped = load_classifier(server.url, most_requests=2, **asked)
    with pytest.raises(ClassifierError, match=r"most_requests 2 are used up at .* raise it"):
        checked_logits(capped, PICTURES)
    assert len(server.seen) == 2
    started = time.monotonic()
    slow = load_classifier(server.url, rate=20.0, **asked)
    checked_logits(slow, torch.cat([PICTURES, 1 - PICTURES]))  # two are on disk, four are asked about
    assert len(server.seen) == 6
    assert time.monotonic() - started > 3 / 20
    other = load_classifier(
        server.url, labels=("a", "b", "c"), **{k: v for k, v in asked.items() if k != "labels"}
    )
    checked_logits(other, PICTURES[:1])  # another question is not answered from there
    assert len(server.seen) == 7


def test_http_credentials_come_from_the_environment(
    server: Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("MY_TOKEN", "s3cr3t")
    netrc = tmp_path / ".netrc"
    netrc.write_text("machine 127.0.0.1 login me password netrc-pass\n")
    netrc.chmod(0o600)
    monkeypatch.setenv("NETRC", str(netrc))
    cache = tmp_path / "answers.sqlite"
    model = load_classifier(server.url, labels=LABELS, token_env="MY_TOKEN", cache=str(cache))
    checked_logits(model, PICTURES)
    assert server.seen[-1][1]["Authorization"] == "Bearer s3cr3t"
    assert "s3cr3t" not in model.name
    assert b"s3cr3t" not in cache.read_bytes()
    server.faults = [(403, {}, "token s3cr3t is too old")]
    with pytest.raises(ClassifierError, match="403 Forbidden: token … is too old"):
        checked_logits(model, 1 - PICTURES)
    plain = load_classifier(server.url, labels=LABELS)
    checked_logits(plain, PICTURES)
    assert "Authorization" not in server.seen[-1][1]
    assert "not set" in refused(server.url, token_env="NO_SUCH_TOKEN")
    assert "in the clear; use https" in refused("http://example.org/p", token_env="MY_TOKEN")
    for url in ("https://me:pass@host/p", "https://host/p?api_key=abc"):
        said = refused(url)
        assert "holds credentials" in said
        assert "pass@" not in said
        assert "abc" not in said


def test_a_server_that_is_not_there() -> None:
    with serving(ModuleClassifier(nn.Identity(), LABELS)) as gone:
        url = gone.url
    said = refused(url, retries=0)
    assert "does not tell its labels (GET: " in said
    assert "give --labels" in said


# -- what a person gets wrong ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("spec", "options", "says"),
    [
        ("timm:test_resnet@{no}/net.safetensors", {}, "'{no}/net.safetensors' does not exist; give the"),
        ("timm:test_resnet@{dir}/net.pt", {}, "net.pt is no safetensors file; pickles (.pt, .pth"),
        ("timm:test_resnet@{dir}/pickle.safetensors", {}, "pickle.safetensors is no safetensors file"),
        ("timm:test_resnet@{dir}/net.safetensors", {"labels": "a,b"}, "2 labels were given for"),
        ("timm:test_vit@{dir}/net.safetensors", {}, "timm cannot load 'test_vit': "),
        ("timm:no_such_net@{dir}/net.safetensors", {}, "timm cannot load 'no_such_net': Unknown model"),
        ("timm:test_resnet@{dir}/net.safetensors", {"sise": 3}, "has no option sise; known are head, scores"),
        ("timm:test_resnet@{dir}/net.safetensors", {"head": "multi"}, "option head 'multi': Input should"),
        ("timm:resnet18.a1_in1k", {}, "run `hf download timm/resnet18.a1_in1k`; it is looked for in "),
        ("timm:hf-hub:org/name", {}, "run `hf download org/name`; it is looked for in "),
        ("torchvision:resnet18", {}, "download https://download.pytorch.org/models/resnet18"),
        ("torchvision:nonet", {}, "torchvision has no classifier 'nonet' with weights"),
        ("torchvision:resnet18@{dir}/net.safetensors", {}, "torchvision cannot load 'resnet18': Error(s)"),
        ("hf:org/name", {}, "run `hf download org/name`; it is looked for in "),
        ("hf:{dir}", {}, "it needs config.json, preprocessor_config.json and model.safetensors"),
        ("hf:{vit}", {"labels": "a,b"}, "2 labels were given for 'hf:{vit}', which has 3 outputs; give 3"),
        ("clip:org/name", {"labels": "a,b"}, "run `hf download org/name`; it is looked for in "),
        ("clip:org/name", {}, "needs labels: --labels cat,dog"),
        ("clip:ViT-B-32", {"labels": "a,b"}, "ViT-B-32 has several weights; choose ViT-B-32@openai, @"),
        ("clip:ViT-B-32@laion2b_s34b_b79k", {"labels": "a,b"}, "run `hf download laion/CLIP-ViT-B-32-"),
        ("clip:ViT-C-33", {"labels": "a,b"}, "open_clip has no model 'ViT-C-33'"),
        ("clip:org/name", {"labels": "a,b", "templates": ["a"]}, "option templates ['a']: each needs one {}"),
        ("clip:org/name", {"labels": "a,b", "prompts": {"a": "x"}}, "say nothing of the label 'b'"),
        ("clip:org/name", {"prompts": "{no}.yaml"}, "labels file '{no}.yaml' cannot be read"),
        ("onnx:{no}.onnx", {}, "'{no}.onnx' does not exist; give an .onnx file"),
        ("onnx:{dir}/net.pt", {}, "cannot load classifier 'onnx:"),
        ("onnx:{dir}/net.onnx", {"labels": "a,b"}, "2 labels were given for"),
        ("onnx:{dir}/net.onnx", {"size": 64}, "size 64: this network takes 32×32 only"),
        ("onnx:{dir}/net.onnx", {"output": "z"}, "output 'z' is not in "),
        ("onnx:{dir}/net.onnx", {"std": [0, 1, 1]}, "give numbers above 0"),
        ("onnx:{dir}/net.onnx", {"mean": [0.5]}, "mean (0.5,): give three numbers"),
        ("pt2:{no}.pt2", {}, "'{no}.pt2' does not exist; give what torch.export.save wrote"),
        ("pt2:{dir}/net.safetensors", {}, "net.safetensors is no .pt2 archive"),
        ("pt2:{dir}/net.pt2", {"labels": "a,b,c,d"}, "4 labels were given for"),
        ("pt2:{dir}/net.pt2", {"size": [64, 64]}, "size (64, 64): this network takes 32×32 only"),
        ("torchscript:{no}.pt", {}, "'{no}.pt' does not exist; give what torch.jit.save wrote"),
        ("torchscript:{dir}/net.pt", {"labels": "a,b"}, "cannot load classifier 'torchscript:"),
        ("http://host/p", {"retries": -1}, "retries -1: give a number above or equal to 0"),
        ("http://host/p", {"profile": "huggingface"}, "http://host/p needs labels"),
        ("http:host", {}, "no classifier 'http:host'; a classifier is one of pocket:NAME, timm:NAME"),
        ("pocket:hired", {"size": 3}, "classifier 'pocket:hired' has no option size; it has no options"),
        ("onnx:x.onnx", {"labels": "a,a"}, "labels name 'a' twice"),
        ("onnx:x.onnx", {"labels": "{no}.txt"}, "labels file '{no}.txt' cannot be read: "),
    ],
)  # fmt: skip
@pytest.mark.filterwarnings("ignore")
def test_a_wrong_request_says_the_cure(
    broken: Path,
    vit_folder: Path,
    spec: str,
    options: dict[str, Any],
    says: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(broken / "torch"))
    monkeypatch.setattr("torch.hub.download_url_to_file", unreachable)
    places = {"{dir}": str(broken), "{no}": str(broken / "no"), "{vit}": str(vit_folder)}

    def filled(text: Any) -> Any:
        for name, place in places.items():
            text = text.replace(name, place) if isinstance(text, str) else text
        return text

    assert filled(says) in refused(filled(spec), **{k: filled(v) for k, v in options.items()})


def unreachable(*args: Any, **more: Any) -> None:
    raise OSError("no route to host")


@pytest.fixture(scope="module")
def broken(network: nn.Module, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("files")
    save_file(timm.create_model("test_resnet", num_classes=3).state_dict(), folder / "net.safetensors")
    torch.save(network.state_dict(), folder / "net.pt")
    torch.save(network.state_dict(), folder / "pickle.safetensors")
    export_onnx(network, folder / "net.onnx")
    export_pt2(network, folder / "net.pt2")
    return folder


@pytest.mark.parametrize("kind", ["module", "onnx", "pt2", "torchscript"])
@pytest.mark.filterwarnings("ignore")
def test_answers_that_are_not_finite(tmp_path: Path, kind: str) -> None:
    network = Bright().eval()
    with torch.no_grad():
        network.head.bias[1] = float("nan")
    model: Classifier
    if kind == "module":
        model = ModuleClassifier(network, LABELS)
    elif kind == "onnx":
        model = load_classifier(f"onnx:{export_onnx(network, tmp_path / 'n.onnx')}", labels=LABELS)
    elif kind == "pt2":
        model = load_classifier(f"pt2:{export_pt2(network, tmp_path / 'n.pt2')}", labels=LABELS)
    else:
        torch.jit.save(torch.jit.trace(network, PICTURES), tmp_path / "n.pt")
        model = load_classifier(f"torchscript:{tmp_path / 'n.pt'}", labels=LABELS)
    with pytest.raises(ClassifierError, match="returned NaN or infinity for 32 of 32 images"):
        checked_logits(model, PICTURES)


# -- one network, five ways --------------------------------------------------------------------------

SMALL = """
name: small
domain: portraits of avatars
prompt: "an avatar{phrase}"
neutral: an avatar
concepts:
  - {name: facewear, children: [{name: glasses, phrase: " with glasses"}]}
  - {name: background, children: [{name: blue, phrase: " on a blue background"}]}
"""


class Drawn:
    """An editor that draws once and shows the same pictures to whoever asks the same in the same order."""

    def __init__(self, editor: Any) -> None:
        self._editor, self._inversion, self._kept = editor, None, list[tuple[Any, Any]]()
        self._at = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._editor, name)

    def invert(self, *given: Any) -> Any:
        self._inversion = self._inversion or self._editor.invert(*given)
        self._at = 0
        return self._inversion

    def edit(self, inversion: Any, edits: Any) -> torch.Tensor:
        if self._at == len(self._kept):
            self._kept.append((edits, self._editor.edit(inversion, edits)))
        asked, pictures = self._kept[self._at]
        assert asked == edits
        self._at += 1
        return pictures


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_five_adapters_give_one_explanation(tmp_path: Path) -> None:
    import diffexplain.pocket as pocket

    source = pocket.classifier_folder("hired")
    config = json.loads((source / "config.json").read_text())
    torch.manual_seed(5)
    network = timm.create_model(config["architecture"], num_classes=1).eval()
    from safetensors.torch import load_file

    network.load_state_dict(load_file(source / "model.safetensors"))
    numbers: dict[str, Any] = {"size": 64, "mean": (0.5,) * 3, "std": (0.5,) * 3}
    labels = ("rejected", "hired")
    export_sized(network, tmp_path)
    save_file(network.state_dict(), tmp_path / "net.safetensors")
    (tmp_path / "small.yaml").write_text(SMALL)
    timm_folder = tmp_path / "timm"
    timm_folder.mkdir()
    (timm_folder / "config.json").write_text(json.dumps(config))
    save_file(network.state_dict(), timm_folder / "model.safetensors")
    module = ModuleClassifier(network, labels, preprocessing=Preprocessing(**numbers))
    given = avatars.render(avatars.sample(3, seed=11))
    with serving(module) as server:
        ways = {
            "module": module,
            "timm": load_classifier(f"timm:{timm_folder}"),
            "onnx": load_classifier(f"onnx:{tmp_path / 'net.onnx'}", labels=labels, **numbers),
            "pt2": load_classifier(f"pt2:{tmp_path / 'net.pt2'}", labels=labels, **numbers),
            "http": load_classifier(server.url, labels=labels),
        }
        editor = Drawn(dx.load_editor("pocket", steps=4, rows=8))
        judge = dx.load_judge("pocket")
        found = {
            name: dx.explain(
                way, given, target="hired", corpus=tmp_path / "small.yaml", method="exhaustive", device="cpu",
                directions=("add",), joint_steps=1, editor=editor, judge=judge, segmenter="none",
                accept_drift=True,
            )
            for name, way in ways.items()
        }  # fmt: skip
    first = found["module"].concepts
    assert {c.concept for c in first if c.status == "measured"} > {"facewear/glasses", "background/blue"}
    for name, answer in found.items():
        assert [c.concept for c in answer.concepts] == [c.concept for c in first], name
        for ours, other in zip(first, answer.concepts, strict=True):
            assert other.status == ours.status
            if ours.status == "measured":
                assert abs(ours.effect - other.effect) < 1e-3, name


def export_sized(network: nn.Module, folder: Path) -> None:
    """The network for pictures of 64 pixels as ONNX and as a torch.export program."""
    shown = torch.rand(2, 3, 64, 64)
    torch.onnx.export(
        network, (shown,), folder / "net.onnx", dynamo=False, input_names=["x"], dynamic_axes={"x": {0: "n"}}
    )
    program = torch.export.export(network, (shown,), dynamic_shapes=({0: torch.export.Dim("n", min=1)},))
    torch.export.save(program, folder / "net.pt2")
