"""Table 3 on a FLUX that comes with no judge: CLIP tells Table 6's concepts apart.

Each picture's class is the nearest of the ten of its category. Acc_e asks for the erased concept,
Acc_ir for the nine others, Acc_g for synonyms that training didn't see.
"""

from __future__ import annotations

import argparse
import logging
from collections.abc import Sequence
from typing import Any

from ea_jax.arguments import Parser
from ea_jax.concepts import choose, flux_lexicon, forms, wordnet
from ea_jax.detectors.class_sets import TABLE_6, ClassSet
from ea_jax.detectors.clip import Clip
from ea_jax.detectors.clip_readings import ZeroShot
from ea_jax.erase import WORDS
from ea_jax.evaluate import metrics
from ea_jax.evaluate.probes import Probe
from ea_jax.evaluate.results import measure
from ea_jax.evaluate.task import Classes, Task
from ea_jax.exam import model, record, several, trials
from ea_jax.exam.model import BASE, Subject
from ea_jax.exam.trials import Result, Trial

_log = logging.getLogger(__name__)
# No setting was chosen on any of these.
CLASSES = Classes({name: classes.labels for name, classes in TABLE_6.items()}, ())
SEEDS = 1_000_000  # first seed of evaluation's pictures, as on flux-tiny
_METRICS = (metrics.CONCEPT, metrics.SYNONYMS, metrics.OTHERS)
# Kinds that a category has, whatever else its words may be: a burrow is a thing, too.
_KINDS = {"abstraction": "style", "relationship": "relation"}


def settings_of(word: str) -> dict[str, Any]:
    """Settings of a run on a concept of Table 6; ValueError as `class_set`."""
    kind = _KINDS.get(class_set(word).name)
    return {"concept.kind": kind} if kind else {}


def run(given: argparse.Namespace, found: Sequence[Trial]) -> list[Result]:
    """Makes each erasure that isn't there yet, and measures it by CLIP.

    Args:
      given: the command's arguments; `clip` is a folder or hub id.
      found: trials, each of a concept of Table 6.
    Raises:
      ValueError: a word that Table 6 hasn't, no CLIP there, another revision than the hub's main,
        which alone is measured, or as `model.require_sampling` and `trials.make`.
    """
    _require_main(found)
    sets = {trial.word: class_set(trial.word) for trial in found}
    sampling = _sampling(found[0], given.tensor)
    model.require_sampling(sampling)
    clip = Clip.load(given.clip)
    trials.make(found)
    unseen = {word: synonyms([one for one in found if one.word == word]) for word in sets}
    if without := [word for word, left in unseen.items() if not left]:
        _log.warning(
            "Acc_g isn't asked of %s: no synonym is known that the runs had no use of; WordNet, "
            "where it is installed, knows more",
            ", ".join(without),
        )
    tasks = [task_of(t.word, sets[t.word], given.pictures, unseen[t.word]) for t in found]
    probes = [probe for task in tasks for probe in task.probes]
    painter = model.open_painter(sampling, several.prompts_of(probes), [Subject(BASE)])
    results = []
    for trial, task in zip(found, tasks, strict=True):
        detector = ZeroShot(clip, sets[trial.word])
        # One at a time: an edit of whole kernels is large.
        edit = model.edit_of(trial.source)
        rates = measure(painter, edit, task, detector, cache=given.cache)
        how = {
            "detector": [detector.name, detector.version],
            "classes": list(sets[trial.word].labels),
            "synonyms": list(task.held_out),
            "prompts": [[probe.prompt, probe.seed] for probe in task.probes],
            **record.protocol_of(painter, []),
        }
        results.append(Result(trial, rates.base, rates.erased, how))
    return results


def _require_main(found: Sequence[Trial]) -> None:
    revisions = [trial.config["model"]["revision"] for trial in found]
    if other := next((one for one in revisions if one is not None), None):
        raise ValueError(
            f"model.revision = {other!r}, and --clip measures a hub's main revision; download that "
            "revision, and give its folder as --model"
        )


def class_set(word: str) -> ClassSet:
    """The category of Table 6 that a word is of; ValueError where none has it."""
    for classes in TABLE_6.values():
        if word in classes.labels:
            return classes
    known = ", ".join(label for classes in TABLE_6.values() for label in classes.labels)
    raise ValueError(f"{word!r} is no concept of Table 6, which has {known}")


def task_of(word: str, classes: ClassSet, pictures: int, unseen: Sequence[str]) -> Task:
    """What an erasure is asked: the concept, its unseen synonyms, and the nine other classes."""
    prompt = dict(zip(classes.labels, classes.prompts, strict=True))
    others = [label for label in classes.labels if label != word]
    asked: list[tuple[str, metrics.Metric, str]] = []
    for i in range(pictures):
        asked.append((prompt[word], metrics.CONCEPT, word))
        if unseen:
            said = classes.template.replace("{}", unseen[i % len(unseen)])
            asked.append((said, metrics.SYNONYMS, word))
    for i in range(max(pictures, len(others))):
        other = others[i % len(others)]
        asked.append((prompt[other], metrics.OTHERS, other))
    probes = tuple(
        Probe(text, SEEDS + i, ((metric.name, frozenset({(classes.name, label)})),))
        for i, (text, metric, label) in enumerate(asked)
    )
    return Task(classes.name, word, probes, _METRICS, tuple(unseen))


def synonyms(runs: Sequence[Trial]) -> list[str]:
    """A concept's synonyms by the package's lists and WordNet that no run on it had any use of."""
    word = runs[0].word
    found = list(flux_lexicon.listed_synonyms(word))
    try:
        reader = wordnet.load()
    except ValueError:
        reader = None
    if reader is not None and (senses := wordnet.by_use(reader, word)):
        found += wordnet.synonyms(reader, word, sense=senses[0].name())
    used = [one for run in runs for one in choose.Words.of_json(run.folder / WORDS).concepts]
    seen = {forms.key(name) for one in used for name in (one.word, *one.also, *one.synonyms)}
    return [name for name in dict.fromkeys(found) if forms.key(name) not in seen]


def _sampling(trial: Trial, tensor: int | None) -> argparse.Namespace:
    """A run's own model and sampling, as a command's arguments."""
    config: Any = trial.config
    parser = Parser("evaluate concepts", "")
    model.add_arguments(parser)
    how = {
        "model": config["model"]["path"],
        "size": config["model"]["resolution"],
        "text_length": config["model"]["text_length"],
        "dtype": config["model"]["dtype"],
        "guidance": config["model"]["guidance"],
        "steps": config["sample"]["steps"],
        "batch": config["sample"]["batch"],
        "cache": config["data"]["cache"],
        "out": str(trial.folder),
        "tensor": tensor,
    }
    flags = [f"--{name}={value}" for name, value in how.items() if value is not None]
    return parser.parse_args(flags)
