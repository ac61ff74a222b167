"""Small models of Keras, as users have them: each is pruned, written and loaded again."""

from worker.engine.readers.keras.runtime import keras


def mlp():
    library = keras()
    layers = library.layers
    return library.Sequential(
        [
            layers.Input((6,), name="row"),
            layers.Dense(16, activation="relu"),
            layers.Dropout(0.5),
            layers.Dense(12, activation="gelu", use_bias=False),
            layers.Dense(3, activation="softmax"),
        ]
    )


def cnn():
    library = keras()
    layers = library.layers
    return library.Sequential(
        [
            layers.Input((16, 16, 3), name="image"),
            layers.Rescaling(1.0 / 255),
            layers.Conv2D(8, 3, padding="same", activation="relu"),
            layers.MaxPooling2D(),
            layers.Conv2D(12, 3, strides=2, padding="same", use_bias=False),
            layers.BatchNormalization(),
            layers.ReLU(),
            layers.Dropout(0.2),
            layers.Flatten(),
            layers.Dense(10),
        ]
    )


def residual():
    library = keras()
    layers = library.layers
    x = layers.Input((8, 8, 3), name="image")
    y = layers.Conv2D(8, 3, padding="same")(x)
    z = layers.Conv2D(12, 3, padding="same", activation="relu")(y)
    z = layers.BatchNormalization()(z)
    z = layers.Conv2D(8, 3, padding="same")(z)
    y = layers.ReLU()(layers.Add()([y, z]) * 0.5)
    left = layers.Conv2D(6, 1)(y)
    right = layers.Conv2D(8, 3, padding="same")(y)
    y = layers.Concatenate()([left, right])
    y = layers.Conv2D(8, 1)(y)
    return library.Model(x, layers.Dense(4)(layers.GlobalAveragePooling2D()(y)))


def depthwise():
    library = keras()
    layers = library.layers
    x = layers.Input((8, 8, 3), name="image")
    y = layers.Conv2D(8, 3, strides=2, padding="same")(x)
    y = layers.DepthwiseConv2D(3, padding="same", depth_multiplier=2)(y)
    y = layers.BatchNormalization()(y)
    y = layers.Conv2D(8, 1, activation="relu")(y)
    y = layers.SeparableConv2D(12, 3, padding="same", activation="relu")(y)
    y = layers.Conv2D(8, 3, groups=2, padding="same")(y)
    y = layers.Conv2DTranspose(8, 3, strides=2, padding="same")(y)
    y = layers.GlobalMaxPooling2D()(y)
    return library.Model(x, layers.Dense(4)(y))


def lstm():
    library = keras()
    layers = library.layers
    return library.Sequential(
        [
            layers.Input((7, 6), name="sequence"),
            layers.LSTM(10, return_sequences=True),
            layers.LSTM(8),
            layers.Dense(3),
        ]
    )


def gru():
    library = keras()
    layers = library.layers
    return library.Sequential(
        [
            layers.Input((7, 6), name="sequence"),
            layers.GRU(10, return_sequences=True),
            layers.SimpleRNN(8, return_sequences=True),
            layers.GRU(6, go_backwards=True),
            layers.Dense(3),
        ]
    )


def bidirectional():
    library = keras()
    layers = library.layers
    return library.Sequential(
        [
            layers.Input((7, 6), name="sequence"),
            layers.Bidirectional(layers.LSTM(8, return_sequences=True)),
            layers.Bidirectional(layers.GRU(6)),
            layers.Dense(3),
        ]
    )


def words():
    library = keras()
    layers = library.layers
    return library.Sequential(
        [
            layers.Input((9,), dtype="int32", name="words"),
            layers.Embedding(20, 12),
            layers.Conv1D(8, 3, activation="relu"),
            layers.GlobalMaxPooling1D(),
            layers.Dense(2, activation="sigmoid"),
        ]
    )


def attention():
    library = keras()
    layers = library.layers
    x = layers.Input((5, 8), name="sequence")
    y = layers.Dense(16)(x)
    a = layers.MultiHeadAttention(4, 4)(layers.LayerNormalization()(y), y)
    y = layers.Add()([y, a])
    h = layers.Dense(24, activation="gelu")(layers.LayerNormalization()(y))
    y = layers.Add()([y, layers.Dense(16)(h)])
    y = layers.GlobalAveragePooling1D()(layers.LayerNormalization()(y))
    return library.Model(x, layers.Dense(3)(y))


def generator():
    library = keras()
    layers = library.layers
    return library.Sequential(
        [
            layers.Input((6,), name="noise"),
            layers.Dense(4 * 4 * 8, activation="relu"),
            layers.Reshape((4, 4, 8)),
            layers.Conv2DTranspose(6, 3, strides=2, padding="same", activation="relu"),
            layers.UpSampling2D(),
            layers.Conv2D(3, 3, padding="same", activation="tanh"),
        ]
    )


def several():
    """Inputs and outputs by name, a model inside a model, a layer used twice."""
    library = keras()
    layers = library.layers
    inner = library.Sequential([layers.Input((6,)), layers.Dense(8, name="dense")], name="inner")
    x = layers.Input((6,), name="left")
    y = layers.Input((6,), name="right")
    shared = layers.Dense(10, activation="relu", name="shared")
    z = layers.Concatenate()([shared(inner(x)), shared(inner(y))])
    sequence = layers.TimeDistributed(layers.Dense(4))(layers.Reshape((2, 10))(z))
    return library.Model(
        {"left": x, "right": y},
        {"class": layers.Dense(3)(z), "sequence": sequence},
    )


def normalized():
    library = keras()
    layers = library.layers
    return library.Sequential(
        [
            layers.Input((8, 8, 3), name="image"),
            layers.Conv2D(8, 3),
            layers.GroupNormalization(4),
            layers.PReLU(shared_axes=[1, 2]),
            layers.Conv2D(6, 3, data_format="channels_last"),
            layers.LayerNormalization(axis=[1, 2, 3]),
            layers.Flatten(),
            layers.Dense(2),
        ]
    )


def heads():
    """Attention with fewer keys than queries, and attention written out."""
    library = keras()
    layers = library.layers
    ops = library.ops
    x = layers.Input((5, 8), name="sequence")
    y = layers.Dense(16)(x)
    y = layers.Add()([y, layers.GroupQueryAttention(4, 4, 2)(y, y)])
    query, key, value = (layers.Reshape((5, 4, 4))(layers.Dense(16)(y)) for _ in range(3))
    score = ops.softmax(ops.einsum("bqhd,bkhd->bhqk", query, key) * 0.5)
    mixed = layers.Reshape((5, 16))(ops.einsum("bhqk,bkhd->bqhd", score, value))
    return library.Model(x, layers.EinsumDense("abc,ce->abe", (None, 2), bias_axes="e")(mixed))


def gated():
    """An encoder that hands its state over, and a gate that is half of a layer."""
    library = keras()
    layers = library.layers
    x = layers.Input((5, 6), name="sequence")
    y, h, c = layers.LSTM(8, return_sequences=True, return_state=True)(x)
    y = layers.LSTM(8)(y, initial_state=[h, c])
    value, gate = library.ops.split(layers.Dense(16)(y), 2, axis=-1)
    y = layers.Dense(2 * 2 * 6)(value * library.ops.sigmoid(gate))
    y = library.ops.reshape(y, (-1, 2, 2, 6))
    return library.Model(x, layers.Conv2D(3, 2)(y))


MODELS = (
    mlp,
    cnn,
    residual,
    depthwise,
    lstm,
    gru,
    bidirectional,
    words,
    attention,
    generator,
    several,
    normalized,
    heads,
    gated,
)
