"""The messages of a .onnx file: numbers, names and kinds of their fields, as onnx.proto has them."""

from __future__ import annotations

from collections.abc import Mapping

from bedplate.bundle.protobuf import DOUBLES, FLOAT, FLOATS, RAW, TEXT, WHOLE, WHOLES, Field

MAX_NODES = 20_000  # of all graphs of a file together
_MAX_LISTED = 1 << 16
_MAX_ATTRIBUTES = 256
_MAX_STRINGS = 1 << 22  # of an attribute: one for each node of trees

_NO_TENSORS = {4: "sequence_type", 5: "map_type", 7: "opaque_type", 8: "sparse_tensor_type", 9: "optional_type"}


def _refused(number: int, name: str, why: str) -> dict[int, Field]:
    return {number: Field(name, RAW, refused=why)}


_NOTES = Field("metadata_props", "Pair", 10_000)

TABLES: Mapping[str, Mapping[int, Field]] = {
    "Model": {
        1: Field("ir_version", WHOLE),
        2: Field("producer_name", TEXT),
        3: Field("producer_version", TEXT),
        4: Field("domain", TEXT),
        5: Field("model_version", WHOLE),
        6: Field("doc_string", TEXT),
        7: Field("graph", "Graph"),
        8: Field("opset_import", "Opset", 64),
        14: _NOTES,
        **_refused(20, "training_info", "is of a model that trains; export it for inference"),
        **_refused(25, "functions", "it brings functions of its own; 'bedplate bundle import onnx' writes them out"),
        **_refused(26, "configuration", "spreads the model over devices; export it for one"),
    },
    "Opset": {1: Field("domain", TEXT), 2: Field("version", WHOLE)},
    "Pair": {1: Field("key", TEXT), 2: Field("value", TEXT)},
    "Graph": {
        1: Field("node", "Node", MAX_NODES),
        2: Field("name", TEXT),
        5: Field("initializer", "Tensor", _MAX_LISTED),
        10: Field("doc_string", TEXT),
        11: Field("input", "Value", _MAX_LISTED),
        12: Field("output", "Value", 1024),
        13: Field("value_info", "Value", _MAX_LISTED),
        14: Field("quantization_annotation", "Annotation", _MAX_LISTED),
        **_refused(15, "sparse_initializer", "sparse weights are not served; write them in full"),
        16: _NOTES,
    },
    "Annotation": {1: Field("tensor_name", TEXT), 2: Field("quant_parameter_tensor_names", "Pair", 16)},
    "Node": {
        1: Field("input", TEXT, 4096),
        2: Field("output", TEXT, 4096),
        3: Field("name", TEXT),
        4: Field("op_type", TEXT),
        5: Field("attribute", "Attribute", _MAX_ATTRIBUTES),
        6: Field("doc_string", TEXT),
        7: Field("domain", TEXT),
        **_refused(8, "overload", "names a function of its own; 'bedplate bundle import onnx' writes them out"),
        9: _NOTES,
        **_refused(10, "device_configurations", "spreads the model over devices; export it for one"),
    },
    "Attribute": {
        1: Field("name", TEXT),
        2: Field("f", FLOAT),
        3: Field("i", WHOLE),
        4: Field("s", RAW),
        5: Field("t", "Tensor"),
        6: Field("g", "Graph"),
        7: Field("floats", FLOATS),
        8: Field("ints", WHOLES),
        9: Field("strings", RAW, _MAX_STRINGS),
        **_refused(10, "tensors", "a list of tensors is no value of any operator that is served"),
        **_refused(11, "graphs", "a list of graphs is no value of any operator that is served"),
        13: Field("doc_string", TEXT),
        **_refused(14, "tp", "a type is no value of any operator that is served"),
        **_refused(15, "type_protos", "types are no values of any operator that is served"),
        20: Field("type", WHOLE),
        **_refused(21, "ref_attr_name", "refers to a function's attribute, and stands in none"),
        **_refused(22, "sparse_tensor", "sparse tensors are not served; write them in full"),
        **_refused(23, "sparse_tensors", "sparse tensors are not served; write them in full"),
    },
    "Tensor": {
        1: Field("dims", WHOLES),
        2: Field("data_type", WHOLE),
        **_refused(3, "segment", "is a part of a tensor; write it in one piece"),
        4: Field("float_data", FLOATS),
        5: Field("int32_data", WHOLES),
        **_refused(6, "string_data", "holds texts; a network takes numbers"),
        7: Field("int64_data", WHOLES),
        8: Field("name", TEXT),
        9: Field("raw_data", RAW),
        10: Field("double_data", DOUBLES),
        11: Field("uint64_data", WHOLES),
        12: Field("doc_string", TEXT),
        **_refused(13, "external_data", "lies in another file; 'bedplate bundle import onnx' packs it into this one"),
        14: Field("data_location", WHOLE),
        16: _NOTES,
    },
    "Value": {
        1: Field("name", TEXT),
        2: Field("type", "Type"),
        3: Field("doc_string", TEXT),
        4: _NOTES,
    },
    "Type": {
        1: Field("tensor_type", "TensorType"),
        6: Field("denotation", TEXT),
        **{
            number: Field(name, RAW, refused="is no tensor; a bundle takes one tensor and gives one")
            for number, name in _NO_TENSORS.items()
        },
    },
    "TensorType": {1: Field("elem_type", WHOLE), 2: Field("shape", "Shape")},
    "Shape": {1: Field("dim", "Dimension", 64)},
    "Dimension": {1: Field("dim_value", WHOLE), 2: Field("dim_param", TEXT), 3: Field("denotation", TEXT)},
}
