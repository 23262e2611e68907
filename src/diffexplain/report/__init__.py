"""Self-contained HTML pages, figures and tables from finished runs."""

from diffexplain.report.beside import Plate, Section, Table
from diffexplain.report.page import write_report

__all__ = ["Plate", "Section", "Table", "write_report"]
