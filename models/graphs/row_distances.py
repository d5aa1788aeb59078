"""The Scan by which skl2onnx computes the distances between rows and the samples of training.

Its state is a matrix that does not change, and each step compares every row of the matrix with one
row of another matrix: rows are independent if each operator of the step computes each row alone.
"""

from typing import TYPE_CHECKING, Any

from models.graphs.graph import OWN_DOMAINS, constant_array

if TYPE_CHECKING:
    import onnx

ELEMENTWISE = {"Abs", "Add", "Identity", "Mul", "Neg", "Sqrt", "Sub"}
SUMS = {"ReduceL1", "ReduceL2", "ReduceMean", "ReduceSum", "ReduceSumSquare"}


def is_distances(body: "onnx.GraphProto") -> bool:
    """Return whether a graph compares each row of its first input with its second input.

    The first input has to be a matrix, and the second a vector, which none of the sums takes alone.
    The outputs are the first input, and one number for each row of it.

    Args:
        body: the graph inside a Scan.
    """
    if len(body.input) != 2 or len(body.output) != 2:
        return False
    state, compared = (value.name for value in body.input)
    constants = {tensor.name: constant_array(tensor) for tensor in body.initializer}
    same, matrices, numbers = {state}, {state}, set[str]()
    if constants.keys() & {state, compared}:
        return False
    for node in body.node:
        taken = {*node.input}
        if node.domain not in OWN_DOMAINS or len(node.output) != 1:
            return False
        is_elementwise = node.op_type in ELEMENTWISE
        is_sum = node.op_type in SUMS and node.input[0] in matrices
        if is_elementwise and taken <= {*matrices, compared} and taken & matrices:
            matrices.update(node.output)
        elif (is_elementwise and taken <= numbers) or (is_sum and _sums_columns(node, constants)):
            numbers.update(node.output)
        else:
            return False
        if node.op_type == "Identity" and taken <= same:
            same.update(node.output)
    return body.output[0].name in same and body.output[1].name in numbers


def _sums_columns(node: "onnx.NodeProto", constants: dict[str, Any]) -> bool:
    """Return whether a sum is over the columns of a matrix alone, which it removes."""
    import onnx

    attributes = {one.name: onnx.helper.get_attribute_value(one) for one in node.attribute}
    axes = attributes.pop("axes", None)
    if len(node.input) == 2 and node.input[1] in constants:
        axes = constants[node.input[1]].tolist()
    return axes in ([1], [-1]) and attributes == {"keepdims": 0}
