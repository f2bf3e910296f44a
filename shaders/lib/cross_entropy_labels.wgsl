// The target is one class a row.
@group(0) @binding(4) var<storage, read> labels_data: array<i32>;

// The row with its label, `begin` classes after the first.
fn aimed(row: Row, begin: u32) -> Row {
    var result = row;
    let label = labels_data[row.aim];
    if params.ignore_set != 0u && label == params.ignore {
        result.state = IGNORED;
    } else if label < 0 || u32(label) >= params.len {
        result.state = INVALID;
    } else {
        result.label = u32(label) - begin;
    }
    if result.state != ORDINARY && !LOG_PROB {
        result.visible = 0u;
    }
    return result;
}

fn shares4(row: Row, j: u32, n: u32) -> vec4<f32> {
    let label = vec4<u32>(row.label);
    return select(vec4<f32>(0.0), vec4<f32>(1.0), vec4<u32>(j, j + 1u, j + 2u, j + 3u) == label);
}
