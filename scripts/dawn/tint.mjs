// Puts every WGSL file of a folder before Tint, Dawn's compiler, and prints what it refuses. Dawn's null backend
// needs no driver: modules and pipelines are validated in full, and no machine code is made.
//
// usage: node tint.mjs FOLDER

import { readdir, readFile } from 'node:fs/promises';
import { basename, join } from 'node:path';
import { create, globals } from 'webgpu';

Object.assign(globalThis, globals);
const gpu = create(['backend=null']);
const devices = new Map();

// A device with these features and no others, so that a source cannot use what it does not announce.
async function deviceWith(features) {
    const key = features.join();
    if (!devices.has(key)) {
        const adapter = await gpu.requestAdapter();
        devices.set(key, await adapter.requestDevice({ requiredFeatures: features }));
    }
    return devices.get(key);
}

// What Dawn wants to be told. `enable f16;` stands in the sources; naga refuses the line that Tint demands for subgroups.
function prepared(source) {
    const subgroups = /\bsubgroup[A-Z]\w*\(|@builtin\(subgroup_/.test(source);
    const features = [];
    if (/^enable f16;/m.test(source)) features.push('shader-f16');
    if (subgroups) features.push('subgroups');
    return { features, code: subgroups ? `enable subgroups;\n${source}` : source };
}

function describe(message, code) {
    const line = code.split('\n')[message.lineNum - 1];
    const where = line === undefined ? '' : `\n      ${message.lineNum} | ${line.trim()}`;
    return `${message.type}: ${message.message}${where}`;
}

// What Tint and Dawn have against a source, and how many of its entry points they made pipelines of.
async function judge(source) {
    const { features, code } = prepared(source);
    const device = await deviceWith(features);
    device.pushErrorScope('validation');
    const module = device.createShaderModule({ code });
    const { messages } = await module.getCompilationInfo();
    const refused = await device.popErrorScope();
    if (refused) {
        const errors = messages.filter((m) => m.type === 'error').map((m) => describe(m, code));
        return { complaints: errors.length > 0 ? errors : [refused.message], pipelines: 0, warnings: [] };
    }
    const complaints = [];
    const entries = [...source.matchAll(/@compute\b[^{]*?\bfn\s+(\w+)/g)].map((m) => m[1]);
    if (entries.length === 0) complaints.push('no entry point found');
    for (const entryPoint of entries) {
        try {
            await device.createComputePipelineAsync({ layout: 'auto', compute: { module, entryPoint } });
        } catch (error) {
            complaints.push(`${entryPoint}: ${error.message}`);
        }
    }
    return { complaints, pipelines: entries.length, warnings: messages.map((m) => describe(m, code)) };
}

const folder = process.argv[2];
const files = (await readdir(folder)).filter((f) => f.endsWith('.wgsl')).sort();
if (files.length === 0) {
    console.error(`no WGSL in ${folder}`);
    process.exit(1);
}
let refused = 0;
let pipelines = 0;
const warnings = new Map();
for (const file of files) {
    const verdict = await judge(await readFile(join(folder, file), 'utf8'));
    pipelines += verdict.pipelines;
    if (verdict.complaints.length > 0) {
        refused += 1;
        console.log(`REFUSED ${basename(file, '.wgsl')}`);
        for (const complaint of verdict.complaints) console.log(`    ${complaint}`);
    }
    for (const warning of verdict.warnings) warnings.set(warning, (warnings.get(warning) ?? 0) + 1);
}
for (const [warning, count] of warnings) console.log(`in ${count} variants, ${warning}`);
console.log(`${files.length} variants, ${pipelines} pipelines, ${refused} variants refused`);
console.log(`test result: ${refused === 0 ? 'ok' : 'FAILED'}. ${files.length - refused} passed; ${refused} failed; 0 ignored`);
process.exit(refused === 0 ? 0 : 1);
