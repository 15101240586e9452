"""Draws state_machines/provision_project.asl.json as docs/state-machine.svg.

The way of a job that succeeds stands in the middle, from the top down; what follows an error stands
beside it, to the right. Run by `make state-machine-svg`.
"""

from __future__ import annotations

import json
from html import escape
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
DEFINITION = ROOT / "state_machines" / "provision_project.asl.json"
PICTURE = ROOT / "docs" / "state-machine.svg"

WIDTH, HEIGHT, GAP, MARGIN = 190, 40, 34, 32
FILL = {
    "Task": "#dbeafe",
    "Choice": "#fef3c7",
    "Pass": "#f3f4f6",
    "Succeed": "#dcfce7",
    "Fail": "#fee2e2",
}


def draw(definition: dict[str, Any]) -> str:
    """Return the picture of a state machine."""
    parts: list[str] = []
    places: dict[str, tuple[float, float, float]] = {}
    bottom = _column(
        definition["StartAt"], definition["States"], MARGIN, 20, parts=parts, places=places
    )
    right = max(x + width for x, _, width in places.values()) + 70
    y = 20.0
    for name, state in definition["States"].items():
        if name not in places:
            places[name] = (right, y, WIDTH)
            parts.append(_box(name, state["Type"], right, y))
            y += HEIGHT + GAP
    for name, state in definition["States"].items():
        for target, label in _edges(state):
            parts.append(_arrow(places[name], places[target], label))
    width, height = right + WIDTH + 60, max(bottom, y) + 20
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:g} {height:g}"'
        f' width="{width:g}" height="{height:g}" font-family="sans-serif" font-size="13">\n'
        '<defs><marker id="tip" viewBox="0 0 8 8" refX="8" refY="4" markerWidth="7"'
        ' markerHeight="7" orient="auto"><path d="M0 0L8 4L0 8z" fill="#475569"/></marker></defs>\n'
        f'<rect width="{width:g}" height="{height:g}" fill="white"/>\n' + "\n".join(parts) + "\n"
        "</svg>\n"
    )


def _column(
    start: str,
    states: dict[str, Any],
    x: float,
    y: float,
    *,
    parts: list[str],
    places: dict[str, tuple[float, float, float]],
) -> float:
    """Draw the states that follow one another without an error; return where they end."""
    widths = [_width(states[name]) for name in _way(start, states)]
    widest = max(widths)
    for name, width in zip(_way(start, states), widths, strict=True):
        left = x + (widest - width) / 2
        state = states[name]
        if state["Type"] == "Parallel":
            places[name] = (left, y, width)
            end = _parallel(name, state, left, y, parts)
            y = end + GAP
        else:
            places[name] = (left, y, width)
            parts.append(_box(name, state["Type"], left, y))
            y += HEIGHT + GAP
    return y


def _parallel(name: str, state: dict[str, Any], x: float, y: float, parts: list[str]) -> float:
    inner: list[str] = []
    end, left = y, x + 12
    for branch in state["Branches"]:
        places: dict[str, tuple[float, float, float]] = {}
        last = _column(
            branch["StartAt"], branch["States"], left, y + 34, parts=inner, places=places
        )
        for other, failed in branch["States"].items():
            if other not in places:
                places[other] = (left, last, WIDTH)
                inner.append(_box(other, failed["Type"], left, last))
                last += HEIGHT + 10
        end = max(end, last)
        for source, one in branch["States"].items():
            for target, label in _edges(one):
                if target in places and not label:
                    inner.append(_arrow(places[source], places[target], ""))
        left += WIDTH + 12
    width = _width(state)
    parts.append(
        f'<rect x="{x:g}" y="{y:g}" width="{width:g}" height="{end - y:g}" rx="8"'
        ' fill="#f8fafc" stroke="#94a3b8" stroke-dasharray="5 4"/>'
        f'<text x="{x + 12:g}" y="{y + 21:g}" fill="#334155">{escape(name)}: every branch'
        " settles; an error becomes its result</text>"
    )
    parts.extend(inner)
    return end


def _width(state: dict[str, Any]) -> float:
    return 12 + len(state["Branches"]) * (WIDTH + 12) if state["Type"] == "Parallel" else WIDTH


def _way(start: str, states: dict[str, Any]) -> list[str]:
    """Follow a state machine as long as nothing fails and nothing is there already."""
    way = [start]
    while True:
        state = states[way[-1]]
        if state["Type"] == "Choice":
            ends = [state["Default"], *(choice["Next"] for choice in state["Choices"])]
            following = next(
                end
                for end in ends
                if states[end]["Type"] not in {"Succeed", "Fail"} and "Failure" not in end
            )
        elif "Next" in state:
            following = state["Next"]
        else:
            return way
        way.append(following)


def _edges(state: dict[str, Any]) -> list[tuple[str, str]]:
    found = [(state["Next"], "")] if "Next" in state else []
    if state["Type"] == "Choice":
        found += [(choice["Next"], "yes") for choice in state["Choices"]]
        found.append((state["Default"], "no"))
    return found + [(catch["Next"], "error") for catch in state.get("Catch", [])]


def _box(name: str, kind: str, x: float, y: float) -> str:
    return (
        f'<rect x="{x:g}" y="{y:g}" width="{WIDTH}" height="{HEIGHT}" rx="6"'
        f' fill="{FILL[kind]}" stroke="#475569"/>'
        f'<text x="{x + WIDTH / 2:g}" y="{y + 25:g}" text-anchor="middle" fill="#0f172a">'
        f"{escape(name)}</text>"
    )


def _arrow(
    source: tuple[float, float, float], target: tuple[float, float, float], label: str
) -> str:
    (x1, y1, w1), (x2, y2, w2) = source, target
    if abs((x1 + w1 / 2) - (x2 + w2 / 2)) < 1 and y2 - y1 > 0:
        points = f"M{x1 + w1 / 2:g} {y2 - GAP:g}L{x2 + w2 / 2:g} {y2:g}"
        at = (x2 + w2 / 2 + 6, y2 - GAP / 2 + 4)
        # Past what stands between; the Parallel state is wider than its neighbours.
        side = MARGIN / 2 if label == "yes" else x1 - 24
        if y2 - y1 > HEIGHT + GAP + 1 and w1 == WIDTH and w2 == WIDTH:
            points = f"M{x1:g} {y1 + HEIGHT / 2:g}H{side:g}V{y2 + HEIGHT / 2:g}H{x2:g}"
            at = (x1 - 30, y1 + HEIGHT / 2 - 6)
    else:
        middle = x2 - 36
        points = f"M{x1 + w1:g} {y1 + HEIGHT / 2:g}H{middle:g}V{y2 + HEIGHT / 2:g}H{x2:g}"
        at = (x1 + w1 + 6, y1 + HEIGHT / 2 - 6)
    text = (
        f'<text x="{at[0]:g}" y="{at[1]:g}" font-size="11" fill="#475569">{label}</text>'
        if label
        else ""
    )
    return f'<path d="{points}" fill="none" stroke="#475569" marker-end="url(#tip)"/>{text}'


if __name__ == "__main__":
    PICTURE.write_text(draw(json.loads(DEFINITION.read_text())))
