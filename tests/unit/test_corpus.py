from __future__ import annotations

import json
import pickle
import subprocess
import sys
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from diffexplain.cli import app
from diffexplain.corpus import (
    MAX_BYTES,
    MAX_DEPTH,
    MAX_NODES,
    MAX_SLOT,
    Corpus,
    Document,
    added,
    available,
    difference,
    findings,
    grow,
    kept,
    load_corpus,
    load_document,
    merged,
    parse_corpus,
    pruned,
    removed,
    renamed,
    rephrased,
    schema,
    tree_text,
    written,
)
from diffexplain.corpus.document import read_document
from diffexplain.errors import CorpusError
from diffexplain.worlds import avatars as world

Node = dict[str, Any]
Write = Callable[[str | bytes], Path]

HEAD = 'name: pets\ndomain: pets\nprompt: "a pet with {phrase}"\nneutral: a pet\n'
PETS = (
    HEAD
    + """
concepts:
  - name: coat
    hidden_by: [blanket/big]
    whole_image: true
    children:
      - name: colour
        exclusive: true
        protected: true
        children:
          - {name: black, phrase: black fur}
          - {name: white, phrase: white fur, protected: false}
      - {name: spots, prompt: a spotted pet, replaces: [coat/stripes]}
      - {name: stripes, hidden_by: [coat/colour/black], whole_image: false, directions: [remove]}
  - name: collar
    exclusive: true
    absent: no collar
    phrase: a collar
    children: [{name: red, phrase: a red collar}, {name: bell, phrase: a bell}]
  - {name: blanket, children: [{name: big}, {name: small}]}
"""
)


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def _write(content: str | bytes) -> Path:
        path = tmp_path / "pets.yaml"
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return path

    return _write


@pytest.fixture
def pets(write: Write) -> Corpus:
    return load_corpus(write(PETS))


def document(concepts: object, **changes: object) -> dict[str, object]:
    head = {"name": "n", "domain": "d", "prompt": "a {phrase}", "neutral": "a thing"}
    return {**head, "concepts": concepts, **changes}


# -- the avatars corpus says what the world does ------------------------------------------------------


@pytest.fixture(scope="module")
def avatars() -> Corpus:
    return load_corpus("avatars")


def slot_of(path: str) -> str:
    return world.LEAVES[path][0]


def test_the_avatars_leaves_are_the_worlds_in_its_order(avatars: Corpus) -> None:
    assert [c.path for c in avatars.leaves()] == list(world.LEAVES)
    assert len(avatars.leaves()) >= 45
    assert avatars.name == "avatars"


def test_the_avatars_prompts_are_the_worlds(avatars: Corpus) -> None:
    for concept in avatars.walk():
        said = concept.is_leaf or concept.path in world.GENERAL
        assert concept.prompt == (world.prompt(concept.path) if said else ""), concept.path
    assert set(world.GENERAL) <= set(avatars)
    assert avatars.neutral == "a person"


def test_the_avatars_slots_are_the_worlds_attributes(avatars: Corpus) -> None:
    slots = {c.slot for c in avatars.walk() if c.slot}
    assert len(slots) == len(world.ATTRIBUTES)
    assert {frozenset(c.path for c in avatars.slot_leaves(s)) for s in slots} == {
        frozenset(v.path for v in values.values()) for values in world.ATTRIBUTES.values()
    }
    for leaf in avatars.leaves():
        same = {p for p, (slot, _) in world.LEAVES.items() if slot == slot_of(leaf.path)}
        assert {leaf.path, *leaf.replaces} == same


def test_what_the_avatars_world_can_remove_is_what_the_corpus_can(avatars: Corpus) -> None:
    for leaf in avatars.leaves():
        optional = slot_of(leaf.path) in world.OPTIONAL
        assert leaf.directions == (("add", "remove") if optional else ("add",)), leaf.path
        absent = f"a person with {world.OPTIONAL[slot_of(leaf.path)][1]}" if optional else None
        assert leaf.absent_prompt == absent, leaf.path
    for concept in avatars.walk():  # an inner node can do what any of its leaves can
        optional = any(slot_of(leaf) in world.OPTIONAL for leaf in concept.leaves)
        assert ("remove" in concept.directions) == optional, concept.path


def test_what_hides_in_the_avatars_world_hides_in_the_corpus(avatars: Corpus) -> None:
    bare = world.sample(1, seed=0)[0]._replace(**dict.fromkeys(world.OPTIONAL, world.NONE))
    for leaf in avatars.leaves():
        slot = slot_of(leaf.path)
        for path, (other, value) in world.LEAVES.items():
            shown = world.applicable(bare._replace(**{other: value}), slot)
            hidden = any(path in avatars[hiding].leaves for hiding in leaf.hidden_by)
            assert hidden == (not shown), (leaf.path, path)


def test_the_avatars_corpus_knows_where_a_change_stays(avatars: Corpus) -> None:
    assert not any(c.whole_image or c.protected for c in avatars.walk())


# -- what a node has from those above it --------------------------------------------------------------


def test_a_tree_is_read_in_document_order(pets: Corpus) -> None:
    assert list(pets) == [
        "coat",
        "coat/colour",
        "coat/colour/black",
        "coat/colour/white",
        "coat/spots",
        "coat/stripes",
        "collar",
        "collar/red",
        "collar/bell",
        "blanket",
        "blanket/big",
        "blanket/small",
    ]
    assert pets.roots == ("coat", "collar", "blanket")
    assert len(pets) == 12
    assert [c.path for c in pets.walk()] == list(pets)
    assert [c.name for c in pets.children("coat")] == ["colour", "spots", "stripes"]
    assert pets["coat"].leaves == ("coat/colour/black", "coat/colour/white", "coat/spots", "coat/stripes")
    assert [pets[p].depth for p in ("coat", "coat/colour", "coat/colour/black")] == [0, 1, 2]
    assert pets["coat"].parent is None
    assert pets["coat/spots"].parent == "coat"
    assert pets["coat/spots"].is_leaf
    assert not pets["coat"].is_leaf
    assert "coat/spots" in pets
    assert "spots" not in pets


def test_prompts_come_from_prompt_phrase_or_name(pets: Corpus) -> None:
    assert pets["coat/spots"].prompt == "a spotted pet"
    assert pets["collar"].prompt == "a pet with a collar"
    assert pets["blanket/big"].prompt == "a pet with big"
    assert pets["blanket"].prompt == ""
    assert pets["collar/red"].absent_prompt == pets["collar"].absent_prompt == "a pet with no collar"
    assert pets["coat/colour/black"].absent_prompt is None


def test_directions_follow_the_slot_unless_stated(pets: Corpus) -> None:
    assert pets["collar"].directions == pets["collar/red"].directions == ("add", "remove")
    assert pets["coat/colour"].directions == pets["coat/colour/black"].directions == ("add",)
    assert pets["coat/spots"].directions == ("add", "remove")  # in no slot
    assert pets["coat/stripes"].directions == ("remove",)
    assert pets["coat"].directions == ("add", "remove")  # as some leaf


def test_stated_directions_hold_below_in_the_usual_order() -> None:
    nodes = [{"name": "a", "directions": ["remove", "add"], "exclusive": True, "children": [{"name": "b"}]}]
    tree = parse_corpus(yaml.safe_dump(document(nodes)))
    assert tree["a"].directions == tree["a/b"].directions == ("add", "remove")


def test_the_leaves_of_a_slot_replace_each_other(pets: Corpus) -> None:
    assert pets["coat/colour/black"].slot == pets["coat/colour"].slot == "coat/colour"
    assert pets["coat/spots"].slot is None
    assert pets["coat/colour/black"].replaces == ("coat/colour/white",)
    assert pets["coat/spots"].replaces == ("coat/stripes",)
    assert pets["coat/colour"].replaces == ()
    assert [c.path for c in pets.slot_leaves("collar")] == ["collar/red", "collar/bell"]


def test_a_slot_within_a_slot_is_the_nearest_but_the_widest_excludes() -> None:
    inner = {"name": "i", "exclusive": True, "children": [{"name": "a"}, {"name": "b"}]}
    outer = {"name": "o", "exclusive": True, "absent": "no o", "children": [inner, {"name": "c"}]}
    tree = parse_corpus(yaml.safe_dump(document([outer])))
    assert tree["o/i/a"].slot == "o/i"
    assert tree["o/i/a"].absent_prompt is None
    assert tree["o/i/a"].directions == ("add",)
    assert tree["o/i/a"].replaces == ("o/i/b", "o/c")
    assert tree["o/c"].replaces == ("o/i/a", "o/i/b")


def test_what_is_hidden_replaced_whole_or_protected_holds_below(pets: Corpus) -> None:
    assert pets["coat/colour/white"].hidden_by == ("blanket/big",)
    assert parse_corpus(PETS.replace("phrase: a collar", "replaces: [coat]"))["collar/red"].replaces == (
        "coat",
        "collar/bell",
    )
    assert pets["coat/stripes"].hidden_by == ("blanket/big", "coat/colour/black")
    assert [pets[p].protected for p in ("coat", "coat/colour/black", "coat/colour/white")] == [
        False,
        True,
        False,
    ]
    assert [pets[p].whole_image for p in ("coat/spots", "coat/stripes", "collar")] == [True, False, False]


def test_a_shared_alias_that_is_no_cycle_is_fine() -> None:
    text = HEAD + "concepts:\n- {name: a, children: &c [{name: x}]}\n- {name: b, children: *c}\n"
    assert list(parse_corpus(text)) == ["a", "a/x", "b", "b/x"]


def test_a_byte_order_mark_and_outer_spaces_are_dropped(write: Write) -> None:
    text = HEAD + 'concepts: [{name: " a ", phrase: "  ä cat "}]\n'
    assert load_corpus(write(b"\xef\xbb\xbf" + text.encode()))["a"].prompt == "a pet with ä cat"


# -- finding, restricting, hashing, showing -----------------------------------------------------------


def test_a_corpus_is_found_by_name_path_text_or_itself(write: Write, avatars: Corpus) -> None:
    assert "avatars" in available()
    path = write(PETS)
    assert load_corpus(path) == load_corpus(str(path)) == parse_corpus(PETS)
    assert load_corpus(avatars) is avatars
    assert load_corpus("avatars") == avatars


@pytest.mark.parametrize(
    ("asked", "cure"),
    [
        ("whiskers", "its roots are ['coat', 'collar', 'blanket']"),
        ("coat/color", "did you mean ['coat/colour'"),
        ("black", "did you mean ['coat/colour/black']?"),
    ],
)
def test_an_unknown_path_names_close_ones(pets: Corpus, asked: str, cure: str) -> None:
    for look_up in (pets.__getitem__, pets.children, pets.slot_leaves, pets.restrict):
        with pytest.raises(CorpusError) as caught:
            look_up(asked)
        assert f"corpus 'pets' has no concept {asked!r}" in str(caught.value)
        assert cure in str(caught.value)


@pytest.mark.parametrize("path", ["coat", "coat/spots", "collar/red"])
def test_slot_leaves_of_no_slot(pets: Corpus, path: str) -> None:
    with pytest.raises(CorpusError, match=f"'{path}' is no slot; mark it"):
        pets.slot_leaves(path)


def test_restrict_keeps_just_the_subtrees_and_all_facts(pets: Corpus) -> None:
    part = pets.restrict(["collar/red", "coat/colour/black", "coat/colour"])
    assert list(part) == ["coat/colour", "coat/colour/black", "coat/colour/white", "collar/red"]
    assert part.roots == ("coat/colour", "collar/red")
    assert [c.path for c in part.leaves()] == ["coat/colour/black", "coat/colour/white", "collar/red"]
    assert len(part) == 4
    assert all(part[p] == pets[p] for p in pets)  # what hides or is replaced is still looked up
    assert [c.path for c in part.slot_leaves("collar")] == ["collar/red", "collar/bell"]
    assert "collar" not in part
    assert len({pets.hash, part.hash, pets.restrict("coat").hash}) == 3


def test_restrict_again_and_to_everything(pets: Corpus) -> None:
    assert pets.restrict(pets.roots) == pets
    assert pets.restrict(reversed(pets.roots)).hash == pets.hash
    twice = pets.restrict("coat").restrict("coat/spots")
    assert twice == pets.restrict(["coat/spots"])
    assert twice.hash == pets.restrict(["coat/spots"]).hash
    with pytest.raises(CorpusError, match="has no concept 'collar'"):
        pets.restrict("coat").restrict("collar")
    with pytest.raises(CorpusError, match="has no concept ''; its roots are"):
        pets.restrict([])


def test_the_hash_is_of_everything_a_run_depends_on(pets: Corpus) -> None:
    changes = [
        ("name: pets", "name: pet"),
        ("domain: pets", "domain: dogs"),
        ("neutral: a pet", "neutral: an animal"),
        ("a pet with", "the pet with"),
        ("red collar", "pink collar"),
        ("no collar", "no lead"),
        ("directions: [remove]", "directions: [add]"),
        ("hidden_by: [blanket/big]", "hidden_by: [blanket/small]"),
        ("replaces: [coat/stripes]", "replaces: [blanket/big]"),
        ("whole_image: true", "whole_image: false"),
        ("protected: true", "protected: false"),
        ("{name: big}, {name: small}", "{name: small}, {name: big}"),
    ]
    hashes = {parse_corpus(PETS.replace(old, new)).hash for old, new in changes}
    assert len(hashes - {pets.hash}) == len(changes)
    assert hash(parse_corpus(PETS)) == hash(pets)
    assert pickle.loads(pickle.dumps(pets)) == pets


def test_the_hash_is_the_same_in_another_process(avatars: Corpus) -> None:
    code = "from diffexplain.corpus import load_corpus; print(load_corpus('avatars').hash)"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == avatars.hash


def test_importing_and_loading_needs_no_torch() -> None:
    code = "import sys, diffexplain.corpus as c; c.load_corpus('avatars'); print('torch' in sys.modules)"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "False"


def test_the_tree_is_shown_for_people(pets: Corpus) -> None:
    lines = tree_text(pets).splitlines()
    assert lines[0] == "pets: pets, 12 concepts, 8 leaves"
    assert "  coat  +−" in lines
    assert "    colour  + one of protected" in lines
    assert "      black  + protected  a pet with black fur" in lines
    assert "      white  +  a pet with white fur" in lines
    assert tree_text(pets.restrict("coat/colour")).splitlines()[1:3] == [
        "  colour  + one of protected",
        "    black  + protected  a pet with black fur",
    ]


# -- the bundled domains ------------------------------------------------------------------------------

bundled = lru_cache(load_corpus)
DOMAINS = (
    "faces", "birds", "wildcats", "pets", "leaves", "retina", "fashion", "food", "architecture", "scenes",
)  # fmt: skip
#: the top attributes that DiffEx reports for its domains, and where they are.
TOP = {
    "faces": {
        "eyebrow": "eyebrows", "makeup": "makeup", "mustache type": "facial hair/moustache type",
        "teeth": "mouth/teeth", "lip volume": "mouth/lip volume", "lip color": "mouth/lip colour",
        "eyelash": "eyes/eyelashes", "beard type": "facial hair/beard type", "facewear": "worn/facewear",
        "headwear": "worn/headwear",
    },
    "birds": {
        "upperparts": "upperparts", "head color": "head/head colour", "beak shape": "beak/beak shape",
        "beak color": "beak/beak colour", "wing pattern": "wings/wing pattern", "eye": "eye",
        "throat": "throat and breast/throat", "wing color": "wings/wing colour", "crest": "head/crest",
        "feather texture": "plumage/feather texture",
    },
    "leaves": {
        "base": "base", "vein": "veins", "apex color": "apex/apex colour", "spots": "spots",
        "disease": "disease", "blight size": "disease/blight size", "texture": "texture",
        "spots color": "spots/spots colour", "discoloration": "discolouration",
        "orientation": "view/orientation",
    },
    "retina": {
        "glaucoma": "optic disc/glaucoma",
        "subretinal hemorrhage": "haemorrhages/subretinal haemorrhage",
        "intraretinal hemorrhage": "haemorrhages/intraretinal haemorrhage",
        "macular hole": "macula/macular hole", "hard exudates": "exudates/hard exudates",
        "soft exudates": "exudates/soft exudates", "blackened macula": "macula/macula colour/blackened",
        "drusen": "exudates/drusen", "optic disc hemorrhage": "haemorrhages/optic disc haemorrhage",
        "cataract": "media/cataract",
    },
    "wildcats": {
        "stripes": "fur/stripes", "open eyes": "eyes/eye opening/open", "nose color": "nose/nose colour",
        "spots": "fur/spots", "fur color": "fur/fur colour", "mane": "mane", "eye color": "eyes/eye colour",
        "tongue": "mouth/tongue", "pupil size": "eyes/pupil size", "whiskers": "whiskers",
    },
    "pets": {
        "nose color": "nose and muzzle/nose colour", "whiskers": "nose and muzzle/whiskers",
        "eye color": "eyes/eye colour", "closed mouth": "mouth/mouth opening/closed mouth",
        "open mouth": "mouth/mouth opening/open mouth", "spots": "fur/spots", "collar": "worn/collar",
        "pointed ears": "ears/ear shape/pointed ears", "mouth color": "mouth/mouth colour",
        "fur pattern": "fur/fur pattern",
    },
}  # fmt: skip


def test_the_ten_domains_are_there() -> None:
    assert set(available()) == {*DOMAINS, "avatars"}


@pytest.mark.parametrize("name", DOMAINS)
def test_a_domain_is_three_levels_of_distinct_grounded_prompts(name: str) -> None:
    corpus = bundled(name)
    leaves = corpus.leaves()
    assert corpus.name == name
    assert corpus.sources
    assert 80 <= len(leaves) <= 300
    assert {leaf.depth for leaf in leaves} == {2}
    assert len({leaf.prompt.casefold() for leaf in leaves}) == len(leaves)
    for root in corpus.roots:
        phrases = [corpus[path].phrase.casefold() for path in corpus[root].leaves]
        assert len(set(phrases)) == len(phrases), root
    assert findings(corpus) == ()
    for leaf in leaves:
        assert len(leaf.prompt.split()) <= 40, leaf.path
        assert leaf.prompt == corpus.prompt.replace("{phrase}", leaf.phrase)
        assert leaf.prompt == leaf.prompt.strip()
        assert leaf.prompt.isprintable()
        assert "  " not in leaf.prompt
    assert all(len(c.children) > 1 or c.absent for c in corpus.walk() if not c.is_leaf)


@pytest.mark.parametrize("name", DOMAINS)
def test_in_a_domain_what_can_be_missing_can_be_removed_and_nothing_else(name: str) -> None:
    corpus = bundled(name)
    assert sum("remove" in leaf.directions for leaf in corpus.leaves()) >= 20
    for leaf in corpus.leaves():
        assert ("remove" in leaf.directions) == (leaf.slot is None or leaf.absent is not None), leaf.path
    kinds = [c for c in corpus.walk() if c.slot == c.path and c.absent]
    assert len({(c.parent, c.absent) for c in kinds}) == len(kinds)


@pytest.mark.parametrize(
    ("name", "attribute", "path"), [(n, a, p) for n, known in TOP.items() for a, p in known.items()]
)
def test_what_diffex_finds_is_in_its_domain(name: str, attribute: str, path: str) -> None:
    assert path in bundled(name), attribute


def test_the_protected_attributes_of_faces_say_so() -> None:
    faces = bundled("faces")
    protected = {c.parent for c in faces.leaves() if c.protected}
    assert protected == set(faces["person"].children)
    assert {"person/skin tone", "person/perceived gender", "person/perceived age"} <= protected


def test_prompts_fit_into_clip() -> None:
    """Counted by the pocket's own tokenizer, whose words are few: it splits more than CLIP's does."""
    from transformers import AutoTokenizer

    from diffexplain import pocket

    tokenizer = AutoTokenizer.from_pretrained(str(pocket.ROOT / "clip"))
    for name in DOMAINS:
        prompts = [leaf.prompt for leaf in bundled(name).leaves()]
        assert max(map(len, tokenizer(prompts)["input_ids"])) <= 77, name


# -- documents: schema, difference, merge, prune ------------------------------------------------------


def shipped() -> str:
    return (Path(world.__file__).parents[1] / "corpora/schema.json").read_text("utf-8")


def test_the_schema_that_is_shipped_is_the_models() -> None:
    assert shipped() == schema()
    node = json.loads(shipped())["$defs"]["Node"]["properties"]
    assert set(node) == {
        "name", "phrase", "prompt", "exclusive", "absent", "directions", "hidden_by", "replaces",
        "whole_image", "protected", "children",
    }  # fmt: skip
    assert all("description" in key for key in node.values())


def test_the_schema_takes_what_loads_and_refuses_the_rest() -> None:
    jsonschema = pytest.importorskip("jsonschema")
    checker = jsonschema.Draft202012Validator(json.loads(shipped()))
    for name in DOMAINS:
        text = (Path(world.__file__).parents[1] / f"corpora/{name}.yaml").read_text("utf-8")
        assert checker.is_valid(yaml.safe_load(text)), name
        assert text.startswith("# yaml-language-server: $schema=schema.json\n")
    assert not checker.is_valid(document([{"name": "a", "phrse": "x"}]))
    assert not checker.is_valid(document([{"name": "a"}], prompt="no place"))
    assert not checker.is_valid(document([]))


def doc(nodes: object, **changes: object) -> Document:
    return Document.model_validate(document(nodes, **changes))


def test_what_is_written_is_what_was_read(write: Write) -> None:
    for name in available():
        again = parse_corpus(written(load_document(name)))
        assert again == bundled(name)
        assert again.sources == bundled(name).sources
    assert "    - {name: red, phrase: a red collar}\n" in written(load_document(write(PETS)))


def test_sources_are_kept_and_change_no_run(write: Write) -> None:
    sourced = parse_corpus("sources: [a book, our eyes]\n" + PETS)
    assert sourced.sources == ("a book", "our eyes")
    assert sourced.hash == parse_corpus(PETS).hash
    assert parse_corpus(PETS).sources == ()


def test_a_difference_is_a_line_each() -> None:
    old = doc([{"name": "a", "children": [{"name": "x"}, {"name": "y", "phrase": "a y"}]}, {"name": "b"}])
    new = doc(
        [{"name": "a", "exclusive": True, "children": [{"name": "y", "phrase": "the y"}, {"name": "z"}]}],
        neutral="another thing",
    )
    assert difference(old, new) == (
        "neutral: a thing → another thing",
        "- a/x",
        "- b",
        "+ a/z",
        "~ a: exclusive: False → True",
        "~ a/y: phrase: a y → the y",
    )
    assert difference(old, old) == ()


def test_merging_fills_what_is_missing_and_the_first_wins() -> None:
    first = doc([{"name": "a", "phrase": "an a", "children": [{"name": "x"}]}], sources=["me"])
    other = doc(
        [
            {"name": "b"},
            {
                "name": "a", "phrase": "the a", "protected": True,
                "children": [{"name": "x", "phrase": "an x"}, {"name": "y"}],
            },
        ],
        sources=["me", "you"],
        neutral="something",
    )  # fmt: skip
    whole, gave_way = merged(first, other)
    corpus = grow(whole)
    assert list(corpus) == ["a", "a/x", "a/y", "b"]
    assert (corpus["a"].phrase, corpus["a/x"].phrase, corpus["a"].protected) == ("an a", "an x", True)
    assert corpus.neutral == "a thing"
    assert corpus.sources == ("me", "you")
    assert gave_way == ("a: phrase: the a gave way to an a",)


def test_pruning_cuts_subtrees_what_they_emptied_and_what_named_them() -> None:
    tree = doc(
        [
            {"name": "a", "children": [{"name": "k", "children": [{"name": "x"}]}, {"name": "y"}]},
            {"name": "b", "hidden_by": ["a/k/x", "a/y"], "children": [{"name": "z", "replaces": ["a/k"]}]},
        ]
    )
    left = grow(pruned(tree, ["a/k/x"]))
    assert list(left) == ["a", "a/y", "b", "b/z"]
    assert left["b/z"].hidden_by == ("a/y",)
    assert left["b/z"].replaces == ()
    assert list(grow(kept(tree, ["a/k"]))) == ["a", "a/k", "a/k/x"]
    assert list(grow(kept(tree, ["b", "a/y"]))) == ["a", "a/y", "b", "b/z"]
    with pytest.raises(CorpusError, match=r"no concept 'x'; did you mean \['a/k/x'\]"):
        pruned(tree, ["x"])
    with pytest.raises(CorpusError, match="nothing is left"):
        pruned(tree, ["a", "b"])
    with pytest.raises(CorpusError, match="at least one path"):
        kept(tree, [])


def test_a_renamed_concept_is_renamed_where_others_name_it() -> None:
    document = read_document(
        "{name: n, domain: d, prompt: 'a {phrase}', neutral: a, concepts: ["
        "{name: hat, children: [{name: cap, phrase: cap}, {name: top}]},"
        "{name: hats, replaces: [hat/top]}, {name: hair, hidden_by: [hat/cap, hat]}]}"
    )
    found = renamed(document, "hat", " lid ")
    assert found.concepts[0].name == "lid"
    assert found.concepts[1].replaces == ["lid/top"]
    assert found.concepts[1].name == "hats"
    assert found.concepts[2].hidden_by == ["lid/cap", "lid"]
    assert renamed(found, "lid", "hat") == document
    with pytest.raises(CorpusError, match="2 times"):
        renamed(document, "hat", "hats")
    with pytest.raises(CorpusError, match="no concept 'hat/bow'"):
        renamed(document, "hat/bow", "tie")


def test_a_phrase_is_stated_or_taken_back() -> None:
    document = load_document("avatars")
    found = rephrased(document, "facial hair/beard", "a mighty beard")
    assert grow(found)["facial hair/beard"].phrase == "a mighty beard"
    assert rephrased(found, "facial hair/beard", "a beard") == document
    assert grow(rephrased(document, "sticker/star", ""))["sticker/star"].phrase == "star"


def test_what_is_added_gets_a_free_name_and_what_is_removed_is_gone() -> None:
    document = load_document("avatars")
    once, first = added(document, "sticker")
    twice, second = added(once, "sticker")
    assert (first, second) == ("sticker/new concept", "sticker/new concept 2")
    assert removed(removed(twice, second), first) == document
    assert added(document, "")[1] == "new concept"
    leaf, below = added(document, "sticker/star")
    assert grow(leaf)["sticker/star"].children == (below,)


def test_findings_name_probable_mistakes() -> None:
    nodes = [
        {"name": "a", "exclusive": True, "children": [{"name": "x", "phrase": "same"}]},
        {"name": "b", "phrase": "same"},
        {"name": "c", "phrase": "very " * 70 + "long"},
    ]
    found = findings(grow(doc(nodes)))
    assert [line.split()[0] for line in found] == ["'c'", "'a/x'", "'b'", "'a'"]
    assert "72 words" in found[0]
    assert "the same prompt as another leaf, 'a same'" in found[1]
    assert "slot with one leaf and no `absent`" in found[3]


# -- the command line -----------------------------------------------------------------------------------


def run(*args: object) -> tuple[int, str, str]:
    told = CliRunner().invoke(app, ["corpus", *map(str, args)])
    return told.exit_code, told.stdout, told.stderr


def test_the_short_forms_list_and_show() -> None:
    assert run() == run("list")
    assert "faces          204 leaves  portrait photos of people" in run("list")[1]
    assert run("avatars") == run("show", "avatars") == (0, tree_text(load_corpus("avatars")) + "\n", "")


def test_validate_says_what_a_file_holds_or_what_is_wrong(write: Write, tmp_path: Path) -> None:
    path = write(PETS)
    code, said, _ = run("validate", path, "birds")
    assert code == 0
    assert f"{path}: valid, 12 concepts, 8 leaves, 3 levels, 1 protected" in said
    assert "birds: valid" in said
    code, said, wrong = run("validate", write(PETS.replace("phrase: a collar", "phrse: a collar")))
    assert (code, said) == (2, "")
    assert "'collar', key 'phrse': unknown" in wrong
    code, said, _ = run("validate", write(PETS.replace("a bell", "a red collar")))
    assert "note: 'collar/red' has the same prompt as another leaf" in said
    assert run("nosuch")[0] == run("validate", tmp_path / "none.yaml")[0] == 2


def test_diff_merge_and_prune_work_on_files(write: Write, tmp_path: Path) -> None:
    mine, out = write(PETS), tmp_path / "out.yaml"
    assert run("diff", mine, mine) == (0, "", "")
    code, said, _ = run("prune", mine, "coat", "--out", out)
    assert (code, said) == (0, f"corpus: {out}\n")
    assert load_corpus(out).roots == ("collar", "blanket")
    code, said, _ = run("diff", mine, out)
    assert code == 1
    assert said.splitlines()[0] == "- coat"
    code, said, noted = run("merge", out, mine)
    assert code == 0
    assert parse_corpus(said).roots == ("collar", "blanket", "coat")
    assert not noted
    code, said, _ = run("prune", mine, "collar/red", "--keep")
    assert list(parse_corpus(said)) == ["collar", "collar/red"]
    assert run("merge", mine)[2] == "diffexplain: corpus merge: name at least two corpora\n"
    assert run("prune", mine, "nosuch")[0] == 2
    assert "choose another" in run("prune", mine, "coat", "--out", tmp_path)[2]
    assert json.loads(run("schema")[1]) == json.loads(shipped())


# -- files that are wrong -----------------------------------------------------------------------------


def nested(depth: int) -> str:
    inner = "{name: n, children: [" * (depth - 1)
    return HEAD + f"concepts: [{inner}{{name: leaf}}{']}' * (depth - 1)}]\n"


def unfolding(levels: int) -> str:
    """A small file whose aliases unfold to 10 ** levels concepts."""
    lists = ["&l0 [" + ", ".join(f"{{name: n{i}}}" for i in range(10)) + "]"]
    for level in range(1, levels):
        nodes = ", ".join(f"{{name: n{i}, children: *l{level - 1}}}" for i in range(10))
        lists.append(f"&l{level} [{nodes}]")
    spare = ", ".join(f"{{name: s{i}, children: {nodes}}}" for i, nodes in enumerate(lists))
    return HEAD + f"concepts: [{spare}]\n"


BAD = {
    "two siblings": (
        "concepts: [{name: a, children: [{name: x}, {name: y}, {name: x}]}]",
        "'a/x' is there 2",
    ),
    "two roots": ("concepts: [{name: a}, {name: ' a'}]", "'a' is there 2 times; rename one"),
    "a cycle": ("concepts:\n- &a {name: a, children: [{name: b, children: [*a]}]}", "'a' contains itself"),
    "a cycle of lists": (
        "concepts: &c [{name: a, children: *c}]",
        "'a' contains itself through a YAML alias",
    ),
    "an unknown key": (
        "concepts: [{name: a, children: [{name: b, phrse: x}]}]",
        "'a/b', key 'phrse': unknown",
    ),
    "an unknown key on top": (
        "extra: 1\nconcepts: [{name: a}]",
        "key 'extra': unknown; known are name, domain",
    ),
    "a key that is no text": ("concepts: [{name: a, 1: x}]", "'a', key '1': Keys should be strings"),
    "no name": ("concepts: [{name: a, children: [{phrase: x}]}]", "'a/[0]', key 'name': missing"),
    "an empty name": ("concepts: [{name: ''}]", "key 'name': String should have at least 1 character"),
    "a blank name": ("concepts: [{name: ' '}]", "key 'name': String should have at least 1 character"),
    "an empty phrase": (
        "concepts: [{name: a, phrase: ''}]",
        "'a', key 'phrase': String should have at least",
    ),
    "a slash": ("concepts: [{name: a, children: [{name: b/c}]}]", "'b/c' has '/' or ' + ' in it"),
    "a joint": ("concepts: [{name: a + b}]", "'a + b' has '/' or ' + ' in it, which join paths; rename it"),
    "a trailing plus": ("concepts: [{name: a +}]", "'a +' has '/' or ' + ' in it"),
    "a line break": ('concepts: [{name: "a\\nb"}]', "'a\\nb', key 'name': String should match"),
    "a lone surrogate": ('concepts: [{name: a, phrase: "\\uD800"}]', "'a', key 'phrase': "),
    "no for a word": (
        "concepts: [{name: a, children: [{name: no}]}]",
        "'a/[0]', key 'name': must be text, not False; put it in",
    ),
    "a number for a word": (
        "concepts: [{name: a, phrase: 7}]",
        "'a', key 'phrase': must be text, not 7; put",
    ),
    "text for a flag": (
        "concepts: [{name: a, exclusive: 'yes'}]",
        "'exclusive': Input should be a valid boolean",
    ),
    "an unknown direction": ("concepts: [{name: a, directions: [up]}]", "'add' or 'remove', not 'up'"),
    "no directions": ("concepts: [{name: a, directions: []}]", "'a', key 'directions': List should have at"),
    "text for a list": (
        "concepts: [{name: a, hidden_by: b}]",
        "'a', key 'hidden_by': Input should be a valid list",
    ),
    "a list for a node": ("concepts: [[a]]", "key 'concepts': Input should be a valid dictionary"),
    "text for children": (
        "concepts: [{name: a, children: b}]",
        "'a', key 'children': Input should be a valid list",
    ),
    "no concepts": ("concepts: []", "key 'concepts': List should have at least 1 item"),
    "no concepts key": ("", "key 'concepts': missing"),
    "hidden by nothing": (
        "concepts: [{name: a, hidden_by: [b]}]",
        "'a', key 'hidden_by': 'b' is no concept in",
    ),
    "replacing nothing": (
        "concepts: [{name: a}, {name: b, replaces: [c]}]",
        "'b', key 'replaces': 'c' is no",
    ),
    "hidden by itself": (
        "concepts: [{name: a, hidden_by: [a]}]",
        "'a', key 'hidden_by': 'a' is no concept in",
    ),
    "hidden by its child": (
        "concepts: [{name: a, hidden_by: [a/b], children: [{name: b}]}]",
        "'a', key 'hidden_by': 'a/b' is no concept",
    ),
    "replacing its parent": (
        "concepts: [{name: a, children: [{name: b, replaces: [a]}]}]",
        "'a/b', key 'replaces'",
    ),
    "absent outside a slot": ("concepts: [{name: a, absent: no a}]", "'a', key 'absent': only a slot has it"),
    "broken YAML": (
        "concepts:\n- {name: a\n- {name: b}",
        "line 7, column 3: not valid YAML: expected ',' or '}'",
    ),
    "a tab": ("concepts:\n\t- a", "line 6, column 1: not valid YAML: found character '\\t'"),
    "a tag": ("concepts: !!python/object/apply:os.getcwd []", "line 5, column 11: not valid YAML: could not"),
    "a control character": ("concepts: [{name: a\x07}]", "not valid YAML: unacceptable character #x0007"),
    "an impossible date": ("concepts: [{name: 2001-99-99}]", "not valid YAML: month must be in 1..12"),
    "two documents": ("concepts: [{name: a}]\n---\nx: 1", "line 6, column 1: not valid YAML: but found"),
    "a key twice": (
        "concepts:\n- name: a\n  name: b",
        "line 7, column 3: not valid YAML: 'name' is there twice",
    ),
    "a merge": (
        "concepts: [&a {name: a}, {<<: *a}]",
        "line 5, column 27: not valid YAML: '<<' merges mappings",
    ),
    "brackets without end": ("concepts: " + "[" * 5000, "not valid YAML: maximum recursion depth"),
}


@pytest.mark.parametrize(("content", "says"), BAD.values(), ids=BAD)
def test_a_malformed_file_says_what_and_where(write: Write, content: str, says: str) -> None:
    path = write(HEAD + content + "\n")
    with pytest.raises(CorpusError) as caught:
        load_corpus(path)
    message = str(caught.value)
    assert message.startswith(f"corpus {path}: ")
    assert says in message
    assert "\n" not in message
    assert len(message) <= 600


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "must be a mapping with name, domain, prompt, neutral, concepts"),
        (b"- a\n- b\n", "must be a mapping with"),
        (HEAD.encode() + b"concepts: [{name: caf\xe9}]", "codec can't decode byte 0xe9"),
        (HEAD.encode("utf-16"), "give a YAML file in UTF-8"),
        (
            HEAD.replace("{phrase}", "it").encode() + b"concepts: [{name: a}]",
            "key 'prompt': String should match",
        ),
        (nested(MAX_DEPTH + 1).encode(), f"'leaf' is deeper than {MAX_DEPTH} levels"),
        (nested(100).encode(), f"deeper than {MAX_DEPTH} levels"),
        (unfolding(6).encode(), f"is one more than {MAX_NODES:,} concepts; split the corpus"),
    ],
    ids=["empty", "a list", "latin-1", "utf-16", "no {phrase}", "too deep", "far too deep", "an alias bomb"],
)
def test_a_malformed_whole_says_what(write: Write, content: bytes, says: str) -> None:
    path = write(content)
    with pytest.raises(CorpusError) as caught:
        load_corpus(path)
    assert str(caught.value).startswith(f"corpus {path}: ")
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


def many(nodes: int) -> str:
    return HEAD + "concepts:\n" + "".join(f"- {{name: n{i}, phrase: thing {i}}}\n" for i in range(nodes))


def test_a_hundred_thousand_concepts_are_refused_before_they_are_read(
    write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(many(100_000))
    monkeypatch.setattr(yaml, "load", None)  # the slow part is not reached
    with pytest.raises(CorpusError, match=r"has about 100,001 concepts; a corpus may have 20,000 concepts"):
        load_corpus(path)
    with pytest.raises(CorpusError, match=r"a corpus may have 4 MB; prune or split it"):
        load_corpus(write(b"#" * (MAX_BYTES + 1)))


def test_the_greatest_depth_is_fine() -> None:
    assert len(parse_corpus(nested(MAX_DEPTH))) == MAX_DEPTH


def test_a_slot_may_not_be_endless() -> None:
    def slot(n: int) -> str:
        leaves = ", ".join(f"{{name: n{i}}}" for i in range(n))
        return HEAD + f"concepts: [{{name: a, exclusive: true, children: [{leaves}]}}]"

    assert len(parse_corpus(slot(MAX_SLOT))["a/n0"].replaces) == MAX_SLOT - 1
    with pytest.raises(CorpusError, match="'a' has 1,001 leaves; a slot may have 1,000"):
        parse_corpus(slot(MAX_SLOT + 1))


def test_a_name_that_is_itself_an_alias_bomb_is_cut_short() -> None:
    bombs = ["&b0 [x, x]"] + [f"&b{i} [*b{i - 1}, *b{i - 1}]" for i in range(1, 40)]
    text = HEAD + f"concepts: [{{name: [{', '.join(bombs)}]}}]"
    with pytest.raises(CorpusError, match=r"'\[0\]', key 'name': must be text") as caught:
        parse_corpus(text)
    assert len(str(caught.value)) <= 600


@pytest.mark.parametrize("name", ["nope", "/no/such/file.yaml", ".", "avatars.yml", "a\0b", "x" * 5000])
def test_an_unknown_corpus_names_the_available(name: str) -> None:
    for asked in (name, Path(name)):
        with pytest.raises(CorpusError, match=r"one of the bundled: .*avatars") as caught:
            load_corpus(asked)
        assert "\n" not in str(caught.value)


# -- any tree -----------------------------------------------------------------------------------------


names = (
    st.text(st.characters(exclude_categories=["Cc", "Cs", "Zl", "Zp"], exclude_characters="/"), min_size=1)
    .map(str.strip)
    .filter(lambda n: n and " + " not in f" {n} ")
)
flags = st.booleans()


def trees(depth: int) -> st.SearchStrategy[list[Node]]:
    below = trees(depth - 1) if depth else st.just([])
    node = st.fixed_dictionaries(
        {"name": names}, optional={"exclusive": flags, "protected": flags, "phrase": names, "children": below}
    )
    return st.lists(node, max_size=3, unique_by=lambda n: n["name"])


def paths(nodes: list[Node], above: str = "") -> list[str]:
    return [
        p for n in nodes for p in (above + n["name"], *paths(n.get("children", []), f"{above}{n['name']}/"))
    ]


@settings(deadline=None, max_examples=60)
@given(trees(3).filter(bool), flags)
def test_any_tree_survives_dump_and_load(nodes: list[Node], unicode: bool) -> None:
    corpus = parse_corpus(yaml.safe_dump(document(nodes), allow_unicode=unicode, sort_keys=False))
    assert list(corpus) == paths(nodes)
    assert corpus.roots == tuple(n["name"] for n in nodes)
    leaves = tuple(c.path for c in corpus.leaves())
    assert tuple(leaf for root in corpus.roots for leaf in corpus[root].leaves) == leaves
    reached = list(corpus.roots)
    for path in reached:
        reached.extend(corpus[path].children)
    assert sorted(reached) == sorted(corpus)
    for c in corpus.walk():
        assert bool(c.prompt) or not c.is_leaf
        assert c.is_leaf == (c.leaves == (c.path,))
        assert c.parent is None or c.path in corpus[c.parent].children
        assert set(c.replaces) <= set(leaves) - {c.path}
        assert c.directions
        assert all(c.path in corpus[p].replaces for p in c.replaces)
    again = parse_corpus(yaml.safe_dump(document(nodes), sort_keys=True))
    assert (again, again.hash) == (corpus, corpus.hash)
    turned = parse_corpus(yaml.safe_dump(document(nodes[::-1])))
    assert (turned.hash == corpus.hash) == (len(nodes) == 1)
    for root in corpus.roots:
        assert list(corpus.restrict(root)) == [p for p in corpus if p == root or p.startswith(f"{root}/")]
