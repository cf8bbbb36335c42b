"""What the tables are made of: words of four regions, awkward notes, and the columns of everyday tables."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Alphabet:
    """Words of one region. The first half of each list cannot be written in ASCII."""

    people: tuple[str, ...]
    places: tuple[str, ...]
    products: tuple[str, ...]


# fmt: off
ALPHABETS: dict[str, Alphabet] = {
    # each of its letters exists in every code page of western Europe: Windows, DOS, Macintosh and EBCDIC
    "western": Alphabet(
        people=("René Lefèvre", "Jürgen Groß", "Zoë Brückner", "Núria Peña", "Åsa Söderström", "François Guérin",
                "Tom Baker", "Anna Schmidt", "Peter O'Brien", "Laura Conti", "Mark de Wit", "Ines Moreno"),
        places=("Besançon", "Düsseldorf", "Málaga", "Malmö", "Orléans", "Bristol", "Torino", "Leiden", "Metz", "Graz"),
        products=("Crème fraîche", "Käsemesser 12 cm", "Pâté de campagne", "Mähdrescherband",
                  "Tilt ladder", "Rubber seal", "Copper pipe", "Desk lamp"),
    ),
    # the dashes exist in Windows-1252 only, which tells it from Latin-1
    "portuguese": Alphabet(
        people=("João Simões", "Conceição Araújo", "Inês Brandão", "Luís Galvão",
                "Carla Duarte", "Rui Tavares", "Marta Lopes", "Hugo d'Almeida"),
        places=("Guimarães", "Évora", "Portimão", "São João – Norte", "Braga", "Faro", "Leiria", "Sintra"),
        products=("Pão de ló – 500 g", "Café moído – 250 g", "Sabão azul – 4 un.",
                  "Atum em lata", "Vinho tinto", "Sal grosso"),
    ),
    # these letters have other places in DOS code page 850 than in 437
    "nordic": Alphabet(
        people=("Søren Kjær", "Bjørg Ødegård", "Léa Ângelo", "Þóra Ólafsdóttir",
                "Erik Holm", "Nina Berg", "Lars Dahl", "Ole Vik"),
        places=("Tromsø", "Ísafjörður", "Bodø", "Rødby", "Bergen", "Odense", "Molde", "Horten"),
        products=("Rugbrød", "Blåbærsyltetøj", "Smørkniv", "Wool socks", "Lamp oil", "Candles"),
    ),
    "polish": Alphabet(
        people=("Łukasz Wiśniewski", "Małgorzata Zięba", "Grażyna Kołodziej", "Jiří Dvořák",
                "Anna Nowak", "Piotr Lis", "Ewa Mazur", "Jan Wrona"),
        places=("Łódź", "Gdańsk", "Białystok", "Częstochowa", "Lublin", "Opole", "Radom", "Sopot"),
        products=("Śruba nierdzewna", "Uchwyt dębowy", "Żarówka 40 W", "Farba", "Zamek", "Klej"),
    ),
}
# fmt: on

# quotes and the usual delimiters inside a value: what breaks careless quoting
AWKWARD_NOTES = (
    'the "old" mill, rear door; ring twice',
    "cable 3\" black, coiled; see O'Brien's list",
    'ask for "the boss" himself, please; urgent',
)
NOTES = ("second delivery", "paid in cash", "please call before noon", "replaces an earlier one", "fine, checked twice")

# Columns as `name:role`. The first one and those marked ! are in every table of the theme, the others come and go.
# fmt: off
THEMES: dict[str, str] = {
    "stock": "article:code! product:product! shelf_city:place quantity:count! "
             "unit_price:money! counted_on:day! remark:note!",
    "invoices": "invoice:number! customer:person! city:place net:money! "
                "tax:money items:count! due_date:day! remark:note!",
    "payroll": "employee:number! name:person! town:place minutes:count! "
               "gross:money! bonus:money paid_on:day! comment:note!",
    "parcels": "parcel:code! recipient:person! destination:place grams:count! "
               "fee:money! sent_on:day! instructions:note!",
    "bookings": "booking:number! party:person! branch:place amount:money! "
                "balance:money units:count! value_date:day! purpose:note!",
    "samples": "sample:code! patient:person! clinic:place dilution:count! result:money! taken_on:day! finding:note!",
    "tickets": "ticket:number! opened_by:person! site:place minutes:count! cost:money! opened_on:day! subject:note!",
    "weighings": "slip:number! driver:person! pit:place crates:count! tonnes:weight! weighed_on:day! remark:note!",
    "holdings": "item:number! author:person! printed_in:place loans:count! price:money! acquired_on:day! comment:note!",
}
# fmt: on
