"""TensorFlow's operations that a SavedModel may hold: computation, variables and control flow.

A SavedModel is code in TensorFlow's graph language, and the language has operations that read and
write files, start Python and fetch from servers; some run already while a graph is simplified. So
there is a list, and what is not on it is refused.
"""

from collections.abc import Iterable

from formats.errors import FormatError, UnsafeFile, UnsupportedProgram, shown

MEMBER = "saved_model.pb"

_ALLOWED_TEXT = """
    Abs Acos Acosh Add AddN AddV2 AdjustContrastv2 AdjustHue AdjustSaturation All Any ArgMax ArgMin
    Asin Asinh Assert AssignAddVariableOp AssignSubVariableOp AssignVariableOp Atan Atan2 Atanh
    AvgPool AvgPool3D BatchMatMul BatchMatMulV2 BatchMatMulV3 BatchToSpaceND BiasAdd BiasAddV1
    Bincount Bitcast BitwiseAnd BitwiseOr BitwiseXor BroadcastArgs BroadcastTo Bucketize Case Cast
    Ceil CheckNumerics Cholesky ClipByValue CombinedNonMaxSuppression Complex ComplexAbs Concat
    ConcatOffset ConcatV2 Conj Const Conv Conv2D Conv2DBackpropInput Conv3D Conv3DBackpropInputV2
    Cos Cosh CropAndResize Cross CudnnRNN CudnnRNNV3 Cumprod Cumsum DenseBincount DepthToSpace
    DepthwiseConv2dNative Diag DiagPart Digamma Dilation2D DisableCopyOnRead Div DivNoNan
    DynamicPartition DynamicStitch Einsum Elu Empty EmptyTensorList EnsureShape Equal Erf Erfc
    Erfinv Exp ExpandDims Expm1 ExtractImagePatches FFT FFT2D FakeQuantWithMinMaxArgs
    FakeQuantWithMinMaxVars FakeQuantWithMinMaxVarsPerChannel Fill Floor FloorDiv FloorMod
    FusedBatchNorm FusedBatchNormV2 FusedBatchNormV3 Gather GatherNd GatherV2 Greater GreaterEqual
    HSVToRGB IFFT IRFFT Identity IdentityN If Imag InTopKV2 Inv Invert InvertPermutation IsFinite
    IsInf IsNan L2Loss LRN LSTMBlockCell LeakyRelu LeftShift Less LessEqual Lgamma LinSpace Log
    Log1p LogSoftmax LogicalAnd LogicalNot LogicalOr MatMul MatrixBandPart MatrixDeterminant
    MatrixDiag MatrixDiagPart MatrixDiagPartV2 MatrixDiagPartV3 MatrixDiagV2 MatrixDiagV3
    MatrixInverse MatrixSetDiag MatrixSetDiagV2 MatrixSetDiagV3 MatrixSolve MatrixTriangularSolve
    Max MaxPool MaxPool3D MaxPoolV2 MaxPoolWithArgmax Maximum Mean Min Minimum MirrorPad Mod Mul
    MulNoNan Multinomial Ndtri Neg NextAfter NoOp NonMaxSuppression NonMaxSuppressionV2
    NonMaxSuppressionV3 NonMaxSuppressionV4 NonMaxSuppressionV5 NotEqual OneHot OnesLike Pack Pad
    PadV2 ParallelConcat ParallelDynamicStitch PartitionedCall Placeholder PlaceholderV2
    PlaceholderWithDefault Pow PreventGradient Prod RFFT RFFT2D RGBToHSV RandomShuffle
    RandomStandardNormal RandomUniform RandomUniformInt Range Rank ReadVariableOp Real RealDiv
    Reciprocal Relu Relu6 Reshape ResizeArea ResizeBicubic ResizeBilinear ResizeNearestNeighbor
    ResourceGather ResourceGatherNd ResourceScatterUpdate ReverseSequence ReverseV2 RightShift Rint
    Roll Round Rsqrt ScatterNd SegmentMax SegmentMean SegmentMin SegmentProd SegmentSum Select
    SelectV2 Selu Shape ShapeN Sigmoid Sign Sin Sinh Size Slice Snapshot Softmax
    SoftmaxCrossEntropyWithLogits Softplus Softsign SpaceToBatchND SpaceToDepth
    SparseSoftmaxCrossEntropyWithLogits SparseToDense Split SplitV Sqrt Square SquaredDifference
    Squeeze StatefulPartitionedCall StatelessCase StatelessIf StatelessMultinomial
    StatelessRandomBinomial StatelessRandomGetAlg StatelessRandomGetKeyCounter
    StatelessRandomGetKeyCounterAlg StatelessRandomNormal StatelessRandomNormalV2
    StatelessRandomUniform StatelessRandomUniformFullInt StatelessRandomUniformFullIntV2
    StatelessRandomUniformInt StatelessRandomUniformIntV2 StatelessRandomUniformV2
    StatelessTruncatedNormal StatelessTruncatedNormalV2 StatelessWhile StopGradient StridedSlice Sub
    Sum Tan Tanh TensorListConcatV2 TensorListElementShape TensorListFromTensor TensorListGather
    TensorListGetItem TensorListLength TensorListPopBack TensorListPushBack TensorListReserve
    TensorListResize TensorListScatterV2 TensorListSetItem TensorListStack TensorScatterAdd
    TensorScatterMax TensorScatterMin TensorScatterSub TensorScatterUpdate Tile TopK TopKV2
    Transpose TruncateDiv TruncateMod TruncatedNormal Unique UniqueV2 UniqueWithCounts Unpack
    UnsortedSegmentMax UnsortedSegmentMin UnsortedSegmentProd UnsortedSegmentSum VarHandleOp
    VarIsInitializedOp VariableShape Where While Xdivy Xlog1py Xlogy ZerosLike Zeta
"""
ALLOWED = frozenset(_ALLOWED_TEXT.split())
# Each SavedModel has functions of these, which TensorFlow made to save and restore its variables.
# They are left out of what is handed on, so that none can be called with a path of an enemy.
_OF_SAVERS_TEXT = """
    MergeV2Checkpoints RestoreV2 SaveV2 ShardedFilename StaticRegexFullMatch StringJoin
"""
OF_SAVERS = frozenset(_OF_SAVERS_TEXT.split())
_FILES_TEXT = """
    FixedLengthRecordReader FixedLengthRecordReaderV2 ImmutableConst InitializeTableFromTextFile
    InitializeTableFromTextFileV2 LMDBReader MatchingFiles ReadFile Restore RestoreSlice Save
    SaveSlices TFRecordReader TFRecordReaderV2 TextLineReader TextLineReaderV2 WholeFileReader
    WholeFileReaderV2 WriteFile DebugIdentity DebugIdentityV2 DebugIdentityV3 SummaryWriter
    CreateSummaryFileWriter CreateSummaryDbWriter AudioSummary ImageSummary LoadAndRemapMatrix
    GenerateVocabRemapping
"""
_FILES = frozenset(_FILES_TEXT.split())
_PYTHON = frozenset({"EagerPyFunc", "PyFunc", "PyFuncStateless"})
_PRINTS = frozenset({"Print", "PrintV2"})


def check_operators(names: Iterable[str], *, is_kept: bool) -> None:
    """Check that operations may be in a SavedModel.

    Args:
        names: What TensorFlow calls them.
        is_kept: Whether they are in what is handed on.

    Raises:
        FormatError: One may not. What is unsafe is named before what is only not known here.
    """
    allowed = ALLOWED if is_kept else ALLOWED | OF_SAVERS
    refusals = [_refusal(name) for name in sorted(set(names) - allowed)]
    if refusals:
        raise next((each for each in refusals if isinstance(each, UnsafeFile)), refusals[0])


def _refusal(name: str) -> FormatError:
    if name in _FILES or name in OF_SAVERS:
        return UnsafeFile(MEMBER, f"it has the operation {name}, which reads or writes files")
    if name in _PYTHON:
        return UnsafeFile(
            MEMBER, f"it has the operation {name} (tf.py_function), which calls Python"
        )
    if name in _PRINTS:
        return UnsafeFile(
            MEMBER, f"it has the operation {name}, which can write files; take tf.print out"
        )
    if "Table" in name:
        return UnsupportedProgram(
            f"it has a lookup table ({shown(name)}), as text and category layers do; save the part "
            "behind them, which takes numbers"
        )
    if "Dataset" in name or "Iterator" in name:
        return UnsupportedProgram(
            f"it has a data pipeline ({shown(name)}); save the model without it"
        )
    return UnsupportedProgram(
        f"it has the operation {shown(name)}, which is not among those taken: computation, "
        "variables and control flow"
    )
