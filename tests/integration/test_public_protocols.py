"""The public protocols end to end on tiny stand-ins for the files that people bring."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from benchmarks import fairface, salient_imagenet
from benchmarks.salient_imagenet import Feature, Judged
from diffexplain.auditing import attributes, read_attribute
from diffexplain.corpus import parse_corpus
from diffexplain.errors import InputError
from diffexplain.images import load_images
from diffexplain.judges import load_judge
from diffexplain.mitigation import network
from diffexplain.worlds import avatars as world


def saved(folder: Path, avatars: list[world.Avatar]) -> None:
    folder.mkdir(parents=True)
    for i, picture in enumerate(world.render_bytes(avatars, 64)):
        Image.fromarray(picture).save(folder / f"{i:02d}.png")


def test_fairface(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A stand-in whose genders are what the pocket CLIP reads, one in eight of them labelled otherwise."""
    drawn = world.sample(96, 592_000)
    saved(tmp_path / "faces" / "val", drawn)
    corpus = parse_corpus(fairface.CORPUS, "fairface")
    (gender,) = attributes(corpus, ["gender"])
    images = load_images([tmp_path / "faces" / "val"], size=64).pixels
    read = read_attribute(load_judge("pocket"), corpus, gender, images)
    rows = ["file,age,gender,race,service_test"]
    rows += [
        f"val/{i:02d}.png,20-29,{gender.values[r if i % 16 > 1 else 1 - r]},White,False"
        for i, r in enumerate(read)
    ]
    (tmp_path / "val.csv").write_text("\n".join(rows), encoding="utf-8")
    for place in ("maximising", "plain"):
        for label in ("no smile", "smile"):
            saved(tmp_path / place / label, world.sample(8, 593_000 + len(label)))
    asked = [
        "--fairface", tmp_path / "faces", "--csv", tmp_path / "val.csv", "--size", 64,
        "--classifier", "pocket:zoo/smile-blue-90", "--maximising", tmp_path / "maximising",
        "--plain", tmp_path / "plain", "--judge", "pocket", "--attributes", "gender", "--json",
    ]  # fmt: skip
    figures = fairface.main([str(w) for w in asked])
    assert figures["tests"] == 2
    assert figures["rows"][0]["q"] == 1  # the same pictures on both sides
    assert figures["reader_accuracy"]["gender"] == pytest.approx(7 / 8, abs=0.1)
    assert 0 <= figures["held_shares"] <= 1
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["name"] == "fairface"


def test_fairface_names_a_missing_column(tmp_path: Path) -> None:
    (tmp_path / "val.csv").write_text("file,age\na.png,20-29\n", encoding="utf-8")
    asked = ["--fairface", tmp_path, "--csv", tmp_path / "val.csv", "--classifier", "pocket:hired",
             "--maximising", tmp_path, "--judge", "pocket"]  # fmt: skip
    with pytest.raises(InputError, match="no column 'gender'"):
        fairface.main([str(w) for w in asked])


def test_salient_imagenet(tmp_path: Path) -> None:
    """Hats as the object: one unit's pictures have them, the other's have not, a third class has none."""
    bare = [a for a in world.sample(400, 594_000) if a.headwear == "none"][:24]
    hats = [world.do(a, "headwear/hat") for a in bare]
    saved(tmp_path / "images" / "hat" / "3", hats[:12])
    saved(tmp_path / "images" / "hat" / "7", bare[:12])
    saved(tmp_path / "images" / "hat" / "plain", hats[12:])
    saved(tmp_path / "images" / "turban" / "1", hats[:4])
    saved(tmp_path / "images" / "turban" / "plain", bare[12:])
    (tmp_path / "words.json").write_text(json.dumps({"hat": "person with a hat"}))
    lines = ["class,feature,worker_1,worker_2,worker_3,worker_4,worker_5"]
    lines += ["hat,3,main object,main object,main object,background,main object"]
    lines += ["hat,7,background,background,separate object,main object,main object"]
    lines += ["turban,1,main object,main object,main object,main object,main object", "scarf,9,,,,,"]
    file = tmp_path / "features.csv"
    file.write_text("\n".join(lines[:-1]) + "\n", encoding="utf-8")
    figures = salient_imagenet.main(
        ["--annotations", str(file), "--images", str(tmp_path / "images"), "--segmenter", "pocket",
         "--words", str(tmp_path / "words.json"), "--size", "64", "--json"]
    )  # fmt: skip
    assert figures["features"] == 3
    assert figures["balanced_accuracy"] == 1
    assert figures["kappa"] == 1
    assert figures["abstained"] == pytest.approx(1 / 3)  # nobody wears a turban in its plain pictures
    assert figures["always_core_agreement"] == pytest.approx(2 / 3)
    assert figures["no_spurious_classes"] == 1


def test_votes_and_labels(tmp_path: Path) -> None:
    file = tmp_path / "features.csv"
    file.write_text("class,feature,label\ncat,1,core\ncat,2,separate object\n", encoding="utf-8")
    assert [f.spurious for f in salient_imagenet.annotations(file)] == [False, True]
    file.write_text("class,feature,label\ncat,1,maybe\n", encoding="utf-8")
    with pytest.raises(InputError, match="label 'maybe' of cat"):
        salient_imagenet.annotations(file)
    file.write_text("class\ncat\n", encoding="utf-8")
    with pytest.raises(InputError, match="needs columns class, feature"):
        salient_imagenet.annotations(file)


def test_units_of_a_resnet_are_read(tmp_path: Path) -> None:
    """The network is loaded from safetensors; its units are those that `fc` reads."""
    from safetensors.torch import save_file
    from torchvision.models import resnet50

    torch.manual_seed(0)
    file = tmp_path / "robust.safetensors"
    save_file({f"module.{k}": v for k, v in resnet50(num_classes=3).state_dict().items()}, file)
    model = salient_imagenet.robust_network(file, ["cat", "dog"])
    assert model.labels == ("cat", "dog", "class 2")
    value = salient_imagenet.activation(model, torch.rand(1, 3, 32, 32), 5, 1)
    weight = float(network(model).fc.weight[1, 5])  # type: ignore[union-attr, index]
    assert math.isfinite(value)
    assert np.sign(value) == np.sign(weight)  # activations are never negative


def test_agreement_against_known_answers() -> None:
    truths = [True, True, False, False, False, False]
    verdicts = ["spurious", "core", "core", "core", "core", "undecided"]
    presences = [0.1, 0.9, 0.8, 1.0, 0.95, 0.4]
    rows = [
        Judged(Feature("a", i, t), p, 1.0, v)
        for i, (t, v, p) in enumerate(zip(truths, verdicts, presences, strict=True))
    ]
    found = salient_imagenet.figures(rows)
    assert found["balanced_accuracy"] == pytest.approx(0.75)
    assert found["agreement"] == pytest.approx(0.8)
    assert found["kappa"] == pytest.approx((0.8 - 0.56) / 0.44)
    score = 1 - np.array(presences)
    wins = [score[i] > score[j] for i in (0, 1) for j in (2, 3, 4, 5)]
    assert found["auc"] == pytest.approx(np.mean(wins))
