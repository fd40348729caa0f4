"""NumPy arrays in: their axes, their values, and files that only look like arrays."""

import io as memory
import pickle
import tracemalloc
import warnings
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from radiolucent import io
from radiolucent.errors import BadInput, InputWarning
from radiolucent.volume import Volume


def ramp(*shape: int) -> np.ndarray:
    return np.arange(np.prod(shape), dtype=np.float32).reshape(shape)


def refused(path: Path, match: str, **how: object) -> None:
    with pytest.raises(BadInput, match=match) as caught:
        io.read(path, **how)
    assert path.name in str(caught.value)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, np.int16, np.uint8, np.int64, ">f4"])
@pytest.mark.parametrize("order", ["C", "F"])
def test_values_of_every_real_dtype(tmp_path, dtype, order):
    np.save(tmp_path / "a.npy", np.asarray(ramp(3, 4, 5).astype(dtype), order=order))
    assert io.read(tmp_path / "a.npy") == Volume(ramp(1, 3, 4, 5), has_world=False)


def test_axes(tmp_path):
    for shape, expected in [((4, 5), (1, 4, 5)), ((3, 4, 5), (1, 3, 4, 5)), ((2, 3, 4, 5), (2, 3, 4, 5))]:
        np.save(tmp_path / "a.npy", ramp(*shape))
        np.testing.assert_array_equal(io.read(tmp_path / "a.npy").data, ramp(*expected))
    np.testing.assert_array_equal(io.read(tmp_path / "a.npy", frame=1).data, ramp(2, 3, 4, 5)[1:])
    assert io.read(tmp_path / "a.npy", frame="channels") == io.read(tmp_path / "a.npy")
    refused(tmp_path / "a.npy", "a frame from 0 to 1 in a.npy; got 2", frame=2)
    np.save(tmp_path / "a.npy", ramp(3, 4, 5))
    refused(tmp_path / "a.npy", "a frame from 0 to 0 in a.npy; got 1", frame=1)


@pytest.mark.parametrize("shape", [(), (5,), (0, 4), (1, 2, 3, 4, 5)])
def test_other_shapes_are_refused(tmp_path, shape):
    np.save(tmp_path / "a.npy", np.zeros(shape))
    refused(tmp_path / "a.npy", "2, 3 or 4 axes in a.npy; got shape")


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_archives(tmp_path, save):
    save(tmp_path / "one.npz", anything=ramp(3, 4, 5))
    save(tmp_path / "named.npz", label=np.zeros(3), image=ramp(3, 4, 5))
    save(tmp_path / "many.npz", first=ramp(3, 4, 5), second=ramp(3, 4, 5))
    assert io.read(tmp_path / "one.npz") == io.read(tmp_path / "named.npz") == Volume(ramp(1, 3, 4, 5), has_world=False)
    refused(tmp_path / "many.npz", r"one array in many.npz, or one named 'image'; got \['first', 'second'\]")
    np.savez(tmp_path / "none.npz")
    refused(tmp_path / "none.npz", "one array in none.npz")


class Harmful:
    """Its pickle would make a file where it is read."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return (Path.touch, (self.path,))


def test_row_24_a_pickle_is_not_run(tmp_path):
    made = tmp_path / "made"
    np.save(tmp_path / "object.npy", np.array([[Harmful(made)]], object), allow_pickle=True)
    np.savez(tmp_path / "object.npz", image=np.array([[Harmful(made)]], object))
    (tmp_path / "bare.npy").write_bytes(pickle.dumps(Harmful(made)))
    for name in ("object.npy", "object.npz", "bare.npy"):
        refused(tmp_path / name, "a NumPy array in")
    assert not made.exists()
    pickle.loads((tmp_path / "bare.npy").read_bytes())  # and it would have
    assert made.exists()


@pytest.mark.parametrize("dtype", [complex, "U3", "datetime64[s]", [("r", "u1"), ("g", "u1")]])
def test_row_5_no_real_numbers(tmp_path, dtype):
    np.save(tmp_path / "a.npy", np.zeros((3, 4), dtype))
    refused(tmp_path / "a.npy", "real numbers in a.npy; got dtype")


def test_row_1_nonfinite_values(tmp_path):
    np.save(tmp_path / "a.npy", np.array([[1.0, np.nan], [1e300, 4]]))
    refused(tmp_path / "a.npy", "got 2 voxels that are NaN or infinite")
    with pytest.warns(InputWarning, match="2 voxels"):
        np.testing.assert_array_equal(io.read(tmp_path / "a.npy", nonfinite="zero").data, [[[1, 0], [0, 4]]])


def header(shape: str, descr: str = "<f4") -> bytes:
    text = f"{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape}}}"
    text += " " * (117 - len(text)) + "\n"
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text.encode()


@pytest.mark.parametrize("shape", ["(1000000, 1000000)", "(30000, 30000)", "(-3, 4)", "(9223372036854775807, 2)", "'x'"])
def test_row_12_a_header_that_claims_what_is_not_there(tmp_path, shape):
    (tmp_path / "a.npy").write_bytes(header(shape) + bytes(64))
    tracemalloc.start()
    refused(tmp_path / "a.npy", "a NumPy array in a.npy")
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert most < 10 * 2**20  # nothing is allocated for it
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        archive.writestr("image.npy", header(shape) + bytes(64))
    refused(tmp_path / "a.npz", "a NumPy array in a.npz")


def test_row_13_truncated_and_flipped(tmp_path):
    np.save(tmp_path / "a.npy", ramp(9, 9, 9))
    np.savez_compressed(tmp_path / "a.npz", image=np.random.default_rng(0).normal(size=(9, 9, 9)))
    for name in ("a.npy", "a.npz"):
        whole = (tmp_path / name).read_bytes()
        (tmp_path / name).write_bytes(whole[: len(whole) // 2])
        refused(tmp_path / name, "a NumPy array in")
    broken = bytearray(whole)
    broken[len(whole) // 2] ^= 1
    (tmp_path / "a.npz").write_bytes(broken)
    refused(tmp_path / "a.npz", "CRC|Error")


def test_row_14_an_archive_larger_than_the_memory(tmp_path, monkeypatch):
    np.savez_compressed(tmp_path / "a.npz", image=np.zeros((300, 300, 300), np.float32))
    assert (tmp_path / "a.npz").stat().st_size < 1 << 20
    monkeypatch.setattr("os.sysconf", lambda name: 4096 if name == "SC_PAGE_SIZE" else 1 << 14)  # a machine of 64 MiB
    refused(tmp_path / "a.npz", r"half the memory \(0.0312 GiB\) in a.npz; got arrays: 0.101 GiB")


@pytest.mark.parametrize(
    ("raw", "match"), [(b"", "empty file"), (b"1,2,3\n4,5,6\n", "text"), (b"\x89PNG\r\n\x1a\n" + bytes(99), "PNG")]
)
def test_row_15_another_kind_of_file(tmp_path, raw, match):
    for name in ("a.npy", "a.npz"):
        (tmp_path / name).write_bytes(raw)
        refused(tmp_path / name, match)


def test_labels_are_exact(tmp_path):
    labels = np.array([[0, 2**24 + 1], [2**31 - 1, -5]])
    np.save(tmp_path / "a.npy", labels)
    found = io.read_labels(tmp_path / "a.npy")
    assert found.data.dtype == np.int32
    np.testing.assert_array_equal(found.data[0], labels)


def _seeds() -> dict[str, bytes]:
    plain, packed = memory.BytesIO(), memory.BytesIO()
    np.save(plain, ramp(3, 4))
    np.savez_compressed(packed, image=ramp(3, 4))
    return {"a.npy": plain.getvalue(), "a.npz": packed.getvalue()}


SEEDS = _seeds()


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.sampled_from(sorted(SEEDS)), st.lists(st.tuples(st.integers(0, 2**20), st.integers(0, 255)), min_size=1, max_size=4))
def test_damaged_bytes_give_an_image_or_a_reason(tmp_path, name, edits):
    raw = bytearray(SEEDS[name])
    for place, value in edits:
        raw[place % len(raw)] = value
    (tmp_path / name).write_bytes(raw)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", InputWarning)
        try:
            assert io.read(tmp_path / name).data.size > 0
        except BadInput as error:
            assert error.got  # noqa: PT017
