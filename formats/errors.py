"""Every way in which a file is refused before anything reads it.

* FormatError
  x UnknownFormat         file.unknown_format
  x UnreadableFile        file.unreadable
  x TruncatedFile         file.truncated
  x ArchiveTooLarge       file.too_large
  x UnsafeFile            file.unsafe
  * ModelFormatError
    x NotAnArchive           model.not_an_archive
    x PickledModule          model.pickled
    x TorchScriptFile        model.torchscript
    x UnsupportedProgram     model.unsupported
    x NotOnnx                model.not_onnx
    x ExternalDataMissing    model.external_data_missing
    x NotASavedModel         model.not_a_saved_model
    x KerasFileUnreadable    model.not_keras
    x UnsupportedKerasModel  model.unsupported_layer
    x NotACheckpoint         model.not_a_checkpoint
    x ArchitectureInvalid    model.architecture
  * DatasetFormatError
    x DatasetUnreadable   dataset.unreadable

Messages reach users: they say what was wrong, with the value; what is allowed; what to do. What
comes from the file is shown escaped and cut short, as it may be anything.
"""

from collections.abc import Iterable
from typing import ClassVar

ONNX_RECIPE = (
    'torch.onnx.export(model.eval(), example_inputs, "model.onnx", dynamo=True, '
    "external_data=False)"
)
SAVED_MODEL_RECIPE = 'model.export("folder"), and a zip of the folder'
EXPORT_RECIPE = 'torch.export.save(torch.export.export(model.eval(), example_inputs), "model.pt2")'
_SHOWN_CHARACTERS = 80


def shown(value: object) -> str:
    """Make a value from the file fit for a message: escaped, on one line, and short.

    Of a container only the kind is shown: one that holds itself twice, many levels deep, has more
    text than memory.
    """
    if isinstance(value, str | bytes):
        cut = value[:_SHOWN_CHARACTERS]
        return ascii(cut) if len(cut) == len(value) else f"{cut!a}..."
    if isinstance(value, bool | int | float | None):
        return ascii(value)
    return f"a {type(value).__name__}"


class FormatError(ValueError):
    """Base of all. Only the leaves are raised; each leaf has a code of its own."""

    code: ClassVar[str]

    def __init__(self, detail: str) -> None:
        super().__init__(detail)
        self.detail = detail


class UnknownFormat(FormatError):
    code = "file.unknown_format"

    def __init__(self, name: str, *, known: Iterable[str]) -> None:
        super().__init__(
            f"no format is called {shown(name)}; known formats: {', '.join(sorted(known))}"
        )
        self.name = name


class UnreadableFile(FormatError):
    """The bytes are damaged, or break the rules of their container."""

    code = "file.unreadable"

    def __init__(self, reason: str) -> None:
        super().__init__(f"the file cannot be read: {reason}; make it again and upload it again")


class TruncatedFile(FormatError):
    code = "file.truncated"

    def __init__(self, reason: str) -> None:
        super().__init__(f"the file is cut short: {reason}; upload the whole file again")


class ArchiveTooLarge(FormatError):
    """Unpacking it would cost more than any honest file of its kind does."""

    code = "file.too_large"

    def __init__(self, what: str, *, found: int, limit: int) -> None:
        super().__init__(f"the archive has {what} of {found}; at most {limit} is allowed")
        self.found = found
        self.limit = limit


class UnsafeFile(FormatError):
    """Something in the file could run code, or is outside what may be there at all."""

    code = "file.unsafe"

    def __init__(self, member: str, reason: str) -> None:
        super().__init__(
            f"member {shown(member)} is refused: {reason}; nothing of the file was loaded. "
            "Upload the file as the tool that makes this format wrote it"
        )
        self.member = member
        self.reason = reason


class ModelFormatError(FormatError):
    """The file is no model that this service takes."""


class NotAnArchive(ModelFormatError):
    code = "model.not_an_archive"

    def __init__(self, looks_like: str) -> None:
        super().__init__(
            f"a .pt2 file holds an exported program, and this looks like {looks_like}. "
            f"Make one with: {EXPORT_RECIPE}"
        )
        self.looks_like = looks_like


class PickledModule(ModelFormatError):
    code = "model.pickled"

    def __init__(self, looks_like: str) -> None:
        super().__init__(
            f"this looks like {looks_like}. Pickles run code when they are read, so none is taken; "
            f"export the model instead: {EXPORT_RECIPE}"
        )
        self.looks_like = looks_like


class TorchScriptFile(ModelFormatError):
    code = "model.torchscript"

    def __init__(self) -> None:
        super().__init__(
            "this is a TorchScript file (torch.jit.save). Export the module that it was made from "
            f"instead: {EXPORT_RECIPE}"
        )


class UnsupportedProgram(ModelFormatError):
    """An honest file may well be like this; what it needs is not available here."""

    code = "model.unsupported"

    def __init__(self, reason: str) -> None:
        super().__init__(f"the program cannot be taken: {reason}")
        self.reason = reason


class NotOnnx(ModelFormatError):
    code = "model.not_onnx"

    def __init__(self, looks_like: str) -> None:
        super().__init__(
            "an ONNX model is a .onnx file, or a zip with one and its external data, and this "
            f"looks like {looks_like}. Make one with: {ONNX_RECIPE}"
        )
        self.looks_like = looks_like


class ExternalDataMissing(ModelFormatError):
    """The file is right, and the weights are in another one that did not come along."""

    code = "model.external_data_missing"

    def __init__(self, location: str, *, tensor: str) -> None:
        super().__init__(
            f"the elements of tensor {shown(tensor)} are in another file, {shown(location)}, which "
            "is not here; zip the whole folder of the model, and upload the zip: "
            "python -m zipfile -c model.zip model.onnx model.onnx.data, or save it in one file: "
            "torch.onnx.export(..., external_data=False)"
        )
        self.location = location


class NotASavedModel(ModelFormatError):
    code = "model.not_a_saved_model"

    def __init__(self, looks_like: str) -> None:
        super().__init__(
            "a TensorFlow SavedModel is a zip or tar of a folder with saved_model.pb and "
            f"variables/, and this looks like {looks_like}. Make one with: {SAVED_MODEL_RECIPE}"
        )
        self.looks_like = looks_like


class NotACheckpoint(ModelFormatError):
    """It is no archive of weights and of what they are for."""

    code = "model.not_a_checkpoint"

    def __init__(self, looks_like: str) -> None:
        super().__init__(
            "a checkpoint is a zip of weights (.safetensors, sharded or not, or one pickled state "
            "dict) and of config.json (transformers) or architecture.json, such as "
            f'{{"builder": "torchvision", "name": "resnet18"}}; and this looks like {looks_like}. '
            "Make one with: zip -0 model.zip model.safetensors architecture.json"
        )
        self.looks_like = looks_like


class ArchitectureInvalid(ModelFormatError):
    """What the weights are for is not said in a way that is understood, or not allowed."""

    code = "model.architecture"

    def __init__(self, reason: str) -> None:
        super().__init__(f"the architecture cannot be taken: {reason}")
        self.reason = reason


class KerasFileUnreadable(ModelFormatError):
    code = "model.not_keras"

    def __init__(self, reason: str) -> None:
        super().__init__(
            f"the Keras model cannot be read: {reason}. Make one with: model.save('model.keras')"
        )
        self.reason = reason


class UnsupportedKerasModel(ModelFormatError):
    """An honest file may well be like this; what it needs is not available here."""

    code = "model.unsupported_layer"

    def __init__(self, reason: str) -> None:
        super().__init__(f"the Keras model cannot be taken: {reason}")
        self.reason = reason


class DatasetFormatError(FormatError):
    """The file is no data set that this service takes."""


class DatasetUnreadable(DatasetFormatError):
    code = "dataset.unreadable"

    def __init__(self, reason: str) -> None:
        super().__init__(
            f"the data set cannot be read: {reason}. "
            "Make one with: numpy.savez('data.npz', inputs=..., targets=...)"
        )
        self.reason = reason
