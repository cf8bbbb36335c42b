"""The sources that files come from, each with its own way of damaging them. Nothing here is ever shown to an agent."""

from __future__ import annotations

from dataclasses import dataclass, field

from memory_mcp.evaluation.workbench.faults import Dialect


@dataclass(frozen=True)
class Family:
    """A source: what its tables are about, the letters it uses, and how it writes its files."""

    name: str
    theme: str
    alphabet: str = "western"
    dialect: Dialect = field(default_factory=Dialect)

    @property
    def clean(self) -> bool:
        """Whether its files need no repair at all."""
        return self.dialect == Dialect()


_IBERIAN_STOCK = Dialect(encoding="cp1252", delimiter="semicolon", decimal="comma")

_ALL = (
    Family("city_library", "holdings"),
    # one damage
    Family("web_shop", "invoices", dialect=Dialect(misread_as=("cp1252",))),
    Family("museum_shop", "stock", dialect=Dialect(wraps=("gzip",))),
    Family("road_authority", "weighings", dialect=Dialect(date_format="%d.%m.%Y")),
    Family("ferry_line", "parcels", dialect=Dialect(delimiter="pipe")),
    Family("choir_treasurer", "bookings", dialect=Dialect(encoding="cp1252")),
    Family("hospital_ward", "samples", dialect=Dialect(repeats_header=True)),
    # two damages
    Family("tax_portal", "invoices", dialect=Dialect(encoding="utf-16-be", delimiter="tab")),
    Family("bakery_till", "bookings", "nordic", Dialect(encoding="cp850", dos_sector=True)),
    Family("payroll_bureau", "payroll", dialect=Dialect(encoding="cp437", delimiter="pipe")),
    Family("letter_service", "tickets", dialect=Dialect(misread_as=("latin-1",), delimiter="semicolon")),
    Family("sensor_gateway", "samples", dialect=Dialect(wraps=("gzip", "gzip"))),
    Family("clinic_laboratory", "samples", dialect=Dialect(wraps=("bz2", "base64"))),
    Family("courier_feed", "parcels", dialect=Dialect(wraps=("gzip",), truncated=True)),
    Family("design_agency", "holdings", dialect=Dialect(encoding="mac_roman", line_end="\r")),
    Family("ohio_parent", "invoices", dialect=Dialect(thousands="comma", date_format="%m/%d/%Y")),
    Family("dublin_office", "invoices", dialect=Dialect(date_format="%d/%m/%Y", null="N/A")),
    Family("helpdesk", "tickets", dialect=Dialect(quoting="not_doubled", null="NULL")),
    Family("club_forum", "tickets", dialect=Dialect(quoting="backslash", null="NULL")),
    Family("market_survey", "tickets", dialect=Dialect(quoting="single", null="?")),
    Family("tape_archive", "holdings", dialect=Dialect(record_padding=True, wraps=("xz",))),
    Family("paging_relay", "tickets", dialect=Dialect(wraps=("hex",), line_end="\\n")),
    # three and more
    Family("insurer_host", "bookings", dialect=Dialect(encoding="cp037", line_end="\x85", delimiter="pipe")),
    Family("lisbon_warehouse", "stock", "portuguese", _IBERIAN_STOCK),
    # the same software as in Lisbon under another name
    Family("porto_outlet", "stock", "portuguese", _IBERIAN_STOCK),
    Family("order_database", "parcels", dialect=Dialect(delimiter="tab", quoting="none", null="\\N")),
    Family("geneva_trustee", "bookings", dialect=Dialect(thousands="apostrophe", date_format="%d.%m.%Y")),
    Family("weighbridge", "weighings", dialect=Dialect(delimiter="semicolon", trailing_delimiter=True)),
    Family(
        "savings_bank",
        "bookings",
        dialect=Dialect(preamble=("Account statement", "", "Printed on request", "Page 1"), footer="total"),
    ),
    Family("munich_clerk", "payroll", dialect=Dialect(encoding="utf-8-sig", delimiter="semicolon", decimal="comma")),
    Family("warsaw_depot", "stock", "polish", Dialect(encoding="cp1250", thousands="space")),
)

FAMILIES: dict[str, Family] = {family.name: family for family in _ALL}
