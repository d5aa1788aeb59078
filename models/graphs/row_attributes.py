"""The attributes for which the rules of `row_rules.py` hold, in all versions of an operator.

ONNX Runtime supports attributes that exporters do not write. An operator with an attribute or a
value that is not listed here is therefore unknown. The lists contain the attributes that the
exporters of torch, Keras and scikit-learn and the quantization of ONNX Runtime write.
"""

from collections.abc import Callable, Mapping
from typing import Any

from models.graphs.graph import Node

_POOL = "auto_pad ceil_mode count_include_pad dilations kernel_shape pads strides"
_CONV = "auto_pad dilations group kernel_shape pads strides"
_CELLS = "activation_alpha activation_beta activations clip direction hidden_size layout"
_REDUCE = "axes keepdims noop_with_empty_axes"
_TREES = (
    "aggregate_function base_values base_values_as_tensor class_ids class_nodeids class_treeids "
    "class_weights class_weights_as_tensor classlabels_int64s classlabels_strings n_targets "
    "nodes_falsenodeids nodes_featureids nodes_hitrates nodes_hitrates_as_tensor "
    "nodes_missing_value_tracks_true nodes_modes nodes_nodeids nodes_treeids nodes_truenodeids "
    "nodes_values nodes_values_as_tensor post_transform target_ids target_nodeids target_treeids "
    "target_weights target_weights_as_tensor"
)

ATTRIBUTES: Mapping[str, str] = {
    "AffineGrid": "align_corners",
    "ArgMax": "axis keepdims select_last_index",
    "ArgMin": "axis keepdims select_last_index",
    "Attention": "is_causal kv_num_heads q_num_heads scale softcap softmax_precision",
    "AveragePool": _POOL,
    "BatchNormalization": "epsilon momentum spatial training_mode",
    "BitShift": "direction",
    "Cast": "round_mode saturate to",
    "CastLike": "round_mode saturate",
    "Celu": "alpha",
    "Clip": "max min",
    "Col2Im": "dilations pads strides",
    "Concat": "axis",
    "Conv": _CONV,
    "ConvInteger": _CONV,
    "ConvTranspose": f"{_CONV} output_padding output_shape",
    "CumSum": "exclusive reverse",
    "DeformConv": "dilations group kernel_shape offset_group pads strides",
    "DepthToSpace": "blocksize mode",
    "DequantizeLinear": "axis",
    "Dropout": "ratio seed",
    "Einsum": "equation",
    "Elu": "alpha",
    "Flatten": "axis",
    "GRU": f"{_CELLS} linear_before_reset",
    "Gather": "axis",
    "GatherElements": "axis",
    "GatherND": "batch_dims",
    "Gelu": "approximate",
    "Gemm": "alpha beta transA transB",
    "GridSample": "align_corners mode padding_mode",
    "GroupNormalization": "epsilon num_groups stash_type",
    "HardSigmoid": "alpha beta",
    "InstanceNormalization": "epsilon",
    "IsInf": "detect_negative detect_positive",
    "LRN": "alpha beta bias size",
    "LSTM": f"{_CELLS} input_forget",
    "LayerNormalization": "axis epsilon stash_type",
    "LeakyRelu": "alpha",
    "LogSoftmax": "axis",
    "LpNormalization": "axis p",
    "MaxPool": f"{_POOL} storage_order",
    "Mod": "fmod",
    "OneHot": "axis",
    "Pad": "mode pads value",
    "QLinearConv": _CONV,
    "QuantizeLinear": "axis output_dtype saturate",
    "RMSNormalization": "axis epsilon stash_type",
    "RNN": _CELLS,
    "ReduceL1": _REDUCE,
    "ReduceL2": _REDUCE,
    "ReduceLogSum": _REDUCE,
    "ReduceLogSumExp": _REDUCE,
    "ReduceMax": _REDUCE,
    "ReduceMean": _REDUCE,
    "ReduceMin": _REDUCE,
    "ReduceProd": _REDUCE,
    "ReduceSum": _REDUCE,
    "ReduceSumSquare": _REDUCE,
    "RegexFullMatch": "pattern",
    "Reshape": "allowzero",
    "Resize": (
        "antialias axes coordinate_transformation_mode cubic_coeff_a exclude_outside "
        "extrapolation_value keep_aspect_ratio_policy mode nearest_mode"
    ),
    "RotaryEmbedding": "interleaved num_heads rotary_embedding_dim",
    "ScatterElements": "axis reduction",
    "ScatterND": "reduction",
    "Selu": "alpha gamma",
    "Shrink": "bias lambd",
    "SimplifiedLayerNormalization": "axis epsilon stash_type",
    "Slice": "axes ends starts",
    "Softmax": "axis",
    "SpaceToDepth": "blocksize",
    "Split": "axis num_outputs split",
    "Squeeze": "axes",
    "StringNormalizer": "case_change_action is_case_sensitive locale",
    "StringSplit": "delimiter maxsplit",
    "Swish": "alpha",
    "TfIdfVectorizer": (
        "max_gram_length max_skip_count min_gram_length mode ngram_counts ngram_indexes "
        "pool_int64s pool_strings weights"
    ),
    "ThresholdedRelu": "alpha",
    "TopK": "axis k largest sorted",
    "Transpose": "perm",
    "Trilu": "upper",
    "Unsqueeze": "axes",
    "Upsample": "mode scales",
    "ai.onnx.ml.Binarizer": "threshold",
    "ai.onnx.ml.CategoryMapper": "cats_int64s cats_strings default_int64 default_string",
    "ai.onnx.ml.FeatureVectorizer": "inputdimensions",
    "ai.onnx.ml.Imputer": (
        "imputed_value_floats imputed_value_int64s replaced_value_float replaced_value_int64"
    ),
    "ai.onnx.ml.LabelEncoder": (
        "default_float default_int64 default_string default_tensor keys_floats keys_int64s "
        "keys_strings keys_tensor values_floats values_int64s values_strings values_tensor"
    ),
    "ai.onnx.ml.LinearClassifier": (
        "classlabels_ints classlabels_strings coefficients intercepts multi_class post_transform"
    ),
    "ai.onnx.ml.LinearRegressor": "coefficients intercepts post_transform targets",
    "ai.onnx.ml.Normalizer": "norm",
    "ai.onnx.ml.OneHotEncoder": "cats_int64s cats_strings zeros",
    "ai.onnx.ml.SVMClassifier": (
        "classlabels_ints classlabels_strings coefficients kernel_params kernel_type "
        "post_transform prob_a prob_b rho support_vectors vectors_per_class"
    ),
    "ai.onnx.ml.SVMRegressor": (
        "coefficients kernel_params kernel_type n_supports one_class post_transform rho "
        "support_vectors"
    ),
    "ai.onnx.ml.Scaler": "offset scale",
    "ai.onnx.ml.TreeEnsemble": (
        "aggregate_function leaf_targetids leaf_weights membership_values n_targets "
        "nodes_falseleafs nodes_falsenodeids nodes_featureids nodes_hitrates "
        "nodes_missing_value_tracks_true nodes_modes nodes_splits nodes_trueleafs "
        "nodes_truenodeids post_transform tree_roots"
    ),
    "ai.onnx.ml.TreeEnsembleClassifier": _TREES,
    "ai.onnx.ml.TreeEnsembleRegressor": _TREES,
    "com.microsoft.DequantizeLinear": "axis",
    "com.microsoft.FusedConv": f"{_CONV} activation activation_params",
    "com.microsoft.MatMulNBits": "K N accuracy_level bits block_size weight_prepacked",
    "com.microsoft.QGemm": "alpha transA transB",
    "com.microsoft.QLinearAveragePool": f"{_POOL} channels_last",
    "com.microsoft.QLinearGlobalAveragePool": "channels_last",
    "com.microsoft.QLinearLeakyRelu": "alpha",
    "com.microsoft.QLinearSoftmax": "axis opset",
    "com.microsoft.QuantizeLinear": "axis",
    "com.microsoft.QuickGelu": "alpha",
    "com.microsoft.Tokenizer": "mark mincharnum pad_value separators tokenexp",
}
"""By operator; an operator that is not listed has no attributes."""

_VALUES: Mapping[str, Callable[[Any], bool]] = {
    "aggregate_function": lambda value: value in (b"SUM", b"AVERAGE", 0, 1),  # else NaN has a place
    "accuracy_level": lambda value: value in (0, 1),  # 4 quantizes the rows, by blocks
    "antialias": lambda value: value == 0,
    "batch_dims": lambda value: value == 0,
    "channels_last": lambda value: value == 0,
    "coordinate_transformation_mode": lambda value: (
        value in (b"align_corners", b"asymmetric", b"half_pixel", b"pytorch_half_pixel")
    ),
    "keep_aspect_ratio_policy": lambda value: value == b"stretch",
    "mark": lambda value: value == 0,
    "opset": lambda value: value >= 13,
    "post_transform": lambda value: value in (b"NONE", b"LOGISTIC", b"SOFTMAX", 0, 1, 2),
    "spatial": lambda value: value == 1,
    "storage_order": lambda value: value == 0,
    "training_mode": lambda value: value == 0,
}
"""By attribute: the permitted values; an attribute that is not listed may have any value."""


def unknown_attribute(node: Node) -> str | None:
    """Return the first attribute of a node that is not listed, or has an unlisted value."""
    known = ATTRIBUTES.get(node.kind, "").split()
    for name, value in node.attributes.items():
        if name not in known or not _VALUES.get(name, lambda _: True)(value):
            return name
    return None
