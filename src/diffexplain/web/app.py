"""The page of the app, in Gradio: what is typed goes to `jobs` and `slider`, what they say is shown."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from diffexplain import api, pocket
from diffexplain.api import mining as api_mining
from diffexplain.corpus import Document, available, load_document, parse_corpus, written
from diffexplain.errors import DiffexplainError, InputError, MissingExtra
from diffexplain.store import RESULT, read_request, read_result
from diffexplain.web import branches, showing, slider
from diffexplain.web.jobs import ASKED, CORPUS, PICTURES, SUFFIXES, Jobs, Question, plain_question

EDITORS = ("pocket", "pocket-turbo")
SPEC = re.compile(r"(pocket|timm|torchvision|hf|clip):[\w.-]+(/[\w.-]+)?")
OWN = "my own"
JUDGES = ("pocket", api_mining.JUDGE)  # CLIPs that sift what is mined
MAX_WORDS = 100_000  # letters of a word list


class App:
    """What the page's buttons do. Every method takes and gives what Gradio's components hold."""

    def __init__(
        self,
        jobs: Jobs,
        classifiers: Sequence[str] = (),
        editors: Sequence[str] = (),
        miner: str | None = None,
    ) -> None:
        self.jobs, self.miner = jobs, miner
        self.classifiers = (*classifiers, *(f"pocket:{name}" for name in pocket_classifiers()))
        self.editors = (*editors, *EDITORS)

    def allowed(self, classifier: str) -> str:
        """A spec that runs no code and reads no file of ours. Raises InputError."""
        name = classifier.partition(":")[2]
        if classifier in self.classifiers:
            return classifier
        if not SPEC.fullmatch(classifier) or ".." in name or Path(name).exists():
            raise InputError(
                f"classifier {classifier!r}: pocket:, timm:, torchvision:, hf: and clip: names are taken; "
                "start `diffexplain web --classifier SPEC` to allow another"
            )
        return classifier

    def tree(self, corpus: str, text: str) -> str:
        """The corpus as a tree to edit, or what is wrong with it."""
        try:
            return branches.tree_form(_document(corpus, text))
        except DiffexplainError as error:
            return showing.failed(error)

    def edit(self, corpus: str, text: str, change: Mapping[str, Any]) -> tuple[str, str, str]:
        """A change made in the tree: the corpus chosen, its YAML, and what is wrong with the change."""
        try:
            return OWN, branches.edited(_document(corpus, text), change), ""
        except DiffexplainError as error:
            return corpus, text, showing.failed(error)

    def text(self, corpus: str, text: str) -> str:
        """The YAML of a bundled corpus, to change and use as one's own."""
        return text if corpus == OWN or corpus not in available() else written(load_document(corpus))

    def mine(
        self, files: list[str] | None, domain: str, words: str, judge: str, corpus: str, text: str
    ) -> tuple[Any, str, str]:
        """A corpus from the dropped pictures: chosen, its YAML, what was dropped; or why there is none."""
        if not self.jobs.heavy.acquire(blocking=False):
            return corpus, text, "A run is working: mine when it has ended."
        try:
            mined = self._mined(list(files or ()), domain, words, judge)
        except DiffexplainError as error:
            return corpus, text, f"{error}"
        finally:
            self.jobs.heavy.release()
        gone = [f"dropped {drop.path}: {drop.why}" for drop in mined.dropped]
        return OWN, written(mined.document), "\n".join([f"{len(mined.corpus.leaves())} concepts", *gone])

    def _mined(self, files: list[str], domain: str, words: str, judge: str) -> Any:
        if judge not in JUDGES:
            raise InputError(f"judge {judge!r}: choose {', '.join(JUDGES)}")
        if not words.strip() and self.miner is None:
            raise InputError("words (none): write candidates, one a line, or start with --miner MODEL")
        with tempfile.TemporaryDirectory() as folder:
            listed = Path(folder) / "words.txt"
            listed.write_text(words[:MAX_WORDS], "utf-8")
            asked: dict[str, Any] = {"words": listed} if words.strip() else {"model": self.miner}
            made, _ = api.mine_corpus(
                files, domain=domain, out=Path(folder) / "corpus.yaml", judge=judge, **asked
            )
        return made

    def foresee(
        self, files: list[str] | None, corpus: str, text: str, editor: str, budget: float | None
    ) -> str:
        """What the run would cost."""
        try:
            chosen = parse_corpus(text or "", "corpus") if corpus == OWN else corpus
            plan = api.foresee(list(files or ()), corpus=chosen, editor=self._editor(editor),
                               budget=plain_question({"budget": budget or None}).budget)  # fmt: skip
        except DiffexplainError as error:
            return f"{error}"
        said = (
            f"{plan.images} pictures, {plan.concepts} concepts: about {plan.edits} edits, {plan.evaluations} "
            f"UNet evaluations, {plan.seconds:.0f} s on this machine when it is quiet, "
            f"{plan.bytes / 1e6:.1f} MB."
        )
        return " ".join([said, *(f"Note: {warning}." for warning in plan.warnings)])

    def check(self, classifier: str, files: list[str] | None) -> str:
        """The doctor's findings on the dropped pictures, as text."""
        if not self.jobs.heavy.acquire(blocking=False):
            return "A run is working: check when it has ended."
        try:
            with tempfile.TemporaryDirectory() as folder:
                found = api.check(
                    self.allowed(classifier), list(files or ()), out=Path(folder) / "check.html"
                )
        except DiffexplainError as error:
            return f"{error}"
        finally:
            self.jobs.heavy.release()
        lines = [f"labels: {', '.join(found.labels[:8])}{' …' if len(found.labels) > 8 else ''}"]
        lines += [f"{'good' if f.good else 'WARNING'}: {f.name}: {f.says}" for f in found.findings]
        return "\n".join(lines)

    def submit(
        self, classifier: str, target: str, files: list[str] | None, corpus: str, text: str, editor: str,
        budget: float | None,
    ) -> tuple[Any, Any, str]:  # fmt: skip
        """Take a run: the list of runs with it chosen, where it stands, and what is wrong."""
        import gradio as gr

        try:
            question = plain_question({
                "classifier": self.allowed(classifier), "target": target, "editor": self._editor(editor),
                "corpus": "" if corpus == OWN else corpus, "budget": budget or None,
            })  # fmt: skip
            job = self.jobs.submit(question, files or (), text if corpus == OWN else "")
        except DiffexplainError as error:
            return self.runs(None), gr.update(), showing.failed(error)
        return self.runs(job.name), showing.status(job, self.jobs.before(job)), ""

    def stop(self, name: str | None) -> tuple[Any, str]:
        """Stop a run: where it stands, and what is wrong."""
        return self._told(name, lambda: self.jobs.stop(name or ""))

    def resume(self, name: str | None) -> tuple[Any, str]:
        """Go on with a run: where it stands, and what is wrong."""
        return self._told(name, lambda: self.jobs.resume(name or ""))

    def runs(self, chosen: str | None) -> Any:
        """The list of runs with one chosen: the given one, else the one that runs, else the newest."""
        import gradio as gr

        names, current = self.jobs.names(), self.jobs.current()
        newest = current.name if current else names[0] if names else None
        return gr.update(choices=names, value=chosen if chosen in names else newest)

    def finished(self) -> Any:
        """The list of finished runs, the newest chosen."""
        import gradio as gr

        names = [name for name in self.jobs.names() if (self.jobs.root / name / RESULT).exists()]
        return gr.update(choices=names, value=names[0] if names else None)

    def watch(self, name: str | None) -> tuple[str, str, Any]:
        """Where a run stands, its tree so far, and its report once there is one."""
        import gradio as gr

        if not name:
            return "<p>No runs yet.</p>", "", gr.update(value=None, interactive=False)
        try:
            job = self.jobs.find(name)
        except DiffexplainError as error:
            return showing.failed(error), "", gr.update(value=None, interactive=False)
        report = self.jobs.root / name / "report.html"
        there = report.exists() and job.state == "finished"
        button = gr.update(value=str(report) if there else None, interactive=there)
        return showing.status(job, self.jobs.before(job)), showing.tree(self.jobs.root / name), button

    def offer(self, name: str | None) -> tuple[Any, Any]:
        """What the slider can take from a finished run: concepts and pictures."""
        import gradio as gr

        if not name or not (self.jobs.root / name / RESULT).exists():
            return gr.update(choices=[], value=None), gr.update(choices=[], value=None)
        measured = [c for c in read_result(self.jobs.root / name).concepts if c.status == "measured"]
        concepts = [
            (f"{'+' if c.direction == 'add' else '−'} {c.concept}", f"{c.direction} {c.concept}")
            for c in measured
        ]
        files = [path.name for path in self._pictures(name)]
        first = concepts[0][1] if concepts else None
        return gr.update(choices=concepts, value=first), gr.update(
            choices=files, value=files[0] if files else None
        )

    def move(
        self, name: str | None, picture: str | None, concept: str | None, strength: float
    ) -> tuple[Any, str]:
        """A picture before and after an edit at a strength, and its scores."""
        if not (name and picture and concept):
            return None, "Choose a finished run, a picture and a concept."
        if not self.jobs.heavy.acquire(blocking=False):
            return None, "A run is working: the slider moves when it has ended."
        try:
            self.jobs.find(name)
            file = next((path for path in self._pictures(name) if path.name == picture), None)
            if file is None:
                raise InputError(f"picture {picture!r}: choose one of the run's")
            direction, _, path = concept.partition(" ")
            own = self.jobs.root / ASKED / name / CORPUS
            corpus = str(own) if own.stat().st_size else read_request(self.jobs.root / name).corpus
            found = slider.edited(self.jobs.root / name, corpus, file, path, direction, strength)
        except (DiffexplainError, OSError) as error:
            return None, f"{error}"
        finally:
            self.jobs.heavy.release()
        said = (
            f"score {found.score_before:+.2f} → {found.score_after:+.2f} log-odds, "
            f"probability {found.probability_before:.0%} → {found.probability_after:.0%}"
        )
        return [(found.before, "before"), (found.after, f"strength {strength:g}")], said

    def _pictures(self, name: str) -> list[Path]:
        folder = self.jobs.root / ASKED / name / PICTURES
        return sorted(folder.iterdir()) if folder.is_dir() else []

    def _editor(self, editor: str) -> str:
        if editor not in self.editors:
            raise InputError(f"editor {editor!r}: choose {', '.join(self.editors)}")
        return editor

    def _told(self, name: str | None, act: Callable[[], object]) -> tuple[Any, str]:
        import gradio as gr

        try:
            act()
            job = self.jobs.find(name or "")
        except DiffexplainError as error:
            return gr.update(), showing.failed(error)
        return showing.status(job, self.jobs.before(job)), ""


def pocket_classifiers() -> list[str]:
    """Names of the bundled classifiers."""
    return sorted(path.name for path in (pocket_folder() / "classifiers").iterdir() if path.is_dir())


def pocket_folder() -> Path:
    """Where the bundled models lie."""
    return Path(pocket.__file__).parent


def _document(corpus: str, text: str) -> Document:
    return branches.document_of(None if corpus == OWN else corpus, text or "")


def build_app(
    root: Path, classifiers: Sequence[str] = (), editors: Sequence[str] = (), miner: str | None = None
) -> Any:
    """The page as Gradio blocks, over a run root. Raises MissingExtra without Gradio."""
    gr = gradio_or_raise()
    app = App(Jobs(root), classifiers, editors, miner)
    with gr.Blocks(title="diffexplain", analytics_enabled=False) as blocks:
        gr.Markdown("# diffexplain\nWhich meanings drive a classifier's decision, how much, and how sure?")
        with gr.Row():
            with gr.Column():
                form = _form(gr, app)
            with gr.Column():
                _watching(gr, app, blocks, form)
        _moving(gr, app)
    blocks.app_jobs = app.jobs
    return blocks


def _form(gr: Any, app: App) -> dict[str, Any]:
    """The left half: the question."""
    parts: dict[str, Any] = {
        "classifier": gr.Dropdown(list(app.classifiers), value="pocket:hired", allow_custom_value=True,
                                  label="Classifier", elem_id="classifier"),
        "target": gr.Textbox("hired", label="Target label", elem_id="target"),
        "files": gr.File(file_count="multiple", file_types=list(SUFFIXES), label="Pictures",
                         elem_id="files"),
        "corpus": gr.Dropdown([*available(), OWN], value="avatars", label="Corpus", elem_id="corpus"),
    }  # fmt: skip
    _growing(gr, app, parts)
    parts |= {
        "editor": gr.Dropdown(list(app.editors), value=app.editors[0], label="Editor", elem_id="editor"),
        "budget": gr.Number(0, label="Edits at most (0: as many as it takes)", elem_id="budget"),
    }  # fmt: skip
    with gr.Row():
        check = gr.Button("Check classifier", elem_id="check")
        cost = gr.Button("Predict cost", elem_id="cost")
        parts["run"] = gr.Button("Run", variant="primary", elem_id="run")
    said = gr.Textbox(label="Check and cost", lines=4, interactive=False, elem_id="said")
    _mining(gr, app, parts, said)
    check.click(app.check, [parts["classifier"], parts["files"]], said)
    costed = [parts[name] for name in ("files", "corpus", "text", "editor", "budget")]
    cost.click(app.foresee, costed, said)
    return parts


def _growing(gr: Any, app: App, parts: dict[str, Any]) -> None:
    """The corpus as a tree and as YAML: a change in one goes to the other, and makes it one's own."""
    with gr.Accordion("The corpus as a tree", open=False, elem_id="growing"):
        tree = gr.HTML(app.tree("avatars", ""), js_on_load=branches.SCRIPT, css_template=branches.STYLE,
                       max_height=420, elem_id="corpus-tree")  # fmt: skip
        wrong = gr.HTML(elem_id="corpus-problem")
    with gr.Accordion("The corpus as YAML", open=False, elem_id="writing"):
        text = gr.Code("", language="yaml", lines=6, max_lines=24, show_label=False, elem_id="corpus-text")
    corpus, parts["text"] = parts["corpus"], text

    def edit(chosen: str, yaml: str, event: Any) -> tuple[str, str, str, str]:
        chosen, yaml, problem = app.edit(chosen, yaml, event._data)
        return chosen, yaml, problem, app.tree(chosen, yaml)

    edit.__annotations__ = {"event": gr.EventData}  # how Gradio knows what to give it
    tree.edit(edit, [corpus, text], [corpus, text, wrong, tree], show_progress="hidden")
    for part in (corpus, text):
        part.change(app.tree, [corpus, text], tree, show_progress="hidden")
    corpus.input(app.text, [corpus, text], text, show_progress="hidden")
    text.input(lambda: OWN, None, corpus, show_progress="hidden")


def _mining(gr: Any, app: App, parts: dict[str, Any], said: Any) -> None:
    """A corpus from the dropped pictures, into the text that can be edited."""
    by = "a model that sees, or words" if app.miner else "words"
    with gr.Accordion(f"Mine a corpus from the pictures, by {by}", open=False, elem_id="mining"):
        domain = gr.Textbox("", label="What the pictures show: birds", elem_id="mine-domain")
        label = "Candidates, one a line: beak/shape/hooked: a hooked beak"
        words = gr.Textbox("", label=label, lines=5, elem_id="mine-words")
        judge = gr.Dropdown(list(JUDGES), value=JUDGES[0], label="CLIP that sifts them", elem_id="mine-judge")
        mine = gr.Button("Mine", elem_id="mine")
    taken = [parts["files"], domain, words, judge, parts["corpus"], parts["text"]]
    mine.click(app.mine, taken, [parts["corpus"], parts["text"], said])


def _watching(gr: Any, app: App, blocks: Any, form: dict[str, Any]) -> None:
    """The right half: runs, live and past."""
    runs = gr.Dropdown([], label="Runs", elem_id="runs")
    problem = gr.HTML(elem_id="problem")  # stays until the next button, whatever a run does
    state = gr.HTML(elem_id="state")
    with gr.Row():
        stop = gr.Button("Stop", elem_id="stop")
        resume = gr.Button("Resume", elem_id="resume")
        report = gr.DownloadButton("Report", interactive=False, elem_id="report")
    tree = gr.HTML(elem_id="filling")
    shown = [state, tree, report]
    asked = [form[name] for name in ("classifier", "target", "files", "corpus", "text", "editor", "budget")]
    form["run"].click(app.submit, asked, [runs, state, problem])
    stop.click(app.stop, runs, [state, problem])
    resume.click(app.resume, runs, [state, problem])
    runs.change(app.watch, runs, shown, show_progress="hidden")
    gr.Timer(1.0).tick(app.watch, runs, shown, show_progress="hidden")
    blocks.load(lambda: app.runs(None), None, runs)


def _moving(gr: Any, app: App) -> None:
    """The strength slider, for finished runs."""
    with gr.Accordion("Move a concept's strength", open=False, elem_id="moving"):
        with gr.Row():
            run = gr.Dropdown([], label="Finished run", elem_id="slider-run")
            concept = gr.Dropdown([], label="Concept", elem_id="slider-concept")
            picture = gr.Dropdown([], label="Picture", elem_id="slider-picture")
            take = gr.Button("List runs", elem_id="slider-list")
        strength = gr.Slider(0, slider.MOST, 1.0, step=0.25, label="Strength", elem_id="strength")
        shown = gr.Gallery(columns=2, height=300, label="Before and after", elem_id="moved")
        said = gr.Textbox(label="Score", interactive=False, elem_id="moved-score")
        take.click(app.finished, None, run)
        run.change(app.offer, run, [concept, picture])
        for part in (strength.change, concept.change, picture.change):
            part(app.move, [run, picture, concept, strength], [shown, said], show_progress="hidden",
                 trigger_mode="always_last", concurrency_limit=1, concurrency_id="slider")  # fmt: skip


def gradio_or_raise() -> Any:
    """The library, which never reports home. Raises MissingExtra."""
    import os

    os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")  # before Gradio reads it
    try:
        import gradio
    except ImportError as error:
        raise MissingExtra("gradio", "web") from error
    return gradio


__all__ = ["App", "Question", "build_app"]
