"""Reports: a case as one page that opens anywhere, without a network."""

from radiolucent.report.html import region_rows, write_report

__all__ = ["region_rows", "write_report"]
