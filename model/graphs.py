"""Reads the graph of a SavedModel without running it, and refuses one that can do more than compute.

A SavedModel is a program. TensorFlow has operations that read and write files, call Python and open connections, and
loading a model already runs some of its functions. So the operations are compared with a list before TensorFlow loads
it. Everything in the list computes outputs from inputs, variables and constants. The list narrows what a model can do,
but is no sandbox: a graph can still use up memory and time, or hit an error in TensorFlow itself.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from model.errors import UserError

SAVED_MODEL = "saved_model.pb"

_MATH = """
    Abs Acos Acosh Add AddN AddV2 Angle ApproximateEqual ArgMax ArgMin Asin Asinh Atan Atan2 Atanh BatchMatMul
    BatchMatMulV2 BatchMatMulV3 BesselI0e BesselI1e Bincount Betainc BroadcastArgs BroadcastGradientArgs Bucketize Ceil
    ClipByValue Conj Cos Cosh Cross CumulativeLogsumexp Cumprod Cumsum DenseBincount Digamma Div DivNoNan Einsum Equal
    Erf Erfc Erfinv Exp Expm1 Floor FloorDiv FloorMod Greater GreaterEqual Igamma Igammac InvGrad IsFinite IsInf IsNan
    L2Loss Less LessEqual Lgamma Log Log1p LogicalAnd LogicalNot LogicalOr MatMul Max Maximum Mean Min Minimum Mod Mul
    MulNoNan Ndtri Neg NextAfter NotEqual Polygamma Pow Prod RealDiv Reciprocal ReciprocalGrad Rint Round Rsqrt
    RsqrtGrad SegmentMax SegmentMean SegmentMin SegmentProd SegmentSum Sigmoid SigmoidGrad Sign Sin Sinh
    SparseSegmentMean SparseSegmentSqrtN SparseSegmentSum Sqrt SqrtGrad Square SquaredDifference Sub Sum Tan Tanh
    TanhGrad TruncateDiv TruncateMod UnsortedSegmentMax UnsortedSegmentMin UnsortedSegmentProd UnsortedSegmentSum Xdivy
    Xlog1py Xlogy Zeta All Any BitwiseAnd BitwiseOr BitwiseXor Invert LeftShift PopulationCount RightShift Cholesky
    MatrixBandPart MatrixDeterminant MatrixDiag MatrixDiagPart MatrixDiagPartV2 MatrixDiagPartV3 MatrixDiagV2
    MatrixDiagV3 MatrixInverse MatrixSetDiag MatrixSetDiagV2 MatrixSetDiagV3 MatrixSolve MatrixTriangularSolve Qr Svd
"""
_ARRAYS = """
    BatchToSpace BatchToSpaceND Bitcast BroadcastTo CheckNumerics Concat ConcatOffset ConcatV2 Const DeepCopy Diag
    DiagPart DynamicPartition DynamicStitch Empty EnsureShape ExpandDims ExtractImagePatches Fill Gather GatherNd
    GatherV2 Identity IdentityN InvertPermutation LinSpace ListDiff LowerBound MirrorPad MirrorPadGrad OneHot OnesLike
    Pack Pad PadV2 ParallelConcat ParallelDynamicStitch Placeholder PlaceholderWithDefault PreventGradient Range Rank
    Reshape Reverse ReverseSequence ReverseV2 Roll ScatterNd Select SelectV2 Shape ShapeN Size Slice Snapshot
    SpaceToBatch SpaceToBatchND Split SplitV Squeeze StopGradient StridedSlice StridedSliceGrad TensorScatterAdd
    TensorScatterMax TensorScatterMin TensorScatterSub TensorScatterUpdate Tile Transpose Unique UniqueV2
    UniqueWithCounts UniqueWithCountsV2 Unpack UnravelIndex UpperBound Where ZerosLike Cast RaggedBincount RaggedCross
    RaggedFillEmptyRows RaggedGather RaggedRange RaggedTensorFromVariant RaggedTensorToSparse RaggedTensorToTensor
    RaggedTensorToVariant RaggedTensorToVariantGradient SparseAdd SparseConcat SparseCross SparseFillEmptyRows
    SparseReduceSum SparseReorder SparseReshape SparseSlice SparseSoftmax SparseTensorDenseAdd SparseTensorDenseMatMul
    SparseToDense EmptyTensorList TensorListConcat TensorListConcatLists TensorListConcatV2 TensorListElementShape
    TensorListFromTensor TensorListGather TensorListGetItem TensorListLength TensorListPopBack TensorListPushBack
    TensorListPushBackBatch TensorListReserve TensorListResize TensorListScatter TensorListScatterIntoExistingList
    TensorListScatterV2 TensorListSetItem TensorListSplit TensorListStack
"""
_NETWORKS = """
    AvgPool AvgPoolGrad BiasAdd BiasAddGrad BiasAddV1 Conv2D Conv2DBackpropFilter Conv2DBackpropInput Conv3D
    DepthwiseConv2dNative DepthwiseConv2dNativeBackpropFilter DepthwiseConv2dNativeBackpropInput Elu EluGrad
    FusedBatchNorm FusedBatchNormGrad FusedBatchNormGradV2 FusedBatchNormGradV3 FusedBatchNormV2 FusedBatchNormV3
    InTopK InTopKV2 LRN LeakyRelu LeakyReluGrad LogSoftmax MaxPool MaxPoolGrad NthElement Relu Relu6 Relu6Grad ReluGrad
    Selu SeluGrad Softmax SoftmaxCrossEntropyWithLogits Softplus SoftplusGrad Softsign SoftsignGrad
    SparseSoftmaxCrossEntropyWithLogits TopK TopKV2 Multinomial ParameterizedTruncatedNormal RandomGamma RandomShuffle
    RandomStandardNormal RandomUniform RandomUniformInt RngReadAndSkip RngSkip StatefulStandardNormalV2
    StatefulTruncatedNormal StatefulUniform StatefulUniformFullInt StatefulUniformInt StatelessMultinomial
    StatelessRandomGetAlg StatelessRandomGetKeyCounter StatelessRandomGetKeyCounterAlg StatelessRandomNormal
    StatelessRandomNormalV2 StatelessRandomUniform StatelessRandomUniformFullInt StatelessRandomUniformFullIntV2
    StatelessRandomUniformInt StatelessRandomUniformIntV2 StatelessRandomUniformV2 StatelessShuffle
    StatelessTruncatedNormal StatelessTruncatedNormalV2 TruncatedNormal
"""
_TEXT = """
    AsString DecodeBase64 EncodeBase64 ReduceJoin RegexFullMatch RegexReplace StaticRegexFullMatch StaticRegexReplace
    StringFormat StringJoin StringLength StringLower StringNGrams StringSplit StringSplitV2 StringStrip
    StringToHashBucket StringToHashBucketFast StringToHashBucketStrong StringToNumber StringUpper Substr UnicodeDecode
    UnicodeDecodeWithOffsets UnicodeEncode UnicodeScript UnicodeTranscode UnsortedSegmentJoin CaseFoldUTF8
    FastBertNormalize FastWordpieceTokenizeWithOffsets NormalizeUTF8 NormalizeUTF8WithOffsetsMap
    SentencepieceDetokenizeOp SentencepieceIdToStringOp SentencepieceOp SentencepieceStringToIdOp
    SentencepieceTokenizeOp SentencepieceTokenizeWithOffsetsOp SentencepieceVocabSizeOp WhitespaceTokenizeWithOffsets
    WordpieceTokenizeWithOffsets
"""
_CONTROL = """
    Assert Case Enter Exit For If LoopCond Merge NextIteration NoOp PartitionedCall StatefulPartitionedCall
    StatelessCase StatelessIf StatelessWhile Switch SymbolicGradient While
"""
_STATE = """
    AnonymousHashTable AssignAddVariableOp AssignSubVariableOp AssignVariableOp DisableCopyOnRead HashTableV2
    LookupTableFindV2 LookupTableImportV2 LookupTableSizeV2 ReadVariableOp ResourceGather ResourceGatherNd
    ResourceScatterAdd ResourceScatterUpdate VarHandleOp VarIsInitializedOp VariableShape
"""
COMPUTING = frozenset(" ".join((_MATH, _ARRAYS, _NETWORKS, _TEXT, _CONTROL, _STATE)).split())
"""The operations that a graph may have, by their names in TensorFlow and TensorFlow Text."""

_CHECKPOINTS = {"MergeV2Checkpoints", "RestoreV2", "SaveV2", "ShardedFilename"}
_MOST_NAMED = 5


def read_graph(path: Path) -> Any:
    """Returns the MetaGraphDef of a TensorFlow 2 SavedModel.

    Raises:
        UserError: the file is not such a model.
    """
    from google.protobuf.message import DecodeError
    from tensorflow.core.protobuf import saved_model_pb2

    try:
        saved_model = saved_model_pb2.SavedModel.FromString(path.read_bytes())
    except (OSError, DecodeError) as error:
        raise UserError(f"{path}: can't be read as a SavedModel ({error})") from error
    if len(saved_model.meta_graphs) != 1 or not saved_model.meta_graphs[0].object_graph_def.nodes:
        raise UserError(f"{path}: not a TensorFlow 2 SavedModel; sepline reads models in the format of TF2")
    return saved_model.meta_graphs[0]


def check_graph(folder: Path, *, hint: str) -> None:
    """Checks that a SavedModel, once loaded, only computes.

    Raises:
        UserError: it has operations outside of `COMPUTING`, or files outside of its folder; the message ends with the
            hint, which says how to load it nevertheless.
    """
    graph = read_graph(folder / SAVED_MODEL)
    outside = sorted(_paths_outside(folder, graph))
    if outside:
        raise UserError(f"{folder}: refers to files outside of its folder ({_name_some(outside)}); {hint}")
    others = sorted(_other_operations(graph))
    if others:
        raise UserError(f"{folder}: its graph can do more than compute ({_name_some(others)}); {hint}")


def _paths_outside(folder: Path, graph: Any) -> Iterator[str]:
    """Yields the model's files that are not in its folder: assets, and links that lead elsewhere."""
    for asset in graph.asset_file_def:
        path = PurePosixPath(asset.filename)
        if path.is_absolute() or ".." in path.parts:
            yield asset.filename
    root = folder.resolve()
    for file in folder.rglob("*"):
        if file.is_symlink() and not file.resolve().is_relative_to(root):
            yield file.relative_to(folder).as_posix()


def _other_operations(graph: Any) -> set[str]:
    """Returns the operations of a graph and its functions that do more than compute.

    Each SavedModel has two functions that save and restore its variables. sepline never calls them. So they alone may
    write and read checkpoints, provided that no other function calls them.
    """
    library = graph.graph_def.library
    operations = {function.signature.name: {node.op for node in function.node_def} for function in library.function}
    called = {name for function in library.function for node in function.node_def for name in _functions_of(node)}
    called.update(graph.object_graph_def.concrete_functions)
    called.update(gradient.gradient_func for gradient in library.gradient)
    called.update(gradient.gradient_func for gradient in library.registered_gradients)
    called.update(f.signature.name for f in library.function if "api_implements" in f.attr)  # TensorFlow swaps these

    allowed = COMPUTING | {name for name in operations if name.startswith("__")}  # as TensorFlow names functions
    others = {node.op for node in graph.graph_def.node} - allowed - _CHECKPOINTS
    for name, found in operations.items():
        others |= found - allowed - (set() if name in called else _CHECKPOINTS)
    return others


def _functions_of(node: Any) -> Iterator[str]:
    """Yields the names of functions that an operation calls."""
    yield node.op
    for value in node.attr.values():
        kind = value.WhichOneof("value")
        if kind == "func":
            yield value.func.name
        elif kind == "list":
            yield from (function.name for function in value.list.func)


def _name_some(names: list[str]) -> str:
    shown = ", ".join(names[:_MOST_NAMED])
    return shown + (f" and {len(names) - _MOST_NAMED} more" if len(names) > _MOST_NAMED else "")
