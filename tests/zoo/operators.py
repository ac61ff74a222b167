"""One call, at least, of every operator that has a rule: shapes of what it reads, and the call."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

aten = torch.ops.aten


@dataclass(frozen=True)
class Case:
    """``call`` gets one parameter for each shape. ``channels`` are what the rule must find."""

    operator: Any
    shapes: tuple[tuple[int, ...], ...]
    call: Callable[..., Any]
    channels: int

    @property
    def name(self) -> str:
        return f"{self.operator}-{'-'.join('x'.join(map(str, shape)) for shape in self.shapes)}"


class OneCall(nn.Module):
    """A case as a module: parameters in, the operator's outputs out."""

    def __init__(self, case: Case):
        super().__init__()
        generator = torch.Generator().manual_seed(len(case.name))
        self.operands = nn.ParameterList(
            [nn.Parameter(torch.rand(shape, generator=generator) + 0.1) for shape in case.shapes]
        )
        self.call = case.call

    def forward(self) -> Any:
        return self.call(*self.operands)


def _case(operator: Any, *shapes: tuple[int, ...], channels: int, call=None) -> Case:
    return Case(operator, shapes, call or operator, channels)


def _inplace(operator: Any) -> Callable[..., Tensor]:
    return lambda x, *rest: operator(x.clone(), *rest)


def _pooling(rank: int) -> tuple[int, ...]:
    return (2, 3, *([4] * rank))


def _lstm(x, h, c, *weights):
    return aten.lstm.input(x, [h, c], weights, True, 1, 0.0, False, False, True)


def _two_way_lstm(x, *weights):
    state = aten.zeros.default([2, 2, 3])
    return aten.lstm.input(x, [state, state], weights, True, 1, 0.0, False, True, True)


def _cell(gates: int, inputs: int, hidden: int, *, biases: bool = True) -> tuple:
    rows = gates * hidden
    return ((rows, inputs), (rows, hidden), *(((rows,), (rows,)) if biases else ()))


def _recurrent(operator: Any, biases: bool) -> Callable[..., Any]:
    return lambda x, h, *weights: operator(x, h, weights, biases, 1, 0.0, False, False, True)


class Looked(nn.Module):
    """A look-up by places that stand in the file."""

    def __init__(self, dim: int, places: list[int], *, by_list: bool = False):
        super().__init__()
        self.dim, self.by_list = dim, by_list
        self.register_buffer("places", torch.tensor(places))

    def forward(self, x: Tensor) -> Tensor:
        if self.by_list:
            return aten.index.Tensor(x, [*[None] * self.dim, self.places])
        return aten.index_select.default(x, self.dim, self.places)


PLACES = torch.tensor([[1, 0]])


def _meshed(x: Tensor, y: Tensor) -> list[Tensor]:
    return list(torch.meshgrid(x, y, indexing="ij"))


TOKENS = torch.tensor([[0, 2, 1], [3, 3, 0]])

# A tensor of shape (a, b) has a + b channels: each index of each dimension, while nothing ties it.
CASES: tuple[Case, ...] = (
    # Elementwise.
    *(
        _case(operator, (3, 4), channels=7)
        for operator in (
            aten.relu.default,
            aten.gelu.default,
            aten.silu.default,
            aten.sigmoid.default,
            aten.tanh.default,
            aten.exp.default,
            aten.neg.default,
            aten.alias.default,
            aten.contiguous.default,
            aten.detach.default,
            aten.hardswish.default,
            aten.hardsigmoid.default,
            aten.zeros_like.default,
            aten.ones_like.default,
            aten.lift_fresh_copy.default,
        )
    ),
    *(
        _case(operator, (3, 4), channels=7, call=_inplace(operator))
        for operator in (
            aten.relu_.default,
            aten.silu_.default,
            aten.hardswish_.default,
            aten.detach_.default,
        )
    ),
    *(
        _case(operator, (3, 4), channels=7, call=lambda x, op=operator: op(x, 0.5, False))
        for operator in (
            aten.dropout.default,
            aten.alpha_dropout.default,
            aten.feature_dropout.default,
        )
    ),
    _case(
        aten.dropout_.default,
        (3, 4),
        channels=7,
        call=lambda x: aten.dropout_.default(x.clone(), 0.5, False),
    ),
    _case(aten.fill_.Scalar, (3, 4), channels=7, call=lambda x: x.clone().fill_(2.0) + x),
    _case(
        aten.fill_.Tensor, (3, 4), channels=7, call=lambda x: x + x.clone().fill_(torch.ones(()))
    ),
    _case(aten.zero_.default, (3, 4), channels=7, call=lambda x: x.clone().zero_() + x),
    _case(aten.full_like.default, (3, 4), channels=7, call=lambda x: aten.full_like(x, 2.0)),
    _case(aten.to.dtype, (3, 4), channels=7, call=lambda x: aten.to.dtype(x, torch.float64)),
    _case(
        aten.to.device, (3, 4), channels=7, call=lambda x: aten.to.device(x, "cpu", torch.float64)
    ),
    _case(
        aten.to.dtype_layout,
        (3, 4),
        channels=7,
        call=lambda x: aten.to.dtype_layout(x, dtype=torch.float64),
    ),
    _case(aten.type_as.default, (3, 4), (3, 4), channels=7),
    _case(aten.add.Tensor, (3, 4), (3, 4), channels=7),
    _case(aten.add.Tensor, (2, 3, 4), (4,), channels=9),
    _case(aten.mul.Tensor, (2, 3, 4), (3, 1), channels=9),
    _case(aten.sub.Tensor, (3, 1), (1, 4), channels=7),
    _case(aten.add_.Tensor, (3, 4), (4,), channels=7, call=_inplace(aten.add_.Tensor)),
    _case(aten.where.self, (3, 4), (4,), channels=7, call=lambda x, y: torch.where(x > 0.5, x, y)),
    *(
        _case(operator, (3, 4), (3, 4), channels=7, call=lambda x, y, op=operator: op(x > y, y > x))
        for operator in (aten.__and__.Tensor, aten.__or__.Tensor)
    ),
    _case(aten.copy_.default, (3, 4), (4,), channels=7, call=_inplace(aten.copy_.default)),
    _case(
        aten.empty_like.default, (3, 4), channels=7, call=lambda x: x + aten.empty_like(x).zero_()
    ),
    _case(aten.floor_divide.default, (3, 4), (4,), channels=7),
    _case(aten.where.ScalarOther, (3, 4), channels=7, call=lambda x: torch.where(x > 0.5, x, 2.0)),
    _case(aten.where.ScalarSelf, (3, 4), channels=7, call=lambda x: torch.where(x > 0.5, 2.0, x)),
    _case(aten.where.Scalar, (3, 4), channels=7, call=lambda x: torch.where(x > 0.5, 2.0, 1.0)),
    _case(
        aten.masked_fill_.Scalar,
        (3, 4),
        (4,),
        channels=7,
        call=lambda x, y: x.clone().masked_fill_(y > 0.5, 2.0),
    ),
    _case(
        aten.masked_fill_.Tensor,
        (3, 4),
        (4,),
        channels=7,
        call=lambda x, y: x.clone().masked_fill_(y > 0.5, torch.ones(())),
    ),
    *(
        _case(
            operator,
            (3, 4),
            (4,),
            channels=7,
            call=lambda x, y, op=operator: op(x, y.expand_as(x)).abs(),
        )
        for operator in (aten.complex.default, aten.polar.default)
    ),
    *(
        _case(operator, (3, 4), channels=7, call=lambda x, op=operator: op(torch.complex(x, x * x)))
        for operator in (aten.real.default, aten.imag.default, aten.view_as_real.default)
    ),
    _case(
        aten.view_as_complex.default,
        (3, 4, 2),
        channels=7,
        call=lambda x: aten.view_as_complex(x).abs(),
    ),
    _case(aten.expand_as.default, (4,), (3, 4), channels=7),
    _case(aten.prelu.default, (2, 4, 3), (4,), channels=6),
    _case(aten.prelu.default, (2, 4), (1,), channels=6),
    _case(aten.glu.default, (2, 6), channels=5),
    # What a softmax runs over stays.
    _case(aten.softmax.int, (3, 4), channels=3, call=lambda x: aten.softmax.int(x, -1)),
    _case(aten.log_softmax.int, (3, 4), channels=4, call=lambda x: aten.log_softmax.int(x, 0)),
    _case(
        aten._softmax.default, (3, 4), channels=3, call=lambda x: aten._softmax.default(x, 1, False)
    ),
    _case(
        aten._log_softmax.default,
        (3, 4),
        channels=3,
        call=lambda x: aten._log_softmax.default(x, 1, False),
    ),
    _case(
        aten._assert_tensor_metadata.default,
        (3, 4),
        channels=7,
        call=lambda x: (aten._assert_tensor_metadata.default(x, dtype=torch.float32), x + 1)[1],
    ),
    # Products: what both sides have is one, what one side has is its own.
    _case(aten.linear.default, (2, 4), (3, 4), (3,), channels=9),
    _case(aten.linear.default, (2, 5, 4), (3, 4), channels=14),
    *(
        _case(
            aten.einsum.default,
            *shapes,
            channels=channels,
            call=lambda *x, text=text: aten.einsum(text, list(x)),
        )
        for text, shapes, channels in (
            ("bij,bjk->bik", ((2, 3, 4), (2, 4, 5)), 14),
            ("...c, kc -> ...k", ((2, 3, 4), (5, 4)), 14),
            ("ij,kj", ((3, 4), (5, 4)), 12),
            ("ij->ji", ((3, 4),), 7),
            ("i,i->", ((3,), (3,)), 3),
        )
    ),
    _case(aten.matmul.default, (3, 4), (4, 5), channels=12),
    _case(aten.matmul.default, (2, 3, 4), (4, 5), channels=14),
    _case(aten.matmul.default, (2, 3, 4), (2, 4, 5), channels=14),
    _case(aten.matmul.default, (4,), (4, 5), channels=9),
    _case(aten.matmul.default, (3, 4), (4,), channels=7),
    _case(aten.bmm.default, (2, 3, 4), (2, 4, 5), channels=14),
    _case(aten.mm.default, (3, 4), (4, 5), channels=12),
    _case(aten.mv.default, (3, 4), (4,), channels=7),
    _case(aten.dot.default, (4,), (4,), channels=4),
    _case(aten.vdot.default, (4,), (4,), channels=4),
    _case(aten.outer.default, (3,), (4,), channels=7),
    _case(aten.bilinear.default, (2, 3), (2, 4), (5, 3, 4), (5,), channels=14),
    _case(aten.bilinear.default, (2, 3), (2, 4), (5, 3, 4), channels=14),
    _case(aten.addmm.default, (5,), (3, 4), (4, 5), channels=12),
    _case(aten.addmm.default, (3, 5), (3, 4), (4, 5), channels=12),
    _case(aten.baddbmm.default, (2, 3, 5), (2, 3, 4), (2, 4, 5), channels=14),
    # Convolutions: rows, inputs and outputs; grouped ones go in whole groups.
    _case(aten.conv1d.default, (2, 4, 5), (3, 4, 2), (3,), channels=9),
    _case(aten.conv2d.default, (2, 4, 5, 5), (3, 4, 2, 2), channels=9),
    _case(aten.conv3d.default, (2, 4, 3, 3, 3), (3, 4, 2, 2, 2), (3,), channels=9),
    _case(
        aten.conv2d.default,
        (2, 6, 5, 5),
        (9, 2, 2, 2),
        (9,),
        channels=2 + 3,
        call=lambda x, w, b: aten.conv2d.default(x, w, b, [1, 1], [0, 0], [1, 1], 3),
    ),
    _case(
        aten.conv2d.default,
        (2, 4, 5, 5),
        (8, 1, 2, 2),
        channels=2 + 4,
        call=lambda x, w: aten.conv2d.default(x, w, None, [1, 1], [0, 0], [1, 1], 4),
    ),
    *(
        _case(
            operator,
            (2, 4, *([4] * rank)),
            (3, 4, *([3] * rank)),
            channels=9,
            call=lambda x, w, op=operator, r=rank: op(x, w, None, [1] * r, "same"),
        )
        for rank, operator in enumerate(
            (aten.conv1d.padding, aten.conv2d.padding, aten.conv3d.padding), start=1
        )
    ),
    _case(aten.conv_transpose1d.default, (2, 4, 5), (4, 3, 2), (3,), channels=9),
    _case(aten.conv_transpose2d.input, (2, 4, 3, 3), (4, 3, 2, 2), channels=9),
    _case(aten.conv_transpose3d.input, (2, 4, 3, 3, 3), (4, 3, 2, 2, 2), channels=9),
    _case(
        aten.conv_transpose2d.input,
        (2, 6, 3, 3),
        (6, 2, 2, 2),
        (6,),
        channels=2 + 3,
        call=lambda x, w, b: aten.conv_transpose2d.input(x, w, b, [1, 1], [0, 0], [0, 0], 3),
    ),
    # Normalizations.
    _case(
        aten.batch_norm.default,
        (3, 4, 2),
        (4,),
        (4,),
        (4,),
        (4,),
        channels=9,
        call=lambda x, w, b, m, v: aten.batch_norm.default(
            x, w, b, m.detach(), v.detach(), False, 0.1, 1e-5, False
        ),
    ),
    _case(
        aten.instance_norm.default,
        (3, 4, 5),
        (4,),
        (4,),
        channels=12,
        call=lambda x, w, b: aten.instance_norm.default(
            x, w, b, None, None, True, 0.1, 1e-5, False
        ),
    ),
    # Without statistics of its own: a weight that is standardized, its inputs together.
    _case(
        aten.batch_norm.default,
        (1, 4, 6),
        (4,),
        channels=10,
        call=lambda x, w: aten.batch_norm.default(x, w, None, None, None, True, 0.0, 1e-5, False),
    ),
    _case(aten._weight_norm.default, (3, 4, 2), (3, 1, 1), channels=9),
    _case(
        aten._weight_norm.default,
        (3, 4, 2),
        (1, 1, 2),
        channels=9,
        call=lambda v, g: aten._weight_norm.default(v, g, 2),
    ),
    _case(
        aten.layer_norm.default,
        (3, 4),
        (4,),
        (4,),
        channels=7,
        call=lambda x, w, b: aten.layer_norm.default(x, [4], w, b),
    ),
    _case(
        aten.rms_norm.default,
        (3, 4),
        (4,),
        channels=7,
        call=lambda x, w: aten.rms_norm.default(x, [4], w, 1e-5),
    ),
    _case(
        aten.group_norm.default,
        (3, 6, 2),
        (6,),
        (6,),
        channels=3 + 3,
        call=lambda x, w, b: aten.group_norm.default(x, 3, w, b),
    ),
    *(
        _case(
            aten.group_norm.default,
            (3, 6, 2),
            *vectors,
            channels=3 + 6 + 2,
            call=lambda x, *vectors: aten.group_norm.default(x, 1, *vectors),
        )
        for vectors in ((), ((6,), (6,)))
    ),
    # Pooling and resampling: rows and channels, never space.
    *(
        _case(
            operator, _pooling(rank), channels=5, call=lambda x, op=operator, r=rank: op(x, [2] * r)
        )
        for operators in (
            (
                aten.adaptive_avg_pool1d.default,
                aten.adaptive_avg_pool2d.default,
                aten.adaptive_avg_pool3d.default,
            ),
            (aten.avg_pool1d.default, aten.avg_pool2d.default, aten.avg_pool3d.default),
            (aten.max_pool1d.default, aten.max_pool2d.default, aten.max_pool3d.default),
            (
                aten.adaptive_max_pool1d.default,
                aten.adaptive_max_pool2d.default,
                aten.adaptive_max_pool3d.default,
            ),
            (
                aten.max_pool1d_with_indices.default,
                aten.max_pool2d_with_indices.default,
                aten.max_pool3d_with_indices.default,
            ),
        )
        for rank, operator in enumerate(operators, start=1)
    ),
    *(
        _case(
            operator,
            _pooling(rank),
            channels=5,
            call=lambda x, op=operator: op(x, None, [2.0] * (x.dim() - 2)),
        )
        for operator, rank in (
            (aten.upsample_nearest1d.vec, 1),
            (aten.upsample_nearest2d.vec, 2),
            (aten.upsample_nearest3d.vec, 3),
            (aten._upsample_nearest_exact1d.vec, 1),
            (aten._upsample_nearest_exact2d.vec, 2),
            (aten._upsample_nearest_exact3d.vec, 3),
        )
    ),
    *(
        _case(
            operator,
            _pooling(rank),
            channels=5,
            call=lambda x, op=operator: op(x, None, False, [2.0] * (x.dim() - 2)),
        )
        for operator, rank in (
            (aten.upsample_linear1d.vec, 1),
            (aten.upsample_bilinear2d.vec, 2),
            (aten.upsample_bicubic2d.vec, 2),
            (aten._upsample_bicubic2d_aa.vec, 2),
            (aten._upsample_bilinear2d_aa.vec, 2),
            (aten.upsample_trilinear3d.vec, 3),
        )
    ),
    _case(
        aten.grid_sampler.default,
        (2, 3, 4, 4),
        (2, 2, 2, 2),
        channels=5,
        call=lambda x, grid: aten.grid_sampler.default(x, grid, 0, 0, False),
    ),
    # Reductions: a sum loses what it sums over, an average and an extreme are of what is left, the
    # others must keep it.
    _case(aten.sum.dim_IntList, (3, 4), channels=7, call=lambda x: aten.sum.dim_IntList(x, [1])),
    _case(aten.sum.dim_IntList, (3, 4, 2), channels=9, call=lambda x: x.sum((0, 2), keepdim=True)),
    _case(aten.sum.default, (3, 4), channels=7),
    _case(aten.mean.dim, (3, 4), channels=7, call=lambda x: aten.mean.dim(x, [-1])),
    _case(aten.mean.dim, (3, 4, 2), channels=9, call=lambda x: aten.mean.dim(x, [1, 2], True)),
    _case(aten.mean.default, (3, 4), channels=7),
    _case(aten.linalg_vector_norm.default, (3, 4), channels=7, call=lambda x: x.norm(dim=-1)),
    _case(aten.linalg_vector_norm.default, (3, 4), channels=7),
    _case(aten.amax.default, (3, 4), channels=7, call=lambda x: aten.amax.default(x, [0], True)),
    _case(aten.amin.default, (3, 4), channels=7, call=lambda x: aten.amin.default(x, [1])),
    *(
        _case(operator, (3, 4), channels=7, call=lambda x, op=operator: op(x, 1)[0])
        for operator in (aten.max.dim, aten.min.dim)
    ),
    _case(aten.max.default, (3, 4), channels=7),
    _case(aten.min.default, (3, 4), channels=7),
    _case(aten.var.correction, (3, 4), channels=7, call=lambda x: aten.var.correction(x, [1])),
    _case(aten.std.correction, (3, 4), channels=7, call=lambda x: aten.std.correction(x, [1])),
    *(
        _case(operator, (3, 4), channels=7, call=lambda x, op=operator: op(x, [1], False))
        for operator in (
            aten.std.dim,
            aten.var.dim,
            aten.std_mean.dim,
            aten.var_mean.dim,
        )
    ),
    *(
        _case(operator, (3, 4), channels=7, call=lambda x, op=operator: op(x, False))
        for operator in (
            aten.std.default,
            aten.var.default,
            aten.std_mean.default,
            aten.var_mean.default,
        )
    ),
    _case(aten.cosine_similarity.default, (3, 4), (3, 4), channels=7),
    *(
        _case(operator, (3, 4), channels=7, call=lambda x, op=operator: op(x, [0], keepdim=True))
        for operator in (aten.var_mean.correction, aten.std_mean.correction)
    ),
    *(
        _case(operator, (3, 4), channels=3, call=lambda x, op=operator: op(x, 1))
        for operator in (
            aten.argmax.default,
            aten.argmin.default,
            aten.max.dim,
            aten.min.dim,
            aten.cumsum.default,
            aten.cumprod.default,
            aten.sort.default,
        )
    ),
    *(
        _case(operator, (3, 4), channels=3, call=lambda x, op=operator: op(x > 0.5, 1))
        for operator in (aten.all.dim, aten.any.dim)
    ),
    _case(aten.logsumexp.default, (3, 4), channels=3, call=lambda x: aten.logsumexp(x, [1])),
    _case(aten.topk.default, (3, 4), channels=3, call=lambda x: aten.topk(x, 2, 1)),
    _case(aten.diff.default, (3, 4), channels=3, call=aten.diff.default),
    _case(aten.roll.default, (3, 4), channels=3, call=lambda x: aten.roll(x, [1], [1])),
    _case(aten.unfold.default, (3, 4), channels=3, call=lambda x: aten.unfold(x, 1, 2, 1)),
    # Patches: rows and channels.
    _case(aten.im2col.default, (2, 3, 4, 4), channels=5, call=lambda x: nn.Unfold(2)(x)),
    _case(
        aten.col2im.default,
        (2, 12, 9),
        channels=5,
        call=lambda x: aten.col2im(x, [4, 4], [2, 2], [1, 1], [0, 0], [1, 1]),
    ),
    # Look-ups: what computed places may ask for stays; what constant ones read goes along.
    _case(aten.gather.default, (3, 4), channels=3, call=lambda x: x.gather(1, PLACES.expand(3, 2))),
    _case(aten.index_select.default, (3, 4), channels=7, call=Looked(1, [2, 0, 3])),
    _case(aten.index.Tensor, (3, 4, 2), channels=9, call=Looked(1, [2, -4, 3], by_list=True)),
    _case(aten.index.Tensor, (3, 4, 2), channels=9, call=lambda x: x[:, [2, 0, 3]]),
    _case(aten.index.Tensor, (3, 4, 2), channels=8, call=lambda x: x[:, [-2]]),
    _case(aten.index.Tensor, (3, 4, 2), channels=5, call=lambda x: x[:, TOKENS]),
    _case(aten.index.Tensor, (3, 4, 5), channels=5, call=lambda x: x[PLACES[0], PLACES[0]]),
    _case(aten.index.Tensor, (3, 4, 2), channels=4, call=lambda x: x[PLACES[0], :, PLACES[0]]),
    _case(aten.prod.dim_int, (3, 4), channels=3, call=lambda x: aten.prod.dim_int(x, 1)),
    # Attention: batch, heads, queries and both widths; the keys' places stay.
    _case(
        aten.scaled_dot_product_attention.default,
        (2, 3, 4, 6),
        (2, 3, 5, 6),
        (2, 3, 5, 7),
        channels=2 + 3 + 4 + 6 + 7,
    ),
    _case(
        aten.scaled_dot_product_attention.default,
        (2, 3, 4, 6),
        (2, 3, 5, 6),
        (2, 3, 5, 7),
        (4, 5),
        channels=2 + 3 + 4 + 6 + 7,
    ),
    # Four heads of the query on two of the key and value, and on one; masks over all and over each.
    *(
        _case(
            aten.scaled_dot_product_attention.default,
            (2, 4, 3, 6),
            (2, heads, 5, 6),
            (2, heads, 5, 7),
            *mask,
            channels=2 + channels + 3 + 6 + 7,
            call=lambda q, k, v, mask=None: aten.scaled_dot_product_attention(
                q, k, v, mask, enable_gqa=True
            ),
        )
        for heads, mask, channels in (
            (2, (), 2),
            (2, ((3, 5),), 2),
            (2, ((2, 1, 3, 5),), 2),
            (2, ((4, 3, 5),), 2),
            (1, (), 4),
        )
    ),
    _case(aten.embedding.default, (5, 4), channels=4, call=lambda w: aten.embedding(w, TOKENS)),
    *(
        _case(
            aten.embedding_bag.default,
            (5, 4),
            channels=4,
            call=lambda w, mode=mode: torch.embedding_bag(w, TOKENS[0], PLACES[0, 1:], mode=mode)[
                0
            ],
        )
        for mode in (0, 1, 2)
    ),
    _case(
        aten.embedding_bag.padding_idx,
        (5, 4),
        (6,),
        channels=4,
        call=lambda w, x: functional.embedding_bag(
            TOKENS, w, per_sample_weights=x.view(2, 3), mode="sum", padding_idx=2
        ),
    ),
    # Tensors made of one number are as wide as their users need.
    *(
        _case(operator, (3, 4), channels=7, call=call)
        for operator, call in (
            (aten.zeros.default, lambda x: x + aten.zeros.default([3, 4])),
            (aten.ones.default, lambda x: x * aten.ones.default([3, 4])),
            (aten.full.default, lambda x: x * aten.full.default([4], 2.0)),
            (aten.new_zeros.default, lambda x: x + aten.new_zeros.default(x, [3, 4])),
            (aten.new_ones.default, lambda x: x * aten.new_ones.default(x, [3, 4])),
            (aten.new_full.default, lambda x: x * aten.new_full.default(x, [3, 4], 2.0)),
            (
                aten.empty.memory_format,
                lambda x: x + aten.empty.memory_format([3, 4]).fill_(0.0),
            ),
        )
    ),
    _case(aten.arange.default, (3, 4), channels=3, call=lambda x: x + torch.arange(4)),
    _case(aten.arange.start, (3, 4), channels=3, call=lambda x: x + torch.arange(1, 5)),
    _case(aten.arange.start_step, (3, 4), channels=3, call=lambda x: x + torch.arange(1, 9, 2)),
    # Recurrent cells: rows, inputs and hidden units; a unit goes with all its gates, time stays.
    _case(
        aten.lstm.input,
        (2, 3, 4),
        (1, 2, 3),
        (1, 2, 3),
        *_cell(4, 4, 3),
        channels=2 + 4 + 3,
        call=_lstm,
    ),
    _case(
        aten.lstm.input,
        (2, 3, 4),
        *_cell(4, 4, 3),
        *_cell(4, 4, 3),
        channels=2 + 4 + 3,
        call=_two_way_lstm,
    ),
    _case(
        aten.lstm.input,
        (2, 3, 4),
        (1, 2, 2),
        (1, 2, 3),
        (12, 4),
        (12, 2),
        (12,),
        (12,),
        (2, 3),
        channels=2 + 4 + 2,
        call=_lstm,
    ),
    _case(
        aten.lstm_cell.default,
        (2, 4),
        (2, 3),
        (2, 3),
        *_cell(4, 4, 3),
        channels=2 + 4 + 3,
        call=lambda x, h, c, *weights: aten.lstm_cell.default(x, [h, c], *weights),
    ),
    *(
        _case(operator, (2, 4), (2, 3), *_cell(gates, 4, 3), channels=2 + 4 + 3)
        for operator, gates in (
            (aten.gru_cell.default, 3),
            (aten.rnn_tanh_cell.default, 1),
            (aten.rnn_relu_cell.default, 1),
        )
    ),
    _case(
        aten.gru.input,
        (2, 3, 4),
        (1, 2, 3),
        *_cell(3, 4, 3),
        channels=2 + 4 + 3,
        call=_recurrent(aten.gru.input, biases=True),
    ),
    _case(
        aten.rnn_tanh.input,
        (2, 3, 4),
        (1, 2, 3),
        *_cell(1, 4, 3),
        channels=2 + 4 + 3,
        call=_recurrent(aten.rnn_tanh.input, biases=True),
    ),
    _case(
        aten.rnn_relu.input,
        (2, 3, 4),
        (1, 2, 3),
        *_cell(1, 4, 3, biases=False),
        channels=2 + 4 + 3,
        call=_recurrent(aten.rnn_relu.input, biases=False),
    ),
    # Movement.
    _case(
        aten.view.default, (2, 6), channels=2 + 3, call=lambda x: aten.view.default(x, [2, 3, 2])
    ),
    _case(aten.view.default, (2, 3, 2), channels=5, call=lambda x: aten.view.default(x, [2, 6])),
    _case(aten.reshape.default, (4, 6), channels=7, call=lambda x: x.t().reshape(2, 3, 4) * 1),
    _case(
        aten._unsafe_view.default,
        (2, 6),
        channels=5,
        call=lambda x: aten._unsafe_view(x, [2, 3, 2]),
    ),
    _case(aten.flatten.using_ints, (2, 3, 2), channels=5, call=lambda x: x.flatten(1)),
    _case(
        aten.unflatten.int, (2, 6), channels=2 + 3, call=lambda x: aten.unflatten.int(x, 1, [3, 2])
    ),
    _case(aten.permute.default, (2, 3, 4), channels=9, call=lambda x: x.permute(2, 0, 1)),
    _case(aten.transpose.int, (2, 3, 4), channels=9, call=lambda x: x.transpose(-1, 0)),
    _case(aten.swapaxes.default, (2, 3, 4), channels=9, call=lambda x: aten.swapaxes(x, 0, 1)),
    _case(aten.numpy_T.default, (2, 3), channels=5),
    _case(aten.mT.default, (2, 3, 4), channels=9),
    _case(aten.t.default, (2, 3), channels=5),
    _case(aten.movedim.int, (2, 3, 4), channels=9, call=lambda x: aten.movedim.int(x, 0, 2)),
    _case(aten.unsqueeze.default, (3, 4), channels=7, call=lambda x: x.unsqueeze(1)),
    _case(aten.squeeze.default, (3, 1, 4), channels=7),
    _case(aten.squeeze.dim, (3, 1, 4), channels=7, call=lambda x: x.squeeze(1)),
    _case(aten.squeeze.dims, (3, 1, 1, 4), channels=7, call=lambda x: aten.squeeze.dims(x, [1, 2])),
    _case(aten.flip.default, (3, 4), channels=7, call=lambda x: x.flip(1)),
    _case(
        aten.pixel_shuffle.default,
        (2, 8, 3, 3),
        channels=2 + 2,
        call=lambda x: aten.pixel_shuffle(x, 2),
    ),
    _case(
        aten.pixel_unshuffle.default,
        (2, 3, 4, 4),
        channels=5,
        call=lambda x: aten.pixel_unshuffle(x, 2),
    ),
    _case(aten.unbind.int, (3, 4), channels=4, call=lambda x: aten.unbind.int(x)),
    _case(aten.select.int, (3, 4), channels=4 + 2, call=lambda x: aten.select.int(x, 0, 1)),
    _case(aten.split.Tensor, (3, 5), channels=7, call=lambda x: aten.split.Tensor(x, 2, 1)),
    _case(aten.split.sizes, (3, 5), channels=8, call=lambda x: aten.split.sizes(x, [2, 3], 1)),
    _case(
        aten.split_with_sizes.default,
        (3, 5),
        channels=8,
        call=lambda x: aten.split_with_sizes(x, [2, 3], 1),
    ),
    _case(aten.chunk.default, (3, 6), channels=9, call=lambda x: aten.chunk(x, 2, -1)),
    _case(
        aten.tensor_split.sections, (3, 5), channels=8, call=lambda x: torch.tensor_split(x, 2, 1)
    ),
    _case(
        aten.tensor_split.indices,
        (3, 5),
        channels=7,
        call=lambda x: torch.tensor_split(x, (1, 3), 1),
    ),
    # Two groups of three channels lose the same; three groups of two go whole.
    *(
        _case(
            operator,
            (2, 6, 3, 3),
            channels=2 + 3 + 3 + 3,
            call=lambda x, op=operator, groups=groups: op(x, groups),
        )
        for operator in (aten.channel_shuffle.default, aten.native_channel_shuffle.default)
        for groups in (2, 3)
    ),
    _case(aten.slice.Tensor, (3, 6), channels=9, call=lambda x: x[:, 2:5]),
    _case(aten.slice.Tensor, (3, 6), channels=9, call=lambda x: x[:, -4:-1]),
    _case(aten.expand.default, (3, 1), channels=3, call=lambda x: x.expand(2, 3, 4)),
    _case(aten.repeat.default, (3, 4), channels=7, call=lambda x: x.repeat(2, 1, 2)),
    _case(
        aten.repeat.default,
        (3, 1, 4),
        (3, 5, 4),
        channels=12,
        call=lambda x, y: x.repeat(1, 5, 1) * y,
    ),
    _case(aten.tile.default, (2, 3, 4), channels=9, call=lambda x: aten.tile.default(x, [2, 1])),
    # Copies of a key for the queries that share it.
    _case(
        aten.reshape.default,
        (2, 3),
        (4, 3),
        channels=5,
        call=lambda x, y: x[:, None].expand(2, 2, 3).reshape(4, 3) * y,
    ),
    _case(aten.meshgrid.indexing, (3,), (4,), channels=0, call=_meshed),
    _case(
        aten.repeat_interleave.self_int,
        (3, 4),
        channels=7,
        call=lambda x: aten.repeat_interleave.self_int(x, 2, 1),
    ),
    _case(aten.reshape_as.default, (3, 8), (3, 4, 2), channels=7),
    _case(aten.view_as.default, (3, 8), (3, 4, 2), channels=7),
    _case(aten.slice.Tensor, (3, 6), channels=6, call=lambda x: x[:, ::2]),
    _case(aten.slice.Tensor, (3, 6), channels=6, call=lambda x: x[:, 1::2]),
    _case(aten.slice.Tensor, (3, 7), channels=3, call=lambda x: x[:, ::2]),
    _case(aten.cat.default, (3, 4), (3, 2), channels=9, call=lambda x, y: torch.cat([x, y], 1)),
    _case(aten.cat.default, (3, 4), (2, 4), channels=9, call=lambda x, y: torch.cat([x, y])),
    _case(aten.stack.default, (3, 4), (3, 4), channels=7, call=lambda x, y: torch.stack([x, y], 1)),
    _case(
        aten.constant_pad_nd.default,
        (3, 4),
        channels=7,
        call=lambda x: aten.constant_pad_nd(x, [1, 2], 0.0),
    ),
    _case(aten.pad.default, (2, 3, 4), channels=5, call=lambda x: aten.pad(x, [1, 1], "reflect")),
    _case(aten.pad.default, (3, 4), channels=7, call=lambda x: aten.pad(x, [0, 1, 1, 0])),
)
