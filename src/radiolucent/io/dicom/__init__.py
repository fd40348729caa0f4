"""DICOM: series in, Parametric Maps and Segmentations out; the only importer of pydicom and highdicom, on first use.

No value of a header that may name a patient leaves this room: errors and notes hold geometry, UIDs and
numbers, and the libraries' own texts, which quote headers, are not passed on. The two writers are the one
place where a patient's data is carried, as DICOM requires: from the source's headers into the object.
"""

from radiolucent.io.dicom.files import SUFFIXES, is_dicom
from radiolucent.io.dicom.maps import write_parametric_map
from radiolucent.io.dicom.pixels import headers, read
from radiolucent.io.dicom.regions import write_segmentation
from radiolucent.io.dicom.source import Source

__all__ = ["SUFFIXES", "Source", "headers", "is_dicom", "read", "write_parametric_map", "write_segmentation"]
