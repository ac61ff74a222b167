"""What a file that is not what it should be looks like, so that the answer can say it."""

from pathlib import Path

from formats.archive import Archive
from formats.errors import NotAnArchive, PickledModule, TorchScriptFile

_HEAD_BYTES = 512
_ZIP = b"PK\x03\x04"
# torch.save before 1.6 starts with a number of its own, pickled.
_OLD_TORCH_SAVE = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."
_STARTS = (
    (b"", b"\x89HDF\r\n\x1a\n", "an HDF5 file (Keras .h5 weights?)"),
    (b"", b"\x93NUMPY", "a NumPy array (.npy)"),
    (b"", b"\x1f\x8b", "a gzip file"),
    (b"", b"BZh", "a bzip2 file"),
    (b"", b"\xfd7zXZ\x00", "an xz file"),
    (b"", b"7z\xbc\xaf\x27\x1c", "a 7-Zip archive"),
    (b"", b"\x7fELF", "a compiled library or program"),
    (b"", b"MZ", "a Windows program"),
    (b"", b"GGUF", "a GGUF model (llama.cpp)"),
    (b"", b"PAR1", "a Parquet file"),
    (b"", b"%PDF", "a PDF document"),
    (b"", b"version https://git-lfs", "a Git LFS pointer: download the file it points to"),
    (b"", b"<", "a web page or XML (a failed download?)"),
    (b"", b"{", "JSON"),
    (bytes(4), b"TFL3", "a TensorFlow Lite model"),
    (bytes(257), b"ustar", "a tar archive"),
)
_LENGTH_BYTES = 8


def describe(head: bytes) -> str:
    """Say what the first bytes of a file look like."""
    if not head:
        return "an empty file"
    for skipped, magic, name in _STARTS:
        if head[len(skipped) :].startswith(magic):
            return name
    if head[_LENGTH_BYTES:].startswith(b'{"') and head[_LENGTH_BYTES - 1] == 0:
        return (
            "a safetensors file (weights alone: zip them with architecture.json, and upload that "
            "with format=safetensors)"
        )
    # An ONNX model is a protobuf: its version, then the text that names its producer.
    if head.startswith(b"\x08") and head[2:3] in (b"\x12", b"\x1a", b"\x3a", b"\x42"):
        return "an ONNX model"
    return f"none of the kinds of file known here (it starts with {head[:8].hex(' ')})"


def refuse_pickles(head: bytes) -> None:
    """Raise an error if the first bytes of a file are those of a pickle.

    Raises:
        FormatError: They are.
    """
    if head.startswith(_OLD_TORCH_SAVE):
        raise PickledModule("a file of torch.save (an old one)")
    if head[:1] == b"\x80" and head[1:2] in (b"\x02", b"\x03", b"\x04", b"\x05"):
        raise PickledModule("a pickle")


def refuse_what_is_no_program(path: Path) -> None:
    """Raise the error that tells most, if a file cannot be a .pt2 archive by its first bytes.

    Raises:
        FormatError: It is a pickle, or no archive at all.
    """
    with path.open("rb") as file:
        head = file.read(_HEAD_BYTES)
    refuse_pickles(head)
    if not head.startswith(_ZIP):
        raise NotAnArchive(describe(head))


def refuse_pickled_archive(archive: Archive) -> None:
    """Raise the error that tells most, if an archive is one of torch's with a pickle in it.

    Raises:
        FormatError: It holds a pickled module, or TorchScript.
    """
    names = {name.removeprefix(archive.root) for name in archive.members}
    if "data.pkl" in names:
        if "constants.pkl" in names or any(name.startswith("code/") for name in names):
            raise TorchScriptFile
        raise PickledModule("a file of torch.save (a state dict, or a whole module)")


def refuse_other_archives(archive: Archive) -> None:
    """Raise the error that tells most, if an archive is not one of an exported program.

    Raises:
        FormatError: It holds a pickled module, TorchScript, or something else.
    """
    names = {name.removeprefix(archive.root) for name in archive.members}
    if "archive_format" in names:
        return
    refuse_pickled_archive(archive)
    raise NotAnArchive(describe_archive(names))


def describe_archive(names: set[str]) -> str:
    """Say what the names of an archive's members look like."""
    if "serialized_exported_program.json" in names:
        return (
            "a .pt2 file of torch 2.7 or older, whose weights are pickles: load it with that "
            "version, and save it again with a current one"
        )
    if "data.pkl" in names:
        return "a file of torch.save (a pickled state dict or module)"
    if "config.json" in names and any(name.endswith((".safetensors", ".bin")) for name in names):
        return "weights with a config.json: upload it with format=safetensors"
    if {"config.json", "model.weights.h5"} <= names:
        return "a Keras model (.keras)"
    if "archive_format" in names:
        return "an exported program of torch (.pt2): upload it as that"
    if "saved_model.pb" in names:
        return "a TensorFlow SavedModel: upload it as that"
    if any(name.endswith(".onnx") for name in names):
        return "an ONNX model in a zip archive: upload it as that"
    if "[Content_Types].xml" in names:
        return "an office document"
    if names and all(name.endswith(".npy") for name in names):
        return "NumPy arrays (.npz)"
    return "a zip archive of something else"
