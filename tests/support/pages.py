"""The project's pages, as a reader of Markdown sees them."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations, pairwise
from pathlib import Path

from markdown_it import MarkdownIt
from markdown_it.token import Token
from support.project import ROOT

#: Words that stand in the same order in both of two paragraphs: few do by chance.
_RUN = 4
#: As great a part of the shorter paragraph's runs in another one makes it a second version of that.
_SHARED = 0.3
#: Shorter paragraphs, such as the runbooks' "**Over** when …", may say the same.
_FEWEST_WORDS = 14
#: Words in the same order that stand in no paragraph twice.
_LONG_RUN = 7


@dataclass(frozen=True)
class Fence:
    """A block of code."""

    language: str
    text: str
    #: From 1.
    line: int


@dataclass(frozen=True)
class Page:
    """A page."""

    path: Path
    text: str

    @cached_property
    def _tokens(self) -> list[Token]:
        return MarkdownIt("commonmark").enable("table").parse(self.text)

    @property
    def name(self) -> str:
        """Its path within the project."""
        return str(self.path.relative_to(ROOT))

    @property
    def fences(self) -> list[Fence]:
        """Its blocks of code, in order."""
        return [
            Fence(token.info, token.content, (token.map or [0])[0] + 1)
            for token in self._tokens
            if token.type == "fence"
        ]

    @property
    def headings(self) -> list[str]:
        """Its headings, as they are written."""
        return list(self._inline_of("heading_open"))

    @property
    def paragraphs(self) -> list[str]:
        """Its paragraphs, those of lists among them."""
        return list(self._inline_of("paragraph_open"))

    @property
    def doubled_rows(self) -> list[str]:
        """The first cells of rows of its tables that begin like another row of the same table."""
        doubled: list[str] = []
        seen: set[str] = set()
        for before, token in pairwise(pairwise(self._tokens)):
            if before[0].type == "table_open":
                seen.clear()
            if before[0].type == "tr_open" and token[1].type == "inline":
                doubled += {token[1].content} & seen
                seen.add(token[1].content)
        return doubled

    @property
    def anchors(self) -> set[str]:
        """What a link to one of its headings has after the `#`, as GitHub makes it."""
        return {
            re.sub(r"[^\w\- ]", "", re.sub(r"[`*]", "", heading).lower()).replace(" ", "-")
            for heading in self.headings
        }

    @property
    def links(self) -> list[str]:
        """What its links and pictures lead to; a reference without a target is not among them."""
        return [
            str(child.attrs["href" if child.type == "link_open" else "src"])
            for token in self._tokens
            for child in token.children or []
            if child.type in {"link_open", "image"}
        ]

    @property
    def dangling(self) -> list[str]:
        """References that lead nowhere: they are shown as text."""
        return [
            found
            for token in self._tokens
            for child in token.children or []
            if child.type == "text"
            for found in re.findall(r"\[[^\]\s][^\]]*\](?:\[[^\]]*\]|\([^)]*\))?", child.content)
        ]

    def _inline_of(self, opening: str) -> Iterator[str]:
        for before, token in pairwise(self._tokens):
            if before.type == opening:
                yield token.content


def read_pages(root: Path = ROOT) -> list[Page]:
    """Return every page of the project."""
    # Not all that is below the root: the environment brings pages too.
    folders = [p for p in root.iterdir() if p.is_dir() and not p.name.startswith(".")]
    paths = [*root.glob("*.md"), *(path for folder in folders for path in folder.rglob("*.md"))]
    return [Page(path, path.read_text()) for path in sorted(paths)]


def doubled(page: Page) -> list[str]:
    """Return what stands in a page twice, or in two versions."""
    paragraphs = [
        (p, set(_runs(p, _RUN))) for p in page.paragraphs if len(_words(p)) >= _FEWEST_WORDS
    ]
    return [
        *(
            f"two versions of a paragraph: {one!r} and {other!r}"
            for (one, runs), (other, others) in combinations(paragraphs, 2)
            if len(runs & others) >= _SHARED * min(len(runs), len(others))
        ),
        *(
            f"twice in a paragraph: {' '.join(run)!r}"
            for paragraph in page.paragraphs
            for run, count in Counter(_runs(paragraph, _LONG_RUN)).items()
            if count > 1
        ),
        *(f"two rows of a table: {row!r}" for row in page.doubled_rows),
        *(f"two headings: {h!r}" for h, count in Counter(page.headings).items() if count > 1),
    ]


def _words(text: str) -> list[str]:
    return re.findall(r"[\w'`-]+", text.lower())


def _runs(text: str, length: int) -> list[tuple[str, ...]]:
    words = _words(text)
    return [tuple(words[at : at + length]) for at in range(len(words) - length + 1)]
