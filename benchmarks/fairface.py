r"""The bias experiment on FairFace: is a classifier's class held up by an ethnicity, a gender or an age?

For those who have the files: FairFace's pictures with its CSV (columns file, age, gender, race; Kärkkäinen
& Joo, WACV 2021), a classifier, and pictures that maximise its classes (`diffexplain visualise`, or any).

    python -m benchmarks.fairface --fairface DIR --csv fairface_label_val.csv --classifier timm:FOLDER \
        --maximising DIR --plain DIR [--twin-maximising DIR] --judge clip:openai/clip-vit-base-patch32 --json

The zero-shot reader is calibrated on one half of FairFace; how often the corrected shares hold the true ones
is measured on the other half. Then the classes are audited against plain prompts and the twin.
"""

from __future__ import annotations

import argparse
import csv
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch

from diffexplain.api.auditing import by_label
from diffexplain.auditing import Attribute, attribute_shares, attributes, calibrated, read_attribute
from diffexplain.classifiers import load_classifier
from diffexplain.corpus import Corpus, parse_corpus
from diffexplain.errors import InputError
from diffexplain.images import load_images
from diffexplain.judges import Judge, load_judge
from diffexplain.records.audit import Reading, Reference
from diffexplain.shares import corrected_shares, counted

#: FairFace's own labels, and how a reader is asked for them.
CORPUS = """
name: fairface
domain: faces
prompt: "a photo of the face of {phrase}"
neutral: a photo of a face
concepts:
  - name: gender
    exclusive: true
    protected: true
    children:
      - {name: Male, phrase: a man}
      - {name: Female, phrase: a woman}
  - name: age
    exclusive: true
    protected: true
    children:
      - {name: 0-2, phrase: a baby}
      - {name: 3-9, phrase: a young child}
      - {name: 10-19, phrase: a teenager}
      - {name: 20-29, phrase: a person in their twenties}
      - {name: 30-39, phrase: a person in their thirties}
      - {name: 40-49, phrase: a person in their forties}
      - {name: 50-59, phrase: a person in their fifties}
      - {name: 60-69, phrase: a person in their sixties}
      - {name: more than 70, phrase: a person older than seventy}
  - name: race
    exclusive: true
    protected: true
    children:
      - {name: White, phrase: a White person}
      - {name: Black, phrase: a Black person}
      - {name: Latino_Hispanic, phrase: a Latino or Hispanic person}
      - {name: East Asian, phrase: an East Asian person}
      - {name: Southeast Asian, phrase: a Southeast Asian person}
      - {name: Indian, phrase: an Indian person}
      - {name: Middle Eastern, phrase: a Middle Eastern person}
"""


def measure(asked: argparse.Namespace) -> Mapping[str, Any]:
    """All figures."""
    corpus, judge = parse_corpus(CORPUS, "fairface"), load_judge(asked.judge)
    wanted = attributes(corpus, asked.attributes.split(","))
    images, labels = faces(Path(asked.fairface), Path(asked.csv), wanted, asked.size, asked.limit)
    first, second = np.arange(0, len(images), 2), np.arange(1, len(images), 2)

    def half(rows: np.ndarray) -> dict[str, list[str]]:
        return {name: [values[i] for i in rows] for name, values in labels.items()}

    readings = calibrated(judge, corpus, wanted, images[first], half(first))
    classifier = load_classifier(asked.classifier)
    given = by_label(asked.maximising, asked.size, "maximising", classifier.labels)
    references: dict[Reference, Mapping[str, torch.Tensor]] = {}
    for name, folder in (("plain", asked.plain), ("twin", asked.twin_maximising)):
        if folder:
            references[name] = by_label(folder, asked.size, name, classifier.labels)  # type: ignore[index]
    if not references:
        raise InputError("give --plain, --twin-maximising, or both")
    rows = attribute_shares(judge, corpus, wanted, given, references, readings)
    return {
        "fairface_pictures": len(images),
        "reader_accuracy": {r.attribute: r.accuracy for r in readings},
        "held_shares": held(judge, corpus, wanted, readings, images[second], half(second)),
        "biased": sum(r.q < 0.05 for r in rows),
        "tests": len(rows),
        "rows": [asdict(r) for r in rows],
    }


def faces(
    root: Path, file: Path, wanted: Sequence[Attribute], size: int, limit: int
) -> tuple[torch.Tensor, Mapping[str, list[str]]]:
    """FairFace's pictures and labels, the first `limit`. Raises InputError when a column is missing."""
    with file.open(encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream))[:limit]
    columns = ("file", *(a.name for a in wanted))
    if missing := [c for c in columns if not rows or c not in rows[0]]:
        raise InputError(f"{file}: no column {missing[0]!r}; FairFace has file, age, gender, race")
    images = torch.cat([load_images([root / row["file"]], size=size).pixels for row in rows])
    return images, {a.name: [row[a.name] for row in rows] for a in wanted}


def held(
    judge: Judge,
    corpus: Corpus,
    wanted: Sequence[Attribute],
    readings: Sequence[Reading],
    images: torch.Tensor,
    labels: Mapping[str, Sequence[str]],
) -> float:
    """Share of the true shares on the other half that lie in the corrected intervals."""
    inside = []
    for attribute, reading in zip(wanted, readings, strict=True):
        counts = counted(read_attribute(judge, corpus, attribute, images), len(attribute.values))
        shares = corrected_shares(counts, np.array(reading.confusion))
        said = list(labels[attribute.name])
        truth = [said.count(v) / len(said) for v in attribute.values]
        inside += [s.low <= t <= s.high for s, t in zip(shares, truth, strict=True)]
    return float(np.mean(inside))


def main(words: Sequence[str] | None = None) -> Mapping[str, Any]:
    """Parse the paths, measure, and print the figures."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.fairface", description=__doc__)
    parser.add_argument("--fairface", required=True, help="folder that the CSV's files are relative to")
    parser.add_argument("--csv", required=True, help="fairface_label_val.csv")
    parser.add_argument("--classifier", required=True)
    parser.add_argument("--maximising", required=True, help="one subfolder a label")
    parser.add_argument("--plain", help="plain-prompt pictures, one subfolder a label")
    parser.add_argument("--twin-maximising", help="as --maximising, made for the balanced twin")
    parser.add_argument("--attributes", default="gender,age,race")
    parser.add_argument("--judge", default="clip:openai/clip-vit-base-patch32")
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--limit", type=int, default=10_954, help="pictures of FairFace")
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args(words)
    figures = measure(asked)
    for row in figures["rows"]:
        named = f"{row['label']:<20} {row['attribute']:<8} {row['against']:<6}"
        print(f"{named} V {row['effect_size']:.2f}  q {row['q']:.4f}")
    if asked.json:
        print(json.dumps({"name": "fairface", "figures": figures}))
    return figures


if __name__ == "__main__":
    main()
