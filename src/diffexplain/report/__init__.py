"""One self-contained HTML page from a finished run: the answer, the tree, the pictures and the cost."""

from diffexplain.report.page import write_report

__all__ = ["write_report"]
