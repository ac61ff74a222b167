"""Small networks as real exports: what an honest file looks like, one for each kind of content."""

import warnings
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn
from torch.export import Dim, ExportedProgram, export


def mlp() -> ExportedProgram:
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))
    return export(model.eval(), (torch.randn(2, 4),))


def cnn_with_dynamic_batch() -> ExportedProgram:
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(8 * 4 * 4, 5),
    )
    batch = Dim("batch", min=1, max=64)
    return export(model.eval(), (torch.randn(2, 3, 8, 8),), dynamic_shapes=({0: batch},))


class _Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(4, 6, batch_first=True)
        self.gru = nn.GRU(6, 5, batch_first=True)
        self.head = nn.Linear(5, 2)

    def forward(self, x):
        return self.head(self.gru(self.lstm(x)[0])[0][:, -1])


def recurrent() -> ExportedProgram:
    return export(_Recurrent().eval(), (torch.randn(2, 7, 4),))


def transformer_with_dynamic_batch() -> ExportedProgram:
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    model = nn.TransformerEncoder(layer, 1, enable_nested_tensor=False)
    return export(
        model.eval(), (torch.randn(2, 5, 8),), dynamic_shapes=({0: Dim("batch", max=128)},)
    )


class _Branching(nn.Module):
    def forward(self, x):
        with torch.no_grad():
            scale = x.abs().mean()
        return torch.cond(x.sum() > 0, lambda v: v.sin(), lambda v: v.cos(), (x,)) * scale


def branching() -> ExportedProgram:
    return export(_Branching(), (torch.randn(3, 4),))


class _Keyed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(10, 4)
        self.out = nn.Linear(4, 10, bias=False)
        self.out.weight = self.embed.weight
        self.register_buffer("scale", torch.ones(4))
        self.register_buffer("steps", torch.arange(4.0), persistent=False)

    def forward(self, batch, *, extra=None, flag: bool = True):
        x = self.embed(batch["input ids"]) * self.scale + self.steps + torch.tensor(0.5)
        if extra is not None and flag:
            x = x + extra[0]
        return {"logits": self.out(x), "parts": (x, [x.mean()])}


def keyed_with_tied_weights() -> ExportedProgram:
    batch = {"input ids": torch.tensor([[1, 2, 3]])}
    return export(_Keyed().eval(), (batch,), {"extra": [torch.randn(1, 3, 4)], "flag": True})


class _Shapes(nn.Module):
    def forward(self, x, y):
        if x.shape[1] % 2 == 0:
            x = x * 2
        z = torch.cat([x, y], dim=0)[:2]
        padded = torch.zeros(x.shape[0] * x.shape[1] // 2 + 3)
        return z.reshape(-1), padded, z.masked_fill(z > 0, float("-inf"))


def derived_shapes() -> ExportedProgram:
    rows, columns = Dim("rows", min=2, max=99), Dim("columns", min=2)
    return export(
        _Shapes(),
        (torch.randn(4, 6), torch.randn(9, 6)),
        dynamic_shapes=({0: rows, 1: 2 * columns}, {0: 2 * rows + 1, 1: 2 * columns}),
    )


class _Dtypes(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.rounded = nn.Parameter(torch.randn(4, 4, dtype=torch.bfloat16))
        self.table = nn.Parameter(torch.arange(8, dtype=torch.int8), requires_grad=False)
        self.turned = nn.Parameter(torch.randn(6, 4).t())

    def forward(self, x, n: int):
        return (x.to(torch.bfloat16) @ self.rounded).float() @ self.turned + self.table[n].float()


def dtypes_and_views() -> ExportedProgram:
    return export(_Dtypes(), (torch.randn(2, 4), 3))


class _Unbacked(nn.Module):
    def forward(self, x):
        n = x[0].item()
        torch._check(n >= 2)
        torch._check(n <= 8)
        return torch.zeros(n) + 1, x.nonzero().float()


def unbacked_sizes() -> ExportedProgram:
    return export(_Unbacked(), (torch.tensor([3, 0, 4]),), strict=False)


class _Varied(nn.Module):
    def forward(self, *args, mode: str = "mean", **options):
        return sum(args) * options["gain"] + (1.0 if mode == "mean" else 0.0)


def varied_arguments() -> ExportedProgram:
    return export(
        _Varied(), (torch.ones(2), torch.ones(2)), {"gain": torch.ones(1), "mode": "mean"}
    )


def strict_mode() -> ExportedProgram:
    model = nn.Sequential(nn.Linear(4, 4), nn.GELU(), nn.Dropout())
    return export(model.eval(), (torch.randn(2, 4),), strict=True)


def decomposed() -> ExportedProgram:
    return cnn_with_dynamic_batch().run_decompositions()


def autocast() -> ExportedProgram:
    class Mixed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(4, 4)

        def forward(self, x):
            with torch.autocast("cpu", dtype=torch.bfloat16):
                return self.linear(x)

    return export(Mixed(), (torch.randn(2, 4),))


ZOO: dict[str, Callable[[], ExportedProgram]] = {
    build.__name__: build
    for build in (
        mlp,
        cnn_with_dynamic_batch,
        recurrent,
        transformer_with_dynamic_batch,
        branching,
        keyed_with_tied_weights,
        derived_shapes,
        dtypes_and_views,
        unbacked_sizes,
        varied_arguments,
        strict_mode,
        decomposed,
        autocast,
    )
}


def save(name: str, folder: Path) -> tuple[Path, ExportedProgram]:
    path = folder / f"{name}.pt2"
    with warnings.catch_warnings():
        # torch's own, on the way to a file: about storages, tracing and deprecations.
        warnings.simplefilter("ignore")
        program = ZOO[name]()
        torch.export.save(program, path)
    return path, program
