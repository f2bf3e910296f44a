// A second factor.
@group(0) @binding(3) var<storage, read> w_data: array<w_unit>;
