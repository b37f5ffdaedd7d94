"""Which answers are cities, and which city they are."""

import csv

import pytest

from dqo.errors import ConfigError
from dqo.task.cities import HELD_OUT, TABLE, TRAINING, Cities, _index, fold
from tests.factories import word_tokenizer
from tests.task.builders import with_rendering


def cities(**keys) -> Cities:
    keys = with_rendering({"phrasings": 4, **keys}, max_completion_length=12)
    return Cities(word_tokenizer(["city"]), 256, **keys)


@pytest.fixture(scope="module")
def task() -> Cities:
    return cities()


@pytest.mark.parametrize(
    ("text", "name", "country"),
    [
        ("Paris", "Paris", "France"),
        (" paris. ", "Paris", "France"),
        ('"Paris"', "Paris", "France"),
        ("**Paris**", "Paris", "France"),
        ("**Paris.**", "Paris", "France"),
        ("“Paris”.", "Paris", "France"),
        ("_Paris_", "Paris", "France"),
        ("Bogota\u0301", "Bogotá", "Colombia"),
        ("Paris, France", "Paris", "France"),
        ("New York", "New York City", "United States"),
        ("New York City, USA", "New York City", "United States"),
        ("London", "London", "United Kingdom"),
        ("London, England", "London", "United Kingdom"),
        ("London, Ontario", "London", "Canada"),
        ("Los Angeles, California, USA", "Los Angeles", "United States"),
        ("Columbus, Georgia", "Columbus", "United States"),
        ("Washington, D.C.", "Washington", "United States"),
        ("Washington DC", "Washington", "United States"),
        ("Washington D.C., USA", "Washington", "United States"),
        ("Tokyo", "Tokyo", "Japan"),
        ("Sao Paulo", "São Paulo", "Brazil"),
        ("SÃO PAULO", "São Paulo", "Brazil"),
        ("Zurich", "Zürich", "Switzerland"),
        ("Bombay", "Mumbai", "India"),
        ("St. Petersburg", "Saint Petersburg", "Russia"),
        ("Saint Petersburg", "Saint Petersburg", "Russia"),
        ("St. Petersburg, Florida", "St. Petersburg", "United States"),
        ("Mexico City", "Mexico City", "Mexico"),
        ("Saigon", "Ho Chi Minh City", "Vietnam"),
        ("Xian", "Xi’an", "China"),
        ("Xi'an", "Xi’an", "China"),
        ("Lodz", "Łódź", "Poland"),
        ("København", "Copenhagen", "Denmark"),
        ("Istanbul, Türkiye", "Istanbul", "Turkey"),
        ("Singapore", "Singapore", "Singapore"),
        ("Hong Kong, China", "Hong Kong", "Hong Kong"),
    ],
)
def test_place(task, text, name, country):
    city = task.place(text)
    assert (city.name, city.country) == (name, country)
    prompt = task.held_out()[0]
    assert task.check(prompt, text, True).reward == 1.0
    assert task.key(prompt, text) == f"{name}, {country}"


@pytest.mark.parametrize(
    "text",
    [
        "", ".", "**", "a city", "Paris is nice", "Paris\nLondon", "Paris, London", "Paris, Texas", "Paris, Franc",
        "Par.is", "- Paris", "Paris -", "Mexico", "Jamaica", "Atlantis", "Paris!", "Paris 🎈", "I recommend Paris.",
        "P", "NYC", "CDG", "Paris, France, Mars",
    ],
)  # fmt: skip
def test_no_place(task, text):
    assert task.place(text) is None
    verdict = task.check(task.held_out()[0], text, True)
    assert (verdict.reward, verdict.correct) == (0.0, False)


def test_unfinished_answer_is_wrong(task):
    assert not task.check(task.held_out()[0], "Paris", False).correct


def test_spellings_of_one_city_have_one_key(task):
    prompt = task.held_out()[0]
    assert task.key(prompt, "Bombay") == task.key(prompt, "mumbai.")
    assert task.key(prompt, "London, Ontario") != task.key(prompt, "London")
    assert task.key(prompt, "Go to  PARIS!") == "go to paris"


def test_a_shared_name_is_the_most_populous_city(task):
    assert task.place("Hyderabad").country == "India"
    assert task.place("Hyderabad, Pakistan").country == "Pakistan"


def test_coordinates(task):
    sydney = task.place("Sydney")
    assert (sydney.latitude, sydney.longitude) == pytest.approx((-33.87, 151.21), abs=0.05)
    assert sydney.population > 4_000_000


def test_table():
    names = _index()
    cities = {city for entries in names.values() for city, _ in entries}
    assert 2900 <= len(cities) <= 3100
    assert min(city.population for city in cities) >= 200_000
    assert all(-90 <= city.latitude <= 90 and -180 <= city.longitude <= 180 for city in cities)
    assert not any(name.isascii() and len(name) < 2 for name in names)
    assert TABLE.stat().st_size < 400_000
    assert "CC BY 4.0" in (TABLE.parent / "README.md").read_text("utf-8")


def test_every_name_of_the_table_is_found(task):
    with TABLE.open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            for name in [row["name"], *filter(None, row["other_names"].split(";"))]:
                city = task.place(f"{name}, {row['country']}")
                assert city is not None and city.country == row["country"], name


def test_phrasings():
    assert len(set(TRAINING)) >= 20
    assert len(set(HELD_OUT)) >= 12
    assert not set(TRAINING) & set(HELD_OUT)
    four = cities(phrasings=4)
    assert {p.content for p in four.draw(0, 40)[0]} == set(TRAINING[:4])
    assert [p.content for p in four.held_out()] == list(HELD_OUT)


def test_prompt_longer_than_the_context():
    with pytest.raises(ConfigError, match="phrasing 1: the prompt has 10 tokens"):
        cities(max_completion_length=250)


def test_fold():
    assert fold("São Tomé-St.  Øst ß") == "sao tome saint ost ss"
