"""Reports: a case as one page that opens anywhere, without a network."""

from radiolucent.report.html import write_report

__all__ = ["write_report"]
