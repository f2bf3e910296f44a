// The factor that an element has: itself, or the other factor of a dot product.
@group(0) @binding(1) var<storage, read> x_data: array<x_unit>;

fn values_of(quad: Quad) -> vec4<f32> {
    return x_load4(element_of(X, quad), step_of(X), quad.count);
}
