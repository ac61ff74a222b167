"""The layers and operations of Keras that a configuration may name, and what each is told.

Keras looks classes up by name, and calls them with what the file says. So a class is built only if
it is in a table below, and only with the arguments listed there. What is left out could run code
(Lambda, TorchModuleWrapper, TFSMLayer, JaxLayer, FlaxLayer), reads files (StringLookup,
IntegerLookup, TextVectorization), or works on what is no tensor of numbers.
"""

from formats.keras.words import words

_CONV = (
    "filters kernel_size strides padding data_format dilation_rate groups activation use_bias "
    "kernel_initializer bias_initializer kernel_regularizer bias_regularizer activity_regularizer "
    "kernel_constraint bias_constraint"
)
_CONV_TRANSPOSE = _CONV.replace("groups", "output_padding")
_DEPTHWISE = (
    "depth_multiplier kernel_size strides padding data_format dilation_rate activation use_bias "
    "depthwise_initializer bias_initializer depthwise_regularizer bias_regularizer "
    "activity_regularizer depthwise_constraint bias_constraint"
)
_SEPARABLE = (
    f"filters {_DEPTHWISE} pointwise_initializer pointwise_regularizer pointwise_constraint"
)
_POOLING = "pool_size padding strides data_format"
_GLOBAL = "data_format keepdims"
_SCALED = (
    "axis epsilon center scale beta_initializer gamma_initializer beta_regularizer "
    "gamma_regularizer beta_constraint gamma_constraint"
)
_CELL = (
    "units activation use_bias kernel_initializer recurrent_initializer bias_initializer "
    "kernel_regularizer recurrent_regularizer bias_regularizer kernel_constraint "
    "recurrent_constraint bias_constraint dropout recurrent_dropout seed"
)
_LOOP = "return_sequences return_state go_backwards stateful unroll zero_output_for_mask"
_RECURRENT = f"{_LOOP} {_CELL} activity_regularizer"
_CONV_LSTM = (
    f"{_LOOP} filters kernel_size strides padding data_format dilation_rate recurrent_activation "
    f"unit_forget_bias activity_regularizer {_CELL.removeprefix('units ')}"
)

LAYERS: dict[str, frozenset[str]] = {
    name: frozenset(arguments.split())
    for name, arguments in {
        "Activation": "activation",
        "ActivityRegularization": "l1 l2",
        "AdaptiveAveragePooling1D": "output_size data_format",
        "AdaptiveAveragePooling2D": "output_size data_format",
        "AdaptiveAveragePooling3D": "output_size data_format",
        "AdaptiveMaxPooling1D": "output_size data_format",
        "AdaptiveMaxPooling2D": "output_size data_format",
        "AdaptiveMaxPooling3D": "output_size data_format",
        "Add": "",
        "AdditiveAttention": "use_scale dropout seed",
        "AlphaDropout": "rate seed noise_shape",
        "Attention": "use_scale score_mode dropout seed",
        "Average": "",
        "AveragePooling1D": _POOLING,
        "AveragePooling2D": _POOLING,
        "AveragePooling3D": _POOLING,
        "BatchNormalization": (
            f"{_SCALED} momentum moving_mean_initializer moving_variance_initializer synchronized "
            "renorm renorm_clipping renorm_momentum"
        ),
        "Bidirectional": "merge_mode layer backward_layer",
        "CenterCrop": "data_format height width",
        "Concatenate": "axis",
        "Conv1D": _CONV,
        "Conv1DTranspose": _CONV_TRANSPOSE,
        "Conv2D": _CONV,
        "Conv2DTranspose": _CONV_TRANSPOSE,
        "Conv3D": _CONV,
        "Conv3DTranspose": _CONV_TRANSPOSE,
        "ConvLSTM1D": _CONV_LSTM,
        "ConvLSTM2D": _CONV_LSTM,
        "ConvLSTM3D": _CONV_LSTM,
        "Cropping1D": "cropping",
        "Cropping2D": "cropping data_format",
        "Cropping3D": "cropping data_format",
        "Dense": (
            "units activation use_bias kernel_initializer bias_initializer kernel_regularizer "
            "bias_regularizer activity_regularizer kernel_constraint bias_constraint "
            "quantization_config"
        ),
        "DepthwiseConv1D": _DEPTHWISE,
        "DepthwiseConv2D": _DEPTHWISE,
        "Dot": "axes normalize",
        "Dropout": "rate seed noise_shape",
        "ELU": "alpha",
        "EinsumDense": (
            "output_shape equation activation bias_axes kernel_initializer bias_initializer "
            "kernel_regularizer bias_regularizer activity_regularizer kernel_constraint "
            "bias_constraint quantization_config"
        ),
        "Embedding": (
            "input_dim output_dim embeddings_initializer embeddings_regularizer "
            "activity_regularizer embeddings_constraint mask_zero quantization_config"
        ),
        "Flatten": "data_format",
        "GRU": f"{_RECURRENT} recurrent_activation reset_after",
        "GRUCell": f"{_CELL} recurrent_activation reset_after",
        "GaussianDropout": "rate seed",
        "GaussianNoise": "stddev seed",
        "GlobalAveragePooling1D": _GLOBAL,
        "GlobalAveragePooling2D": _GLOBAL,
        "GlobalAveragePooling3D": _GLOBAL,
        "GlobalMaxPooling1D": _GLOBAL,
        "GlobalMaxPooling2D": _GLOBAL,
        "GlobalMaxPooling3D": _GLOBAL,
        "GroupNormalization": f"{_SCALED} groups",
        "GroupQueryAttention": (
            "head_dim num_query_heads num_key_value_heads dropout use_bias sliding_window "
            "kernel_initializer bias_initializer kernel_regularizer bias_regularizer "
            "activity_regularizer kernel_constraint bias_constraint seed use_gate flash_attention"
        ),
        "Identity": "",
        "InputLayer": "batch_shape dtype sparse ragged optional",
        "LSTM": f"{_RECURRENT} recurrent_activation unit_forget_bias",
        "LSTMCell": f"{_CELL} recurrent_activation unit_forget_bias",
        "LayerNormalization": f"{_SCALED} rms_scaling",
        "LeakyReLU": "negative_slope",
        "Masking": "mask_value",
        "MaxPooling1D": _POOLING,
        "MaxPooling2D": _POOLING,
        "MaxPooling3D": _POOLING,
        "Maximum": "",
        "Minimum": "",
        "MultiHeadAttention": (
            "num_heads key_dim value_dim dropout use_bias use_gate output_shape attention_axes "
            "sliding_window flash_attention kernel_initializer bias_initializer "
            "kernel_regularizer bias_regularizer activity_regularizer kernel_constraint "
            "bias_constraint seed"
        ),
        "Multiply": "",
        "Normalization": "axis invert mean variance",
        "PReLU": "alpha_initializer alpha_regularizer alpha_constraint shared_axes",
        "Permute": "dims",
        "RMSNormalization": "axis epsilon",
        "RNN": f"{_LOOP} cell",
        "RandomBrightness": "data_format factor value_range seed",
        "RandomContrast": "data_format factor value_range seed",
        "RandomFlip": "data_format mode seed",
        "RandomRotation": "data_format factor fill_mode fill_value interpolation seed",
        "RandomTranslation": (
            "data_format height_factor width_factor fill_mode fill_value interpolation seed"
        ),
        "RandomZoom": (
            "data_format height_factor width_factor fill_mode fill_value interpolation seed"
        ),
        "ReLU": "max_value negative_slope threshold",
        "RepeatVector": "n",
        "Rescaling": "scale offset",
        "Reshape": "target_shape",
        "Resizing": (
            "data_format height width interpolation crop_to_aspect_ratio pad_to_aspect_ratio "
            "fill_mode fill_value antialias"
        ),
        "SeparableConv1D": _SEPARABLE,
        "SeparableConv2D": _SEPARABLE,
        "SimpleRNN": _RECURRENT,
        "SimpleRNNCell": _CELL,
        "Softmax": "axis",
        "SpatialDropout1D": "rate seed",
        "SpatialDropout2D": "rate seed data_format",
        "SpatialDropout3D": "rate seed data_format",
        "StackedRNNCells": "cells",
        "Subtract": "",
        "TimeDistributed": "layer",
        "UnitNormalization": "axis",
        "UpSampling1D": "size",
        "UpSampling2D": "size data_format interpolation",
        "UpSampling3D": "size data_format",
        "ZeroPadding1D": "padding data_format",
        "ZeroPadding2D": "padding data_format",
        "ZeroPadding3D": "padding data_format",
    }.items()
}

# What Keras 2 wrote and Keras 3 does without: none of it changes what a model gives.
LEFT_OUT = words(
    "groups kernel_initializer kernel_regularizer kernel_constraint time_major implementation "
    "input_length input_dtype sparse ragged activity_regularizer registered_name autocast "
    "bias_regularizer batch_shape batch_input_shape input_shape"
)
# Older names of arguments.
RENAMED = {"alpha": "negative_slope", "batch_input_shape": "batch_shape"}

# The classes of the graph's own nodes, such as `x + y` or `keras.ops.mean(x)`, by module.
OPERATIONS: dict[str, str] = {
    name: module
    for module, names in {
        "keras.src.ops.numpy": (
            "Absolute Add Amax Amin Average Ceil Clip Concatenate Cos Divide Einsum Equal Exp "
            "ExpandDims Expm1 Flip Floor GetItem Greater GreaterEqual Less LessEqual Log Log1p "
            "LogicalAnd LogicalNot LogicalOr Matmul Max Maximum Mean Min Minimum Moveaxis "
            "Multiply Negative NotEqual Pad Power Prod Reciprocal Repeat Reshape Roll Round "
            "Sign Sin Split Sqrt Square Squeeze Stack Std Subtract Sum Swapaxes Tanh Tile "
            "Transpose TrueDivide Var Where"
        ),
        "keras.src.ops.nn": (
            "Celu Elu Gelu HardSigmoid HardSilu HardTanh LeakyRelu LogSigmoid LogSoftmax Relu "
            "Relu6 Selu Sigmoid Silu Softmax Softplus Softsign"
        ),
        "keras.src.ops.core": "Cast",
    }.items()
    for name in names.split()
}
