// Runs the crate's own `verify` cases, compiled to wasm32, through Dawn on the Vulkan driver that VK_DRIVER_FILES names.
// Node stands in for the page: Dawn's classes become globals, and `navigator.gpu` is Dawn.
//
// usage: node verify.mjs MODULE.js [OPERATION]    (what wasm-bindgen made of web/)
//        node verify.mjs --adapter                (exit code 0 if Dawn takes the driver; prints its name)

import { readFile } from 'node:fs/promises';
import { pathToFileURL } from 'node:url';
import { create, globals } from 'webgpu';

Object.assign(globalThis, globals);
// wgpu looks for the window of a page, and asks whether it is one.
globalThis.Window = class {
    static [Symbol.hasInstance](object) {
        return object === globalThis;
    }
};
const gpu = create([]);
Object.defineProperty(globalThis, 'navigator', { value: { gpu, userAgent: 'node' }, configurable: true });

const adapter = await gpu.requestAdapter();
if (!adapter) {
    console.log('Dawn has no adapter for this driver');
    process.exit(3);
}
const { info } = adapter;
if (process.argv[2] === '--adapter') {
    console.log(info.description);
    process.exit(0);
}

// wgpu knows no subgroups in a browser, and naga refuses the line that Tint demands: both are supplied here, and the crate
// is told by the argument `subgroup` that it may.
const shaders = new Set();
const { requestDevice } = globals.GPUAdapter.prototype;
globals.GPUAdapter.prototype.requestDevice = function (descriptor = {}) {
    const requiredFeatures = [...(descriptor.requiredFeatures ?? [])];
    if (this.features.has('subgroups')) requiredFeatures.push('subgroups');
    return requestDevice.call(this, { ...descriptor, requiredFeatures });
};
const { createShaderModule } = globals.GPUDevice.prototype;
globals.GPUDevice.prototype.createShaderModule = function (descriptor) {
    const subgroups = /\bsubgroup[A-Z]\w*\(|@builtin\(subgroup_/.test(descriptor.code);
    shaders.add(descriptor.code);
    const code = subgroups ? `enable subgroups;\n${descriptor.code}` : descriptor.code;
    return createShaderModule.call(this, { ...descriptor, code });
};

const path = process.argv[2];
const web = await import(pathToFileURL(path));
await web.default({ module_or_path: await readFile(path.replace(/\.js$/, '_bg.wasm')) });

const subgroup = adapter.features.has('subgroups') ? info.subgroupMinSize : 1;
const f16 = adapter.features.has('shader-f16');
const forms = [
    { name: 'as in a browser', subgroup: 1, f16, software: false },
    { name: `subgroups of ${subgroup}, software`, subgroup, f16, software: true },
    { name: `subgroups of ${subgroup}, hardware, packed f16`, subgroup, f16: false, software: false },
];
console.log(info.description, forms);
for (const form of forms) {
    const t = performance.now();
    const table = new Map();
    let n=0, bad=0;
    const caps = await web.run(process.argv[3], form.subgroup, form.f16, form.software, (op, shape, dtype, detail, error, bound, unit, ok, message) => {
        n++;
        const row = table.get(op) ?? { cases: 0, failed: 0, worst: 0 };
        row.cases++;
        if (!ok) { row.failed++; bad++; console.log('FAILED', op, shape, dtype, detail, error, bound, unit, message); }
        else row.worst = Math.max(row.worst, error / bound);
        table.set(op, row);
    });
    console.log(caps); console.table(Object.fromEntries(table));
    console.log(form.name, n, bad, shaders.size, ((performance.now() - t) / 1000).toFixed(1));
}
process.exit(0);
