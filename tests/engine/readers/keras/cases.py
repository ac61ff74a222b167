"""Models that between them have every layer and operation of the tables, each with its output.

Layers that take the same input stand in one model side by side: one export for all of them.
"""

from formats.keras.values import ACTIVATIONS
from worker.engine.readers.keras.runtime import keras

# What has no case, and why.
EXEMPT = {
    "InputLayer": "every case has one",
    "GRUCell": "inside RNN, in the case of cells",
    "LSTMCell": "inside RNN, in the case of cells",
    "SimpleRNNCell": "inside RNN, in the case of cells",
    "StackedRNNCells": "inside RNN, in the case of cells",
}


def _model(inputs, outputs):
    library = keras()
    for name in outputs:
        assert "." not in name
    return library.Model(inputs, [*outputs.values()])


def images():
    layers = keras().layers
    x = layers.Input((8, 8, 6), name="image")
    made = [
        layers.Conv2D(4, 3, padding="same", activation="relu", dilation_rate=2),
        layers.Conv2D(4, 3, strides=2, padding="same", groups=2),
        layers.Conv2D(4, (2, 3), use_bias=False),
        layers.Conv2DTranspose(4, 3, strides=2, padding="same"),
        layers.Conv2DTranspose(4, 4, strides=2, padding="valid"),
        layers.DepthwiseConv2D(3, depth_multiplier=2, padding="same", activation="relu"),
        layers.DepthwiseConv2D(3, strides=2, padding="same"),
        layers.SeparableConv2D(5, 3, depth_multiplier=2, padding="same", activation="gelu"),
        layers.BatchNormalization(),
        layers.BatchNormalization(scale=False, center=False),
        layers.LayerNormalization(),
        layers.LayerNormalization(axis=[1, 2, 3]),
        layers.GroupNormalization(3),
        layers.GroupNormalization(-1),
        layers.UnitNormalization(),
        layers.RMSNormalization(),
        layers.MaxPooling2D(),
        layers.MaxPooling2D(3, strides=2, padding="same"),
        layers.AveragePooling2D(3, strides=2, padding="same"),
        layers.AveragePooling2D(2),
        layers.AdaptiveAveragePooling2D(3),
        layers.AdaptiveMaxPooling2D(3),
        layers.GlobalAveragePooling2D(),
        layers.GlobalAveragePooling2D(keepdims=True),
        layers.GlobalMaxPooling2D(),
        layers.ZeroPadding2D(((1, 2), (0, 1))),
        layers.Cropping2D(1),
        layers.UpSampling2D(),
        layers.UpSampling2D(interpolation="bilinear"),
        layers.SpatialDropout2D(0.5),
        layers.PReLU(shared_axes=[1, 2]),
        layers.CenterCrop(4, 4),
        layers.Resizing(5, 7),
        layers.RandomFlip(),
        layers.RandomRotation(0.1),
        layers.RandomZoom(0.1),
        layers.RandomTranslation(0.1, 0.1),
        layers.RandomContrast(0.1),
        layers.RandomBrightness(0.1),
        layers.Rescaling(1.0 / 255, offset=0.5),
        layers.Rescaling([1.0, 2.0, 3.0, 4.0, 5.0, 6.0]),
        layers.Normalization(mean=[0.1] * 6, variance=[2.0] * 6),
        layers.Flatten(),
        layers.Permute((3, 1, 2)),
        layers.Reshape((64, 6)),
        layers.TimeDistributed(layers.Dense(3)),
        layers.Dense(5, activation="silu"),
        layers.EinsumDense("abcd,de->abce", output_shape=(8, 8, 4), bias_axes="e"),
    ]
    return x, [layer(x) for layer in made]


def sequences():
    layers = keras().layers
    x = layers.Input((7, 6), name="sequence")
    made = [
        layers.Conv1D(4, 3, padding="causal", dilation_rate=2),
        layers.Conv1D(4, 3, padding="same", strides=2),
        layers.Conv1DTranspose(4, 3, strides=2),
        layers.DepthwiseConv1D(3, padding="same"),
        layers.SeparableConv1D(5, 3, padding="same"),
        layers.MaxPooling1D(),
        layers.AveragePooling1D(2),
        layers.AdaptiveAveragePooling1D(3),
        layers.AdaptiveMaxPooling1D(3),
        layers.GlobalAveragePooling1D(),
        layers.GlobalMaxPooling1D(),
        layers.ZeroPadding1D(1),
        layers.Cropping1D(1),
        layers.UpSampling1D(),
        layers.SpatialDropout1D(0.5),
        layers.BatchNormalization(),
        layers.LayerNormalization(scale=False),
        layers.Masking(),
    ]
    outputs = [layer(x) for layer in made]
    y = layers.Dense(6)(x)
    outputs += [
        layers.MultiHeadAttention(2, 3)(x, y),
        layers.MultiHeadAttention(2, 3, value_dim=5, output_shape=4)(x, y, use_causal_mask=True),
        layers.GroupQueryAttention(4, 4, 2)(x, y),
        layers.Attention(use_scale=True)([x, y]),
        layers.AdditiveAttention()([x, y]),
        layers.Dot(axes=2, normalize=True)([x, y]),
    ]
    return x, outputs


def recurrent():
    layers = keras().layers
    x = layers.Input((5, 6), name="sequence")
    made = [
        layers.LSTM(4),
        layers.LSTM(4, return_sequences=True, go_backwards=True),
        layers.LSTM(4, use_bias=False),
        layers.GRU(4, return_sequences=True),
        layers.GRU(4, go_backwards=True),
        layers.GRU(4, use_bias=False),
        layers.SimpleRNN(4, return_sequences=True),
        layers.SimpleRNN(4, activation="relu"),
        layers.Bidirectional(layers.LSTM(3, return_sequences=True)),
        layers.Bidirectional(layers.GRU(3), merge_mode="sum"),
        layers.Bidirectional(layers.SimpleRNN(3), merge_mode="mul"),
    ]
    outputs = [layer(x) for layer in made]
    sequence, h, c = layers.LSTM(4, return_sequences=True, return_state=True)(x)
    outputs += [h, c, layers.LSTM(4)(sequence, initial_state=[h, c])]
    return x, outputs


def unrolled():
    """What PyTorch has no operator for."""
    layers = keras().layers
    x = layers.Input((3, 4), name="sequence")
    made = [
        layers.LSTM(3, activation="relu"),
        layers.GRU(3, reset_after=False),
        layers.RNN([layers.LSTMCell(3), layers.GRUCell(2), layers.SimpleRNNCell(2)]),
    ]
    return x, [layer(x) for layer in made]


def masked():
    layers = keras().layers
    x = layers.Input((4,), dtype="int32", name="words")
    y = layers.Embedding(11, 6, mask_zero=True)(x)
    return x, [layers.LSTM(3)(y), layers.Embedding(12, 3)(x)]


def convolutional_recurrent():
    layers = keras().layers
    x = layers.Input((2, 5, 3), name="one")
    y = layers.Input((2, 5, 5, 3), name="two")
    z = layers.Input((2, 3, 3, 3, 2), name="three")
    return [x, y, z], [
        layers.ConvLSTM1D(2, 3, padding="same")(x),
        layers.ConvLSTM2D(2, 3)(y),
        layers.ConvLSTM3D(2, 2)(z),
    ]


def volumes():
    layers = keras().layers
    x = layers.Input((4, 4, 4, 3), name="volume")
    made = [
        layers.Conv3D(2, 3, padding="same"),
        layers.Conv3DTranspose(2, 3),
        layers.MaxPooling3D(),
        layers.AveragePooling3D(2),
        layers.AdaptiveAveragePooling3D(2),
        layers.AdaptiveMaxPooling3D(2),
        layers.GlobalAveragePooling3D(),
        layers.GlobalMaxPooling3D(),
        layers.ZeroPadding3D(1),
        layers.Cropping3D(1),
        layers.UpSampling3D(2),
        layers.SpatialDropout3D(0.5),
    ]
    return x, [layer(x) for layer in made]


def rows():
    layers = keras().layers
    x = layers.Input((6,), name="row")
    y = layers.Input((6,), name="other")
    made = [
        layers.Activation("softmax"),
        layers.ActivityRegularization(0.1),
        layers.AlphaDropout(0.1),
        layers.Dropout(0.1),
        layers.GaussianDropout(0.1),
        layers.GaussianNoise(0.1),
        layers.ELU(),
        layers.LeakyReLU(),
        layers.PReLU(),
        layers.ReLU(max_value=1.0, negative_slope=0.1, threshold=0.1),
        layers.Softmax(),
        layers.Identity(),
        layers.RepeatVector(3),
        layers.BatchNormalization(),
        layers.Dense(3, activation=layers.LeakyReLU(), use_bias=False),
    ]
    outputs = [layer(x) for layer in made]
    merged = ("Add", "Average", "Concatenate", "Maximum", "Minimum", "Multiply", "Subtract")
    outputs += [getattr(layers, name)()([x, y]) for name in merged]
    shared = layers.Dense(4)
    return [x, y], [*outputs, shared(x), shared(y)]


def activations():
    library = keras()
    x = library.layers.Input((6,), name="row")
    # One takes two arguments more: no layer can call it.
    names = sorted(ACTIVATIONS - {"threshold"})
    return x, [library.layers.Activation(name)(x) for name in names]


def channels_first():
    layers = keras().layers
    x = layers.Input((6, 8, 8), name="image")
    first = {"data_format": "channels_first"}
    y = layers.Conv2D(4, 3, **first)(x)
    y = layers.BatchNormalization(axis=1)(y)
    y = layers.DepthwiseConv2D(3, **first)(y)
    return x, [layers.GlobalAveragePooling2D(**first)(y), layers.MaxPooling2D(**first)(y)]


def nested():
    library = keras()
    layers = library.layers
    inner = library.Sequential([layers.Input((6,)), layers.Dense(4, name="dense")], name="inner")
    x = layers.Input((6,), name="row")
    outer = library.Model(x, layers.Dense(3, name="dense")(inner(x)), name="outer")
    y = layers.Input((6,), name="row")
    return y, [outer(y)]


def operations():
    library = keras()
    ops = library.ops
    x = library.layers.Input((4, 6), name="x")
    y = library.layers.Input((4, 6), name="y")
    p = ops.absolute(x) + 0.5
    outputs = [
        p,
        ops.amax(x, axis=1),
        ops.amin(x, axis=1),
        ops.average(x, axis=1),
        ops.mean(x, axis=1, keepdims=True),
        ops.ceil(x),
        ops.floor(x),
        ops.round(x),
        ops.sign(x),
        ops.clip(x, -0.5, 0.5),
        ops.concatenate([x, y], axis=-1),
        ops.cos(x),
        ops.sin(x),
        x / p,
        ops.divide(x, p),
        ops.square(x),
        ops.einsum("abc,abd->acd", x, y),
        ops.exp(x),
        ops.expm1(x),
        ops.log(p),
        ops.log1p(p),
        ops.sqrt(p),
        p**2,
        ops.reciprocal(p),
        ops.tanh(x),
        -x,
        x - y,
        x * y,
        ops.expand_dims(x, 1),
        ops.squeeze(ops.expand_dims(x, 1), 1),
        ops.flip(x, axis=1),
        x[:, 1:, ::2],
        x[..., 0],
        ops.matmul(x, ops.swapaxes(y, 1, 2)),
        ops.transpose(x, (0, 2, 1)),
        ops.moveaxis(x, 1, 2),
        ops.max(x, axis=1),
        ops.min(x, axis=1),
        ops.maximum(x, y),
        ops.minimum(x, y),
        ops.pad(x, ((0, 0), (1, 1), (0, 2))),
        ops.prod(x, axis=1),
        ops.sum(x, axis=1),
        ops.var(x, axis=1),
        ops.std(x, axis=1),
        ops.repeat(x, 2, axis=1),
        ops.tile(x, (1, 2, 1)),
        ops.roll(x, 1, axis=1),
        ops.reshape(x, (-1, 24)),
        ops.stack([x, y], axis=1),
        *ops.split(x, 2, axis=-1),
        ops.where(x > y, x, y),
        ops.where(ops.logical_and(x >= y, x < 0.5), x, y),
        ops.where(ops.logical_or(x <= y, ops.logical_not(x < 0.5)), x, y),
        ops.where(ops.equal(x, y), x, y),
        ops.where(ops.not_equal(x, y), x, y),
        ops.cast(x, "float16"),
        ops.celu(x),
        ops.elu(x),
        ops.gelu(x),
        ops.hard_sigmoid(x),
        ops.hard_silu(x),
        ops.hard_tanh(x),
        ops.leaky_relu(x),
        ops.log_sigmoid(x),
        ops.log_softmax(x),
        ops.relu(x),
        ops.relu6(x),
        ops.selu(x),
        ops.sigmoid(x),
        ops.silu(x),
        ops.softmax(x),
        ops.softplus(x),
        ops.softsign(x),
    ]
    return [x, y], outputs


CASES = (
    images,
    sequences,
    recurrent,
    unrolled,
    masked,
    convolutional_recurrent,
    volumes,
    rows,
    activations,
    channels_first,
    nested,
    operations,
)


def built(case):
    inputs, outputs = case()
    model = keras().Model(inputs, outputs)
    generator = keras().random.SeedGenerator(0)
    for variable in model.variables:
        # Biases and statistics that are not what they are at first: all must be read.
        if "float" in variable.dtype:
            noise = keras().random.uniform(variable.shape, 0.5, 1.5, seed=generator)
            variable.assign(variable.value * noise + 0.1 * noise)
    return model
