// Puts every WGSL file of a folder before Tint, Dawn's compiler, and prints what it refuses. Dawn's null backend
// needs no driver: modules and pipelines are validated in full, and no machine code is made.
//
// usage: node tint.mjs FOLDER

import { readdir, readFile } from 'node:fs/promises';
import { basename, join } from 'node:path';
import { create, globals } from 'webgpu';
import { features, forDawn } from './wgsl.mjs';

Object.assign(globalThis, globals);
const gpu = create(['backend=null']);
const devices = new Map();

// A device with these features and no others, so that a source cannot use what it does not announce.
async function deviceWith(requiredFeatures) {
    const key = requiredFeatures.join();
    if (!devices.has(key)) {
        const adapter = await gpu.requestAdapter();
        devices.set(key, await adapter.requestDevice({ requiredFeatures }));
    }
    return devices.get(key);
}

function describe(message, code) {
    const line = code.split('\n')[message.lineNum - 1];
    const where = line === undefined ? '' : `\n        ${message.lineNum} | ${line.trim()}`;
    return `${message.type}: ${message.message}${where}`;
}

// What Tint and Dawn have against a source, what else they say, and how many entry points they were given.
async function judge(source) {
    const code = forDawn(source);
    const device = await deviceWith(features(code));
    device.pushErrorScope('validation');
    const module = device.createShaderModule({ code });
    const { messages } = await module.getCompilationInfo();
    const refused = await device.popErrorScope();
    const said = messages.map((message) => describe(message, code));
    if (refused) return { complaints: said.length > 0 ? said : [refused.message], warnings: [], entries: 0 };

    const complaints = [];
    const entries = [...source.matchAll(/@compute\b[^{]*?\bfn\s+(\w+)/g)].map((match) => match[1]);
    if (entries.length === 0) complaints.push('no entry point');
    for (const entryPoint of entries) {
        try {
            await device.createComputePipelineAsync({ layout: 'auto', compute: { module, entryPoint } });
        } catch (error) {
            complaints.push(`${entryPoint}: ${error.message}`);
        }
    }
    return { complaints, warnings: said, entries: entries.length };
}

const folder = process.argv[2];
const files = (await readdir(folder)).filter((file) => file.endsWith('.wgsl')).sort();
if (files.length === 0) {
    console.error(`no WGSL in ${folder}`);
    process.exit(1);
}
let refused = 0;
let entries = 0;
const warnings = new Map();
for (const file of files) {
    const verdict = await judge(await readFile(join(folder, file), 'utf8'));
    entries += verdict.entries;
    if (verdict.complaints.length > 0) {
        refused += 1;
        console.log(`REFUSED ${basename(file, '.wgsl')}`);
        for (const complaint of verdict.complaints) console.log(`    ${complaint}`);
    }
    for (const warning of verdict.warnings) warnings.set(warning, (warnings.get(warning) ?? 0) + 1);
}
for (const [warning, count] of warnings) console.log(`in ${count} variants, ${warning}`);
console.log(`Tint: ${files.length} variants with ${entries} entry points; ${refused} variants refused`);
const verdict = refused === 0 ? 'ok' : 'FAILED';
console.log(`test result: ${verdict}. ${files.length - refused} passed; ${refused} failed; 0 ignored`);
process.exit(refused === 0 ? 0 : 1);
