// Backward: the gradient of the output has a binding of its own, if it is not overwritten in place.
@group(0) @binding(3) var<storage, read> upstream_data: array<upstream_unit>;
