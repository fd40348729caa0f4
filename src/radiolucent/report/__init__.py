"""Reports: a case as one page that opens anywhere, without a network."""

from radiolucent.report.html import write, write_report
from radiolucent.report.page import Anatomy, Page

__all__ = ["Anatomy", "Page", "write", "write_report"]
