"""A paragraph on the methods, with citations, made from the config."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from atlasmith import __version__
from atlasmith.config import Config
from atlasmith.config.choices import chosen_entries
from atlasmith.core.choices import Choice, is_number
from atlasmith.io.tables import Subject
from atlasmith.report.text import count_text, words
from atlasmith.transforms import Parametrization

Entries = dict[str, list[tuple[str, Choice[Any]]]]  # names and entries, by kind

SENTENCE_END = re.compile(r"(?<!al)\.\s+(?=[A-Z0-9])")
# An author, a year and an identifier, as docstrings and the texts of choices cite.
CITATION = re.compile(
    r"(?P<name>[A-Z][\w-]+(?: (?:and|&) [A-Z][\w-]+| et al\.)?) (?P<year>\d{4}), "
    r"(?P<id>(?:doi:10\.|arXiv:)[^\s,;]+)"
)

CONDITIONAL = "Dalca et al. 2019, arXiv:1908.02738"
N4 = "Tustison et al. 2010, doi:10.1109/TMI.2010.2046908"
AVERAGING = "Guimond et al. 2000, doi:10.1006/cviu.1999.0815"
CONFORMAL = "Vovk et al. 2005, doi:10.1007/b106715"
BIDS = "Gorgolewski et al. 2016, doi:10.1038/sdata.2016.44"
SNAKEMAKE = "Mölder et al. 2021, doi:10.12688/f1000research.29032.2"


@dataclass(frozen=True)
class Reference:
    """A work that the methods cite.

    Args:
        name: Authors and year.
        identifier: Such as doi:10.1038/sdata.2016.44.
    """

    name: str
    identifier: str

    @property
    def link(self) -> str:
        """Its address."""
        kind, _, value = self.identifier.partition(":")
        return f"https://doi.org/{value}" if kind == "doi" else f"https://arxiv.org/abs/{value}"


def first_sentence(text: str) -> str:
    """Return the first sentence of a choice's text, without its full stop.

    Example:
        >>> first_sentence("Mean squared difference (Doe et al. 2001). The default.")
        'Mean squared difference (Doe et al. 2001)'
    """
    return SENTENCE_END.split(text, maxsplit=1)[0].rstrip(".")


def find_references(text: str) -> list[Reference]:
    """List the works that a text cites, by name.

    Example:
        >>> [r.link for r in find_references("as usual (Doe and Roe 2001, doi:10.1/x; Roe 2002, arXiv:1.2).")]
        ['https://doi.org/10.1/x', 'https://arxiv.org/abs/1.2']
    """
    found = []
    for match in CITATION.finditer(text):
        identifier = match["id"].rstrip(".:")
        if identifier.count(")") > identifier.count("("):
            identifier = identifier[: identifier.rindex(")")]
        found.append(Reference(f"{match['name']} {match['year']}", identifier))
    return sorted(dict.fromkeys(found), key=lambda reference: reference.name)


def methods_text(config: Config, subjects: list[Subject]) -> list[str]:
    """Describe the methods of a run in paragraphs of plain text.

    Args:
        config: The run's config.
        subjects: The checked cohort.

    Returns:
        Paragraphs, with citations of the form "Authors year, identifier".
    """
    entries: Entries = {}
    for kind, name, entry in chosen_entries(config):
        entries.setdefault(kind, []).append((name, entry))
    return [
        _images_text(config, subjects, entries),
        _template_text(config, subjects, entries),
        *_fusion_texts(config, subjects, entries),
        f"The workflow ran with Snakemake ({SNAKEMAKE}).",
    ]


def _images_text(config: Config, subjects: list[Subject], entries: Entries) -> str:
    participants = len({subject.participant for subject in subjects})
    scans = "" if participants == len(subjects) else f" of {count_text(participants, 'participant')}"
    images = f"{count_text(len(subjects), 'image')}{scans} ({' and '.join(config.layout.channels)})"
    n4 = f"corrected for bias fields by N4 ({N4}) and " if config.preprocess.n4 else ""
    return (
        f"The {images}, organized as BIDS ({BIDS}), were processed with atlasmith {__version__}. Intensities "
        f"were {n4}normalized to a common scale. Each image was aligned affinely to a groupwise reference of "
        f"the cohort (engine {_described(entries['affine engine'])})."
    )


def _template_text(config: Config, subjects: list[Subject], entries: Entries) -> str:
    template = config.template
    builders = count_text(sum(subject.in_template for subject in subjects), "image")
    conditions = " and ".join(template.condition_on)
    conditional = f", conditional on {conditions} ({CONDITIONAL})," if conditions else ""
    known = entries["similarity"]
    similarity = _terms(template.similarity, known)
    for channel, terms in template.channel_similarity.items():
        similarity += f", for {channel} {_terms(terms, known)}"
    if template.label_similarity:
        similarity += f", of the atlases' labels {_terms(template.label_similarity, known)}"
    regularization = _terms(template.regularization, entries.get("regularizer", []))
    rounds = count_text(template.refinement.rounds, "round")
    refined = f" The template was then refined by {rounds} of averaging registered images ({AVERAGING})."
    coarse = "" if template.training_spacing is None else f" at {template.training_spacing:g} mm"
    steps = config.register_.instance_optimization.steps
    optimizer = _described(entries["optimizer"], cite=True)
    optimized = f", followed by {count_text(steps, 'step')} of instance optimization ({optimizer})"
    return (
        f"A template{conditional} was learned from {builders} together with a registration network "
        f"({_described(entries['network'])}; template decoder {_described(entries['decoder'])}) in "
        f"{template.steps} steps{coarse}. The loss was the sum of similarity terms, {similarity}, and "
        f"regularizers, {regularization}. {_deformations_text(config, entries['parametrization'])}"
        f"{refined if template.refinement.rounds else ''} Each image was registered to the template by the "
        f"network{optimized if steps else ''}."
    )


def _deformations_text(config: Config, entries: list[tuple[str, Choice[Any]]]) -> str:
    """The parametrization of the template's deformations, and that of the registrations if it is another."""
    (name, first), *others = entries
    assert isinstance(first, Parametrization)
    kind = "diffeomorphic" if first.diffeomorphic else "not always diffeomorphic"
    text = f"Deformations are {kind} and parametrized by {_described(entries[:1], cite=True)}."
    if others and others[0][0] != name:
        text += f" For the registrations to the template they were {_described(others, cite=True)}."
    if config.register_.modes is not None:
        count = count_text(config.register_.modes, "principal component")
        text += f" For the registrations to the template, velocities were restricted to the first {count}."
    return text


def _fusion_texts(config: Config, subjects: list[Subject], entries: Entries) -> list[str]:
    atlases = sum(subject.role == "atlas" for subject in subjects)
    if not atlases:
        return []
    methods = " ".join(f"{first_sentence(choice.text)}." for _, choice in entries["fusion method"])
    selection = config.fusion.atlas_selection
    chosen = (
        f"the {selection} most similar of {atlases} atlases" if selection else count_text(atlases, "atlas")
    )
    unlabelled = sum(subject.role == "train" for subject in subjects)
    others = " and each of the other images" if config.fusion.train_subjects and unlabelled else ""
    texts = [
        f"The labels of {chosen} were propagated to each target{others} through the template, with a single "
        f"interpolation, and fused. {methods}"
    ]
    if config.fusion.learns_from_unlabelled and unlabelled:
        texts.append(
            "The segmentation network (student) was trained on images without manual labels as well, with "
            f"those that {config.fusion.pseudo_label_method} found, weighted by their probabilities."
        )
    if config.fusion.quality:
        texts.append(
            "The overlap and the volumes of the segmentations were predicted from the atlases, each "
            f"segmented by all others; the intervals of volumes are conformal ({CONFORMAL})."
        )
    return texts


def _described(entries: Iterable[tuple[str, Choice[Any]]], cite: bool = False) -> str:
    """The names of choices, and what they are; on request with the works that their docstrings cite."""
    parts = []
    for name, choice in entries:
        found = find_references(" ".join((choice.function.__doc__ or "").split())) if cite else []
        cited = "; ".join(f"{reference.name}, {reference.identifier}" for reference in found)
        parts.append(f"{name}: {first_sentence(choice.text)}" + (f" ({cited})" if cited else ""))
    return ", ".join(parts)


def _terms(settings: Mapping[str, Mapping[str, Any]], entries: Iterable[tuple[str, Choice[Any]]]) -> str:
    """Loss terms with what they are, their weights and parameters."""
    chosen = dict(entries)
    parts = []
    for name, values in settings.items():
        given = ", ".join(
            f"{words(key)} {value:g}" if is_number(value) else f"{words(key)} {value}"
            for key, value in values.items()
        )
        parts.append(f"{name} ({first_sentence(chosen[name].text)}; {given})")
    return ", ".join(parts)
