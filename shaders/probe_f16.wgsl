// Native f16 storage: conversion of f32 by a store, and back by a load. No barriers.
enable f16;

@group(0) @binding(0) var<storage, read_write> words: array<u32>;
@group(0) @binding(1) var<storage, read_write> halves: array<f16>;

@compute @workgroup_size(64)
fn narrow(@builtin(global_invocation_id) id: vec3<u32>) {
    if id.x < arrayLength(&halves) {
        halves[id.x] = f16(bitcast<f32>(words[id.x]));
    }
}

@compute @workgroup_size(64)
fn widen(@builtin(global_invocation_id) id: vec3<u32>) {
    if id.x < arrayLength(&halves) {
        words[id.x] = bitcast<u32>(f32(halves[id.x]));
    }
}
