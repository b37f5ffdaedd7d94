"""``task=cities``: the quick start. "Recommend a city to visit. Answer with only its name."

The answers are cities, so a map shows which answers a policy has lost (Figure 3 of the paper). The question has
several phrasings; the evaluation uses other phrasings than the training.
"""

import csv
import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Annotated

from pydantic import Field
from transformers import PreTrainedTokenizerBase

from dqo.records import Prompt
from dqo.stages import Verdict
from dqo.task.reading.rows import Row, RowTask
from dqo.task.reading.settings import Rendering

TABLE = Path(__file__).parents[1] / "data" / "cities.csv"

ONLY = "Answer with only its name."
TRAINING = (
    f"Recommend a city to visit. {ONLY}",
    f"Suggest a city for my next holiday. {ONLY}",
    f"Where in the world would you study for a year? Choose one city. {ONLY}",
    f"Pick a city to spend a summer in. {ONLY}",
    f"We are looking for a city to hold our conference in. {ONLY}",
    f"Choose a city for a honeymoon. {ONLY}",
    f"Name a city for a long weekend. {ONLY}",
    f"Which city should I move to? {ONLY}",
    f"I have a free week and like to walk. Which city should I see? {ONLY}",
    f"In which city would you open a small restaurant? {ONLY}",
    f"Tell me a city that is worth a long train ride. {ONLY}",
    f"My parents want to see something new. Propose a city. {ONLY}",
    f"Name a city where a painter should live. {ONLY}",
    f"Give me a city to write a novel about. {ONLY}",
    f"I can work from anywhere. Which city should I try first? {ONLY}",
    f"Which city would you show to a friend from abroad? {ONLY}",
    f"Recommend a city with good food. {ONLY}",
    f"Propose a city for a school trip. {ONLY}",
    f"What city should a film about music be set in? {ONLY}",
    f"I collect old maps. Which city should I look for one of? {ONLY}",
    f"Suggest a city for a family with two children. {ONLY}",
    f"Pick a city to learn a new language in. {ONLY}",
    f"Which city deserves more visitors? {ONLY}",
    f"Name a city you can reach by ship or by plane. {ONLY}",
)
HELD_OUT = (
    f"I would like to travel somewhere. Name one city. {ONLY}",
    f"Which city is good for a short break? {ONLY}",
    f"Where should I spend my birthday? Give me a city. {ONLY}",
    f"Choose a city for a student exchange. {ONLY}",
    f"Propose a city to live in after retirement. {ONLY}",
    f"What city should we fly to this winter? {ONLY}",
    f"Tell me a city that photographers would enjoy. {ONLY}",
    f"Recommend a city for a first trip abroad. {ONLY}",
    f"We need a city for a meeting of twenty people. {ONLY}",
    f"Pick any city that you find interesting. {ONLY}",
    f"Suggest a city to start a company in. {ONLY}",
    f"My sister loves museums. Which city should she go to? {ONLY}",
    f"In what city would you spend a month? {ONLY}",
    f"Name a city for a detective story. {ONLY}",
    f"Which city would make a good surprise for two friends? {ONLY}",
    f"Give me a city to dream about. {ONLY}",
)

COUNTRIES = {  # another name of a country: its name in GeoNames
    "america": "united states", "britain": "united kingdom", "burma": "myanmar", "czech republic": "czechia",
    "great britain": "united kingdom", "holland": "netherlands", "korea": "south korea", "prc": "china",
    "republic of ireland": "ireland", "the netherlands": "netherlands", "turkiye": "turkey", "u.k": "united kingdom",
    "u.s": "united states", "u.s.a": "united states", "uae": "united arab emirates", "uk": "united kingdom",
    "united states of america": "united states", "us": "united states", "usa": "united states", "viet nam": "vietnam",
}  # fmt: skip
LETTERS = str.maketrans({"ø": "o", "ł": "l", "đ": "d", "ð": "d", "ı": "i", "æ": "ae", "œ": "oe", "þ": "th", "ə": "e",
                         "‘": "'", "’": "'", "ʻ": "'", "ʼ": "'", "`": "'"})  # fmt: skip
WRAPPED = re.compile(r"""["'“”‘’`*_]{0,3}([^\W_](?:.*(?:[^\W_]|\)))?)\.?["'“”‘’`*_]{0,3}\.?""")


@dataclass(frozen=True, kw_only=True)
class City:
    """A city of the table. Example: Paris, France, 48.853 north, 2.349 east, 2,138,551 people."""

    name: str
    country: str
    latitude: float  # degrees, north positive
    longitude: float  # degrees, east positive
    population: int


class Cities(RowTask):
    """Reward 1.0 if the answer is finished and names one city of over 200,000 people, without other text; else 0.0."""

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        context_length: int,
        *,
        rendering: Rendering,
        phrasings: Annotated[int, Field(ge=1, le=len(TRAINING), examples=[4])],
    ):
        super().__init__(
            tokenizer,
            context_length,
            rendering,
            training=[Row(content=text, source=f"phrasing {n}") for n, text in enumerate(TRAINING[:phrasings], 1)],
            held_out=[Row(content=text, source=f"held-out phrasing {n}") for n, text in enumerate(HELD_OUT, 1)],
        )

    def check(self, prompt: Prompt, text: str, finished: bool) -> Verdict:
        """Reward 1.0 and correct if ``text`` is finished and names a city (see ``place``), else 0.0. Thread-safe."""
        right = finished and place(text) is not None
        return Verdict(reward=float(right), correct=right)

    def key(self, prompt: Prompt, text: str) -> str:
        """``City, country``, the same for every spelling of a city; for any other text, the text in lower case."""
        city = place(text)
        return f"{city.name}, {city.country}" if city else super().key(prompt, text)

    def place(self, text: str) -> City | None:
        """The city that ``text`` names, or None (for the map of answers)."""
        return place(text)

    def places(self) -> list[City]:
        """All cities of the table (for the map of answers)."""
        return places()

    def draw_answers(self, path: Path, panels: Sequence[tuple[str, Sequence[str]]]) -> None:
        """Write a PNG with a world map for each (title, answers)."""
        from dqo.task.maps.world_map import draw_answers  # matplotlib: for a run that ends

        draw_answers(path, atlas=self, panels=panels)


def place(text: str) -> City | None:
    """The city that an answer names, or None. Examples: "Paris", "paris.", "**Paris**", "Paris, France", "Austin,
    Texas, USA".

    Each part after a comma must be the city's country or region. If several cities match, the most populous one.
    """
    match = WRAPPED.fullmatch(unicodedata.normalize("NFC", text.strip()))
    name, *regions = [fold(part) for part in match[1].split(",")] if match else [""]
    for city, known in _index().get(name, ()):
        if all(COUNTRIES.get(region, region) in known for region in regions):
            return city
    return None


def places() -> list[City]:
    """All cities of the table, the most populous first."""
    return sorted({city for entries in _index().values() for city, _ in entries}, key=lambda city: -city.population)


def fold(text: str) -> str:
    """The name in lower case, without accents and hyphens, "St." as "saint": "São Paulo", "SAO PAULO" and "Sao-Paulo"
    all become "sao paulo"."""
    text = re.sub(r"(?<=\w)[-–](?=\w)", " ", text)
    letters = unicodedata.normalize("NFKD", text.casefold().translate(LETTERS))
    words = "".join(letter for letter in letters if not unicodedata.combining(letter)).split()
    return " ".join("saint" if word in ("st", "st.") else word for word in words)


@cache
def _index() -> dict[str, list[tuple[City, set[str]]]]:
    """Folded name → its cities, each with the folded countries and regions that may follow a comma.

    Cities whose own name matches come first, then those with a matching other name; each sorted by population.
    """
    names: dict[str, list[tuple[City, set[str]]]] = {}
    others: dict[str, list[tuple[City, set[str]]]] = {}
    with TABLE.open(encoding="utf-8", newline="") as file:  # the most populous first
        for row in csv.DictReader(file):
            city = City(
                name=row["name"],
                country=row["country"],
                latitude=float(row["latitude"]),
                longitude=float(row["longitude"]),
                population=int(row["population"]),
            )
            entry = (city, {fold(part) for part in (city.country, *row["region"].split(";")) if part})
            _add_city(names, city.name, entry)
            for name in filter(None, row["other_names"].split(";")):
                _add_city(others, name, entry)
    return {name: names.get(name, []) + others.get(name, []) for name in names | others}


def _add_city(index: dict[str, list[tuple[City, set[str]]]], name: str, entry: tuple[City, set[str]]) -> None:
    folded = fold(name)
    for spelling in {folded, folded.replace("'", ""), folded.rstrip(".")}:  # Xi'an is Xian too, D.C. is D.C
        index.setdefault(spelling, []).append(entry)
