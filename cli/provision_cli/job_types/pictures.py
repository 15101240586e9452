"""Draws state machines.

The way of a job that succeeds goes from the top down; what follows an error stands to its right.
A Task shows the stage that it hands over and the function that it calls; one that may be left out
has a dashed frame.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from html import escape
from typing import Any

#: Pixels: a box, the way between two boxes across and down, the margin of the picture.
WIDTH, HEIGHT, ACROSS, DOWN, MARGIN = 196, 48, 62, 34, 44
#: Of the frame around the branches: the room for its title, and within it.
TITLE, PADDING = 34, 16
#: For what stands to the left of a Choice that asks more than one question.
ANSWERS = 110

GREY = "#f1f5f9"

FILL = {
    "Task": "#dbeafe",
    "Choice": "#fef3c7",
    "Wait": "#ede9fe",
    "Pass": GREY,
    "Succeed": "#dcfce7",
    "Fail": "#fee2e2",
}
LINE, ERROR_LINE = "#475569", "#b91c1c"

type States = dict[str, dict[str, Any]]


@dataclass(frozen=True, slots=True)
class Place:
    """Where a state stands, in pixels."""

    x: float
    y: float
    width: float = WIDTH
    height: float = HEIGHT

    @property
    def middle(self) -> tuple[float, float]:
        """Where its centre is."""
        return self.x + self.width / 2, self.y + self.height / 2

    @property
    def right(self) -> float:
        """Where it ends across."""
        return self.x + self.width

    @property
    def bottom(self) -> float:
        """Where it ends below."""
        return self.y + self.height


@dataclass(slots=True)
class Picture:
    """The elements that have been drawn."""

    elements: list[str] = field(default_factory=list)

    def box(
        self, name: str, state: dict[str, Any], place: Place, *, is_optional: bool = False
    ) -> None:
        """Draw a state."""
        x, y = place.middle
        detail = _detail(state)
        dashes = ' stroke-dasharray="7 4"' if is_optional else ""
        self.elements.append(
            f'<rect x="{place.x:g}" y="{place.y:g}" width="{WIDTH}" height="{HEIGHT}" rx="7"'
            f' fill="{FILL[state["Type"]]}" stroke="{LINE}"{dashes}/>'
        )
        self.text(x, y + (-3 if detail else 5), name, anchor="middle", size=_fitting(name, 13))
        if detail:
            size = _fitting(detail, 10)
            self.text(x, y + 14, detail, anchor="middle", size=size, fill=LINE)

    def text(
        self,
        x: float,
        y: float,
        text: str,
        *,
        anchor: str = "start",
        size: float = 13,
        fill: str = "#0f172a",
    ) -> None:
        """Write a line."""
        self.elements.append(
            f'<text x="{x:g}" y="{y:g}" text-anchor="{anchor}" font-size="{size:g}"'
            f' fill="{fill}">{escape(text)}</text>'
        )

    def arrow(self, *points: tuple[float, float], label: str = "") -> None:
        """Draw a line through points; its label stands where it begins."""
        is_error = label == "error"
        path = "L".join(f"{x:g} {y:g}" for x, y in points)
        line = ERROR_LINE if is_error else LINE
        self.elements.append(
            f'<path d="M{path}" fill="none" stroke="{line}"'
            f"{" stroke-dasharray='5 3'" if is_error else ''}"
            f' marker-end="url(#{"error" if is_error else "tip"})"/>'
        )
        if not label:
            return
        (x1, y1), (x2, y2) = points[:2]
        if len(points) == 4 and x1 < x2:  # noqa: PLR2004  # a step aside: beside another arrow
            self.text(x2 + 3, points[-1][1] - 6, label, size=11, fill=line)
        elif y1 == y2 and x2 > x1:
            self.text(x1 + 9, y1 - 6, label, size=11, fill=line)
        elif y1 == y2:
            self.text(x1 - 9, y1 - 6, label, anchor="end", size=11, fill=line)
        else:
            self.text(x1 + 7, y1 + 20, label, size=11, fill=line)


def _fitting(text: str, size: float) -> float:
    """Return the greatest size, up to one, in which a text fits into a box."""
    # Of Helvetica, in parts of its size.
    width = sum(0.7 if letter.isupper() or letter == "_" else 0.56 for letter in text)
    return min(size, round((WIDTH - 2 * 6) / width, 1))


def draw(definition: dict[str, Any]) -> str:
    """Return the picture of a state machine, as SVG."""
    picture = Picture()
    states: States = definition["States"]
    way = _longest_way(definition["StartAt"], states)
    widest = max(_size(states[name])[0] for name in way)
    asks_more = any(len(state.get("Choices", ())) > 1 for state in states.values())
    left = MARGIN + (ANSWERS if asks_more else 0)
    places: dict[str, Place] = {}
    y = float(MARGIN)
    for name in way:
        width, height = _size(states[name])
        places[name] = Place(left + (widest - width) / 2, y, width, height)
        y += height + DOWN
    aside = _aside(way, states)
    first = left + widest / 2 + WIDTH / 2 + ACROSS
    rows = {name: places[name].y for name in way}
    for name, (column, row) in aside.items():
        top = rows[way[row]] if row < len(way) else y + (row - len(way)) * (HEIGHT + DOWN)
        places[name] = Place(first + column * (WIDTH + ACROSS), top)
    optional = _optional(states).intersection(way)
    for name, place in places.items():
        if states[name]["Type"] == "Parallel":
            _branches(picture, name, states[name], place)
        else:
            picture.box(name, states[name], place, is_optional=name in optional)
    right = max(place.right for place in places.values())
    for name, state in states.items():
        for target, label in _edges(state):
            _connect(picture, places, name, target, label, right=right + MARGIN / 2)
    bottom = max(place.bottom for place in places.values())
    return _svg(picture, right + MARGIN, bottom + MARGIN)


def _svg(picture: Picture, width: float, height: float) -> str:
    tips = "".join(
        f'<marker id="{name}" viewBox="0 0 8 8" refX="8" refY="4" markerWidth="7"'
        f' markerHeight="7" orient="auto"><path d="M0 0L8 4L0 8z" fill="{fill}"/></marker>'
        for name, fill in (("tip", LINE), ("error", ERROR_LINE))
    )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:g} {height:g}"'
        f' width="{width:g}" height="{height:g}" font-family="Helvetica, Arial, sans-serif">\n'
        f"<defs>{tips}</defs>\n"
        f'<rect width="{width:g}" height="{height:g}" fill="white"/>\n'
        + "\n".join(picture.elements)
        + "\n</svg>\n"
    )


def _detail(state: dict[str, Any]) -> str:
    """Return a Task's stage and function."""
    if state["Type"] != "Task":
        return ""
    parameters = state["Parameters"]
    if "FunctionName" not in parameters:
        return f"starts {re.sub(r'^\$\{|StateMachineArn\}$', '', parameters['StateMachineArn'])}"
    function = re.sub(r"^\$\{|FunctionArn\}$", "", parameters["FunctionName"])
    return f"{parameters['Payload']['stage']} · {function}"


def _size(state: dict[str, Any]) -> tuple[float, float]:
    if state["Type"] != "Parallel":
        return WIDTH, HEIGHT
    columns = sum(len(_longest_way(b["StartAt"], b["States"])) for b in state["Branches"])
    inner = columns * WIDTH + (len(state["Branches"]) - 1) * PADDING
    inner += (columns - len(state["Branches"])) * DOWN
    return inner + 2 * PADDING, TITLE + 2 * HEIGHT + DOWN + PADDING


def _branches(picture: Picture, name: str, state: dict[str, Any], place: Place) -> None:
    """Draw a Parallel state: each branch from left to right, its errors below."""
    picture.elements.append(
        f'<rect x="{place.x:g}" y="{place.y:g}" width="{place.width:g}"'
        f' height="{place.height:g}" rx="9" fill="#fafafa" stroke="#94a3b8"/>'
    )
    picture.text(
        place.x + PADDING,
        place.y + 22,
        f"{name}: {len(state['Branches'])} branches beside one another;"
        " an error becomes the branch's result",
        fill="#334155",
    )
    x = place.x + PADDING
    for branch in state["Branches"]:
        places: dict[str, Place] = {}
        for step in _longest_way(branch["StartAt"], branch["States"]):
            places[step] = Place(x, place.y + TITLE)
            for caught in branch["States"][step].get("Catch", []):
                places[caught["Next"]] = Place(x, place.y + TITLE + HEIGHT + DOWN)
            x += WIDTH + DOWN
        x += PADDING - DOWN
        for inner, at in places.items():
            picture.box(inner, branch["States"][inner], at)
        for inner, one in branch["States"].items():
            for target, label in _edges(one):
                _connect(picture, places, inner, target, label, right=0)


def _longest_way(start: str, states: States) -> list[str]:
    """Return the longest way to an end that is no failure, by way of no error."""
    state = states[start]
    if state["Type"] == "Fail":
        return []
    ways = [_longest_way(target, states) for target, label in _edges(state) if label != "error"]
    return (
        [start, *max((way for way in ways if way), key=len, default=[])]
        if (not ways or any(ways))
        else []
    )


def _aside(way: list[str], states: States) -> dict[str, tuple[int, int]]:
    """Return the column and the row of every state beside the way, in the row that leads to it."""
    cells: dict[str, tuple[int, int]] = {}
    queue = [(name, -1, row) for row, name in enumerate(way)]
    for name, column, row in queue:
        for target, _ in _edges(states[name]):
            if target in way or target in cells:
                continue
            cell = (column + 1, row)
            while cell in cells.values():
                cell = (cell[0], cell[1] + 1)
            cells[target] = cell
            queue.append((target, *cell))
    return cells


def _optional(states: States) -> set[str]:
    """Return the states that a Choice leads to, and around."""
    return {
        rule["Next"]
        for state in states.values()
        for rule in state.get("Choices", ())
        if states[rule["Next"]].get("Next") == state["Default"]
    }


def _edges(state: dict[str, Any]) -> list[tuple[str, str]]:
    found = [(state["Next"], "")] if "Next" in state else []
    if state["Type"] == "Choice" and len(state["Choices"]) == 1:
        found += [(state["Choices"][0]["Next"], "yes"), (state["Default"], "no")]
    elif state["Type"] == "Choice":
        found += [(rule["Next"], _asked(rule)) for rule in state["Choices"]]
        found.append((state["Default"], "neither"))
    return found + [
        (catch["Next"], "error")
        for catch in state.get("Catch", [])
        # Where the way goes on as without the error, one arrow says enough.
        if catch["Next"] != state.get("Next")
    ]


def _asked(rule: dict[str, Any]) -> str:
    """Return what a rule asks for, in words."""
    field = str(rule["And"][0]["Variable"]).rpartition(".")[2]
    return field.removeprefix("is_").replace("_", " ")


def _connect(
    picture: Picture,
    places: dict[str, Place],
    source: str,
    target: str,
    label: str,
    *,
    right: float,
) -> None:
    """Draw the arrow from one state to another around what stands between.

    Args:
        picture: where to.
        places: of all states of the same machine or branch.
        source: the state that it leaves.
        target: the state that it reaches.
        label: what stands beside it.
        right: where there is room for a line beside everything.
    """
    a, b = places[source], places[target]
    (ax, ay), (bx, by) = a.middle, b.middle
    top, bottom = sorted((ay, by))
    between = [p for p in places.values() if top < p.middle[1] < bottom and p.x <= bx <= p.right]
    if ay == by:
        picture.arrow((a.right, ay), (b.x, by), label=label)
    elif ax == bx and not between:
        points = ((ax, a.bottom), (bx, b.y)) if ay < by else ((ax, a.y), (bx, b.bottom))
        picture.arrow(*points, label=label)
    elif ax == bx and label in {"no", "neither"}:
        # Around what may be left out.
        side, start = a.x - MARGIN / 4, ay + (HEIGHT / 3 if label == "neither" else 0)
        turn = b.y - DOWN / 2
        picture.arrow((a.x, start), (side, start), (side, turn), (bx, turn), (bx, b.y), label=label)
    elif ax == bx and a.x == min(p.x for p in places.values() if p.width == WIDTH):
        side = MARGIN / 2
        picture.arrow((a.x, ay), (side, ay), (side, by), (b.x, by), label=label)
    elif ax == bx:
        turn = b.y - DOWN / 2
        picture.arrow((a.right, ay), (right, ay), (right, turn), (bx, turn), (bx, b.y), label=label)
    else:
        turn, start = b.x - ACROSS / 2, ay + HEIGHT / 4
        picture.arrow((a.right, start), (turn, start), (turn, by), (b.x, by), label=label)
