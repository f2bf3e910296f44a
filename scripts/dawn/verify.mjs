// Runs the crate's own `verify` cases, compiled to wasm32, through Dawn on the Vulkan driver that VK_DRIVER_FILES names.
// Node stands in for the browser: Dawn's classes become globals, and `navigator.gpu` is Dawn.
//
// usage: node verify.mjs MODULE.js [--every N] [OPERATION]    MODULE.js is what wasm-bindgen made of web/
//        node verify.mjs --adapter                            says whether Dawn takes the driver: exit code 0 or 3
//
// With --every, each form of the crate takes other cases: the first, one in N further on, and so forth.

import { readFile } from 'node:fs/promises';
import { pathToFileURL } from 'node:url';
import { parseArgs } from 'node:util';
import { create, globals } from 'webgpu';
import { forDawn } from './wgsl.mjs';

Object.assign(globalThis, globals);
// wgpu looks for a page's window by its class.
globalThis.Window = class {
    static [Symbol.hasInstance](object) {
        return object === globalThis;
    }
};
const gpu = create([]);
Object.defineProperty(globalThis, 'navigator', { value: { gpu }, configurable: true });

const adapter = await gpu.requestAdapter();
if (!adapter) {
    console.log('Dawn takes no adapter of this driver');
    process.exit(3);
}
if (process.argv[2] === '--adapter') {
    console.log(adapter.info.description);
    process.exit(0);
}

// wgpu does not ask browsers for subgroups, so devices get them here, and sources that use them get the line.
const compiled = new Set();
const { requestDevice } = globals.GPUAdapter.prototype;
globals.GPUAdapter.prototype.requestDevice = function (descriptor) {
    const extra = this.features.has('subgroups') ? ['subgroups'] : [];
    return requestDevice.call(this, {
        ...descriptor,
        requiredFeatures: [...(descriptor?.requiredFeatures ?? []), ...extra],
    });
};
const { createShaderModule } = globals.GPUDevice.prototype;
globals.GPUDevice.prototype.createShaderModule = function (descriptor) {
    const code = forDawn(descriptor.code);
    compiled.add(code);
    return createShaderModule.call(this, { ...descriptor, code });
};

const { values: options, positionals } = parseArgs({ options: { every: { type: 'string', default: '1' } }, allowPositionals: true });
const [path, operation] = positionals;
const every = Number(options.every);
if (!Number.isInteger(every) || every < 1) {
    console.error(`--every ${options.every}: a whole number from 1 was expected`);
    process.exit(2);
}
const { default: init, Host } = await import(pathToFileURL(path));
await init({ module_or_path: await readFile(path.replace(/\.js$/, '_bg.wasm')) });

let unasked = 0;
const host = await Host.open((text) => {
    unasked += 1;
    console.log(`FAILED, reported by the device: ${text}`);
});

// Kernels are chosen by what a device has, so what it has is left out in turns: as a browser runs the crate, as wgpu
// runs it natively on a software driver, and as on hardware that has no 16-bit floats.
const subgroup = adapter.features.has('subgroups') ? adapter.info.subgroupMinSize : 1;
const f16 = adapter.features.has('shader-f16');
const forms = [
    { name: 'without subgroups', subgroup: 1, f16, software: true },
    { name: `subgroups of ${subgroup}`, subgroup, f16, software: true },
    { name: `subgroups of ${subgroup}, packed f16, hardware's strategies`, subgroup, f16: false, software: false },
];
const cases = host.cases();
const wanted = [...cases.keys()].filter((at) => !operation || cases[at] === operation);
if (wanted.length === 0) {
    console.error(`no operation ${operation}; there are ${[...new Set(cases)].join(', ')}`);
    process.exit(2);
}

let passed = 0;
let failed = 0;
for (const [turn, form] of forms.entries()) {
    const start = performance.now();
    host.assume(form.subgroup, form.f16, form.software);
    const rows = new Map();
    for (const [place, at] of wanted.entries()) {
        if (place % every !== turn % every) continue;
        const report = JSON.parse(await host.verify(at));
        const row = rows.get(report.op) ?? { cases: 0, failed: 0, worst: 0 };
        rows.set(report.op, row);
        row.cases += 1;
        if (report.ok) {
            passed += 1;
            if (report.bound > 0) row.worst = Math.max(row.worst, report.max_error / report.bound);
        } else {
            failed += 1;
            row.failed += 1;
            console.log(`FAILED ${report.op} ${report.shape} ${report.dtype} ${report.detail}: ${report.message}`);
        }
    }
    console.log(`\nDawn on ${adapter.info.description}, ${form.name}`);
    console.log(`${'operation'.padEnd(28)}${'cases'.padStart(6)}${'failed'.padStart(8)}   largest error, of its bound`);
    for (const [op, row] of rows) {
        const cells = [String(row.cases).padStart(6), String(row.failed).padStart(8), row.worst.toFixed(3).padStart(10)];
        console.log(`${op.padEnd(28)}${cells.join('')}`);
    }
    console.log(`${((performance.now() - start) / 1000).toFixed(1)} s`);
}
failed += unasked;
console.log(`\n${compiled.size} shaders compiled`);
console.log(`test result: ${failed === 0 ? 'ok' : 'FAILED'}. ${passed} passed; ${failed} failed; 0 ignored`);
process.exit(failed === 0 ? 0 : 1);
