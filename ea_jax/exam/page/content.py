"""The page: everything that was read, in the order of a reader's questions."""

from __future__ import annotations

import base64
import io
import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jinja2
from PIL import Image

from ea_jax.evaluate.attacks import BLACK_BOX
from ea_jax.evaluate.metrics import METRICS, Rate
from ea_jax.evaluate.outputs import versions
from ea_jax.exam.page import attempts, erasures, made, plots, radars, verdict
from ea_jax.exam.page.attempts import Attempts
from ea_jax.exam.page.folders import Attacked, Examined, Picture, Run, rates_in

_LARGE = 2**20  # bytes of a picture
_LONGEST = 16_383  # pixels of a side, as WebP has them
SECTIONS = {
    "summary": "In short",
    "gallery": "Before and after",
    "accuracies": "What is measured",
    "attacks": "Attacks",
    "edits": "Edits side by side",
    "attention": "Where the model looks",
    "tasks": "Further tests",
    "losses": "Training",
    "made": "How each number was made",
}
# Headings of tasks; another one has its name.
TASKS = {
    "ablation": "Ablation: what each part of the loss does",
    "attacks": "Attacks, several edits side by side",
    "attention": "Attention to a word, and what is painted without it",
    "celebrity": "Faces: who is still recognised",
    "compare": "Several edits, the same prompts and seeds",
    "concepts": "Many concepts, one edit each",
    "judge": "How far the judge of these pictures can be believed",
    "disentangle": "Each edit on the others' concepts",
    "multi": "Several edits at once",
    "nudity": "Nudity",
    "order": "Does the order of words matter?",
    "quality": "Quality of pictures without the concept",
    "sweep": "One method under several settings",
    "t5-neighbours": "The nearest words",
}
# Rates of a task that fit in one plot; a task with more has its table alone.
MOST_RATES = 60
_MEANING = {attack.name: attack.meaning for attack in BLACK_BOX}
_BY_PROMPTS, _OTHERWISE = "Attacks by prompts alone", "By settings, weights or a picture"


def page(found: Sequence[Run | Attacked | Examined], *, command: str) -> str:
    """The whole HTML page.

    Args:
      found: what `folders.read` read.
      command: that made the page, for its last line.
    """
    runs = [one for one in found if isinstance(one, Run)]
    attacked = [one for one in found if isinstance(one, Attacked)]
    tasks = [one for one in found if isinstance(one, Examined)]
    tried = attempts.of(found)
    on = {run.name: [one for one in tried if one.is_on(run)] for run in runs}
    paired = {id(one) for several in on.values() for one in several}
    verdicts = [said for run in runs for said in verdict.of_run(run, on[run.name])]
    verdicts += [verdict.of_attempts(one) for one in tried if one.source and id(one) not in paired]
    unmeasured = [run for run in runs if not run.measured]
    parts = {
        "summary": verdicts or unmeasured,
        "gallery": [(_titled(run), run.grid) for run in runs if run.grid],
        "accuracies": [_accuracy(run, word) for run in runs for word in run.measured],
        "attacks": [_attacks(one, word) for one in attacked for word in one.rates]
        + [_task(one, attempts.of([one])) for one in tasks if one.task == attempts.TASK],
        "edits": _edits([run for run in runs if run.measured], on),
        "attention": [(_titled(run), run.attention) for run in runs if run.attention],
        "tasks": _methods([one for one in tasks if one.task == erasures.CONCEPTS])
        + [_task(one) for one in tasks if one.task != attempts.TASK],
        "losses": [(_titled(run), _losses(run)) for run in runs if run.losses],
        "made": [made.of(one) for one in found],
    }
    detectors = [one.results.get("detector") for one in (*runs, *attacked)]
    for one in tasks:
        match one.results:
            case {"protocol": {"detectors": dict(read_by)}}:
                detectors += read_by
    return _template().render(
        **parts,
        verdicts=verdicts,
        unmeasured=unmeasured,
        sections=[(name, SECTIONS[name]) for name, part in parts.items() if part],
        title="Is it really gone?" if verdicts else "What was measured",
        detectors=list(dict.fromkeys(name for name in detectors if name)),
        bars=verdict,
        metrics=[
            metric for metric in METRICS if any(metric.name in r["erased"] for r in _all(runs))
        ],
        version=versions()["ea-jax"],
        command=command,
    )


def _template() -> jinja2.Template:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals.update(number=_number, shortly=_shortly, data_uri=_data_uri)
    return environment.get_template("page.html")


def _number(value: float) -> str:
    """As in results.json: to a hundredth."""
    return f"{round(value, 2):g}" if math.isfinite(value) else ""


def _shortly(rate: Rate) -> str:
    """A share and its interval in whole percent."""
    if not rate.total:
        return "nothing to count"
    low, high = rate.interval
    return f"{rate.percent:.0f} %, 95 % interval {low:.0f} to {high:.0f}"


def _data_uri(picture: Picture) -> str:
    """The picture itself; a large one is compressed: a page is sent to someone."""
    kind, data = "png", picture.png
    if len(data) > _LARGE:
        file = io.BytesIO()
        with Image.open(io.BytesIO(data)) as opened:
            shown = opened.convert("RGB")
            shown.thumbnail((_LONGEST, _LONGEST))
            shown.save(file, "webp", quality=80)
        kind, data = "webp", file.getvalue()
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"


def _titled(run: Run) -> str:
    return f"{run.results['concept']}, {run.results.get('preset')} ({run.name})"


def _accuracy(run: Run, word: str) -> SimpleNamespace:
    both = run.measured[word]
    before, after = both["base"], both["erased"]
    rows = [
        (
            name,
            before[name],
            rate,
            _percent(verdict.share(before[name], rate)),
        )
        for name, rate in after.items()
    ]
    svg = plots.intervals(
        {name: {"base": before[name], "erased": after[name]} for name in after},
        label=f"Shares of pictures, base and erased: {word}, {run.name}",
        x="% of pictures",
    )
    return SimpleNamespace(
        word=word, name=run.name, detector=run.results["detector"], rows=rows, svg=svg
    )


def _percent(value: float) -> str:
    return f"{value:.0f} %" if math.isfinite(value) else ""


def _attacks(one: Attacked, word: str) -> SimpleNamespace:
    asked = one.results["attacks"]
    rows = [
        (name, rate, asked[name][word].get("asked", ""), _MEANING.get(name, ""))
        for name, rate in one.rates[word].items()
    ]
    svg = plots.intervals(
        {name: {"attacked": rate} for name, rate in one.rates[word].items()},
        label=f"Success rates of attacks: {word}, {one.name}",
        x="% of prompts that bring it back",
    )
    return SimpleNamespace(
        word=word, name=one.name, detector=one.results["detector"], rows=rows, svg=svg
    )


def _edits(runs: Sequence[Run], on: Mapping[str, Sequence[Attempts]]) -> Any:
    """Radars, one a concept with all its edits, and a table with a row an edit; None for none."""
    if not runs:
        return None
    worst = {
        (run.name, word): verdict.worst(
            {n: rate for one in on[run.name] if one.word == word for n, rate in one.black.items()}
        )
        for run in runs
        for word in run.measured
    }
    series: dict[str, dict[str, dict[str, float]]] = {}
    names = [m.name for m in METRICS if any(m.name in r["erased"] for r in _all(runs))]
    rows = []
    for run in runs:
        for word, both in run.measured.items():
            found = worst[run.name, word]
            series.setdefault(word, {})[run.name] = radars.spokes(both, found and found[1])
            cells = [
                f"{_number(both['base'][n].percent)} → {_number(both['erased'][n].percent)}"
                if n in both["erased"] and both["erased"][n].total
                else ""
                for n in names
            ]
            said = f"{found[0]}: {_number(found[1].percent)}" if found else "not attacked"
            rows.append((word, run.results.get("preset"), run.name, *cells, said))
    shown = []
    for word, edits in series.items():
        svg = radars.drawn(edits, label=f"All metrics of the edits of {word}")
        if svg is not None:
            shown.append((word, svg))
    return SimpleNamespace(radars=shown, metrics=names, rows=rows)


def _all(runs: Iterable[Run]) -> Iterable[Mapping[str, Mapping[str, Rate]]]:
    return itertools.chain.from_iterable(run.measured.values() for run in runs)


def _losses(run: Run) -> list[tuple[Any, str]]:
    """A plot for each level that is trained."""
    steps = [line["step"] for line in run.losses]
    names = list(dict.fromkeys(name for line in run.losses for name in line if name != "step"))
    levels: dict[str, dict[str, list[float | None]]] = {}
    for name in names:
        level, _, term = name.rpartition("/")
        levels.setdefault(level, {})[term] = [line.get(name) for line in run.losses]
    return [
        (plots.losses(steps, terms, label=f"Loss, {level or 'all'}: {run.name}"), level)
        for level, terms in levels.items()
    ]


def _methods(tasks: Sequence[Examined]) -> list[SimpleNamespace]:
    """A card with plots of all methods that erased many concepts; none without any."""
    shown, names = erasures.methods(tasks), ", ".join(one.name for one in tasks)
    card = SimpleNamespace(
        **{"heading": "Methods side by side", "name": names, "plots": shown},
        **{"text": [], "pictures": [], "left_out": 0},
    )
    return [card] if shown else []


def _task(one: Examined, tried: Sequence[Attempts] = ()) -> SimpleNamespace:
    """A task of any name: its table, its pictures, and plots of its rates and of attacks."""
    shown: list[tuple[Any, str]] = []
    rates = [(path, rate) for path, rate in rates_in(one.results) if rate.total]
    if one.task in erasures.TASKS:
        shown, rates = erasures.plots_of(one), []
    if 1 < len(rates) <= MOST_RATES:
        names = _told_apart([path for path, _ in rates])
        svg = plots.intervals(
            {name: {"share": rate} for name, (_, rate) in zip(names, rates, strict=True)},
            label=f"Shares with 95 % intervals: {one.task}, {one.name}",
            x="%",
        )
        shown.append((svg, "Shares in percent, with 95 % intervals"))
    for kind, caption in (("black", _BY_PROMPTS), ("other", _OTHERWISE)):
        rows: dict[str, dict[str, Rate]] = {}
        for victim in tried:
            for name, rate in getattr(victim, kind).items():
                rows.setdefault(name, {})[victim.name] = rate
        svg = plots.intervals(rows, label=f"{caption}: {one.name}", x="% that bring it back")
        shown += [(svg, caption)] if svg is not None else []
    for attack in dict.fromkeys(name for victim in tried for name in victim.curves):
        lines = {v.name: v.curves[attack] for v in tried if attack in v.curves}
        svg = plots.curves(lines, label=f"{attack} by budget: {one.name}", x="budget")
        shown += [(svg, f"{attack}: success by what it may spend")] if svg is not None else []
    return SimpleNamespace(
        heading=TASKS.get(one.task, one.task),
        name=one.name,
        plots=shown,
        text=one.text,
        pictures=one.pictures,
        left_out=one.left_out,
    )


def _told_apart(paths: Sequence[tuple[str, ...]]) -> list[str]:
    """Keys that lead to something, without those at the begin that all of them share."""
    levels = itertools.takewhile(lambda keys: len(set(keys)) == 1, zip(*paths, strict=False))
    start = min(len(list(levels)), min(map(len, paths)) - 1)
    return [" · ".join(path[start:]) for path in paths]
