// The page in headless Chromium, without packages: a static server, and the DevTools protocol over a pipe.
//
//     node test.mjs BROWSER FOLDER_FOR_SCREENSHOTS

import { spawn } from 'node:child_process';
import { createServer } from 'node:http';
import { mkdir, mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { extname, join, normalize } from 'node:path';
import { fileURLToPath } from 'node:url';

const [browser, pictures] = process.argv.slice(2);
const folder = fileURLToPath(new URL('.', import.meta.url));
const LIMIT = 1000 * Number(process.env.MACHEPS_WEB_SECONDS ?? 900);

const FLAGS = [
  '--headless=new', '--no-sandbox', '--enable-unsafe-webgpu',
  // WebGPU, the canvas and the compositor on one driver: otherwise the browser has no image that all of them can share.
  '--use-vulkan=swiftshader', '--use-angle=swiftshader', '--enable-features=Vulkan', '--enable-unsafe-swiftshader', '--ignore-gpu-blocklist',
  '--disable-background-networking',
  '--disable-component-update', '--disable-sync', '--no-first-run', '--disable-quic', '--hide-scrollbars',
  '--host-resolver-rules=MAP * ~NOTFOUND , EXCLUDE 127.0.0.1', '--remote-debugging-pipe',
];
const TYPES = { '.html': 'text/html', '.js': 'text/javascript', '.css': 'text/css', '.wasm': 'application/wasm' };

// ---- a static server

async function serve() {
  const server = createServer(async (request, response) => {
    const path = normalize(decodeURIComponent(new URL(request.url, 'http://x').pathname));
    try {
      const body = await readFile(join(folder, path.endsWith('/') ? `${path}index.html` : path));
      response.writeHead(200, { 'content-type': TYPES[extname(path)] ?? 'text/html' }).end(body);
    } catch {
      response.writeHead(404).end();
    }
  });
  await new Promise((resolve) => server.listen(0, '127.0.0.1', resolve));
  return server;
}

// ---- the browser

class Browser {
  constructor(profile) {
    this.process = spawn(browser, [...FLAGS, `--user-data-dir=${profile}`, 'about:blank'], {
      stdio: ['ignore', 'ignore', 'pipe', 'pipe', 'pipe'],
    });
    this.errors = '';
    this.process.stderr.on('data', (data) => (this.errors = (this.errors + data).slice(-4000)));
    this.gone = new Promise((_, reject) => {
      this.process.on('error', reject);
      this.process.on('exit', (code) => reject(new Error(`the browser ended (${code}):\n${this.errors}`)));
    });
    // Nobody may be waiting when it ends.
    this.gone.catch(() => {});
    this.waiting = new Map();
    this.heard = [];
    this.last = 0;
    let rest = Buffer.alloc(0);
    this.process.stdio[4].on('data', (data) => {
      rest = Buffer.concat([rest, data]);
      for (let end; (end = rest.indexOf(0)) >= 0; rest = rest.subarray(end + 1)) {
        this.hear(JSON.parse(rest.subarray(0, end)));
      }
    });
  }

  hear(message) {
    const waiting = this.waiting.get(message.id);
    if (!waiting) {
      this.heard.push(message);
      return;
    }
    this.waiting.delete(message.id);
    if (message.error) waiting.reject(new Error(`${waiting.method}: ${message.error.message}`));
    else waiting.resolve(message.result);
  }

  send(method, params = {}, sessionId) {
    const id = (this.last += 1);
    const answer = new Promise((resolve, reject) => this.waiting.set(id, { resolve, reject, method }));
    this.process.stdio[3].write(`${JSON.stringify({ id, method, params, sessionId })}\0`);
    return Promise.race([answer, this.gone]);
  }

  async open(url, before = '') {
    const { targetId } = await this.send('Target.createTarget', { url: 'about:blank' });
    const { sessionId } = await this.send('Target.attachToTarget', { targetId, flatten: true });
    const page = new Page(this, sessionId, targetId);
    await page.send('Page.enable');
    await page.send('Runtime.enable');
    await page.send('Page.addScriptToEvaluateOnNewDocument', { source: before });
    await page.resize(1200, 900);
    await page.send('Page.navigate', { url });
    return page;
  }
}

class Page {
  constructor(browser, session, target) {
    Object.assign(this, { browser, session, target });
  }

  send(method, params) {
    return this.browser.send(method, params, this.session);
  }

  async evaluate(expression) {
    const { result, exceptionDetails } = await this.send('Runtime.evaluate', { expression, returnByValue: true, awaitPromise: true });
    if (exceptionDetails) throw new Error(exceptionDetails.exception?.description ?? exceptionDetails.text);
    return result.value;
  }

  resize(width, height) {
    return this.send('Emulation.setDeviceMetricsOverride', { width, height, deviceScaleFactor: 1, mobile: false });
  }

  async picture(name) {
    const { data } = await this.send('Page.captureScreenshot', { format: 'png', captureBeyondViewport: true });
    await writeFile(join(pictures, name), Buffer.from(data, 'base64'));
  }

  close() {
    return this.browser.send('Target.closeTarget', { targetId: this.target });
  }

  // What the console had to say of failures.
  complaints() {
    return this.browser.heard
      .filter(({ method, sessionId }) => sessionId === this.session && method === 'Runtime.exceptionThrown')
      .map(({ params }) => params.exceptionDetails.exception?.description ?? params.exceptionDetails.text);
  }
}

const pause = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

async function until(page, expression, limit) {
  const end = Date.now() + limit;
  let [said, next] = ['', Date.now() + 5000];
  while (!(await page.evaluate(expression))) {
    if (Date.now() > end) throw new Error(`after ${limit / 1000} s still not so: ${expression} (${said})`);
    const now = await page.evaluate(`[...document.querySelectorAll('section')].map((s) => s.querySelector('h2').textContent.trim()).join(' | ')`);
    if (now !== said && Date.now() > next) {
      console.log(`     ${now}`);
      next = Date.now() + 10_000;
    }
    said = now;
    await pause(300);
  }
}

// ---- what is held

const problems = [];
let held = 0;

function hold(what, fact) {
  held += 1;
  console.log(`${fact ? 'ok  ' : 'FAIL'} ${what}`);
  if (!fact) problems.push(what);
}

// Counts what the frame loop does, and looks at a picture in the task that drew it.
const COUNTS = `
  globalThis.seen = { frames: 0, submits: 0, maps: 0, worst: 0 };
  let frame;
  const count = (type, method, key) => {
    const original = type.prototype[method];
    type.prototype[method] = function (...given) {
      if (frame) frame[key] += 1;
      return original.apply(this, given);
    };
  };
  count(GPUQueue, 'submit', 'submits');
  count(GPUBuffer, 'mapAsync', 'maps');
  const next = requestAnimationFrame.bind(globalThis);
  globalThis.requestAnimationFrame = (callback) => next((time) => {
    frame = { submits: 0, maps: 0 };
    callback(time);
    const { submits, maps } = frame;
    frame = undefined;
    seen.frames += 1;
    seen.submits += submits;
    seen.maps += maps;
    seen.worst = Math.max(seen.worst, submits);
    if (seen.look) {
      const small = new OffscreenCanvas(64, 64).getContext('2d');
      small.drawImage(document.querySelector('canvas'), 0, 0, 64, 64);
      const { data } = small.getImageData(0, 0, 64, 64);
      const colours = new Set();
      let bright = 0;
      for (let i = 0; i < data.length; i += 4) {
        colours.add((data[i] << 16) | (data[i + 1] << 8) | data[i + 2]);
        bright = Math.max(bright, data[i]);
      }
      seen.look = false;
      seen.picture = { colours: colours.size, bright };
    }
  });
`;

async function wholePage(browser, url) {
  const page = await browser.open(url, COUNTS);
  const start = Date.now();
  // After a panic nothing that waits for the module ever ends.
  await until(page, `document.body?.dataset.done === 'true' || document.body?.dataset.failed === 'true'`, LIMIT);
  console.log(`the page was done after ${Math.round((Date.now() - start) / 1000)} s`);

  if ((await page.evaluate(`document.body.dataset.done`)) !== 'true') await page.picture('page-failed.png');
  const summary = await page.evaluate(`document.querySelector('#summary').textContent`);
  console.log(`     ${summary}`);
  const failures = await page.evaluate(`[...document.querySelectorAll('.failure')].filter((e) => !e.closest('noscript')).map((e) => e.textContent)`);
  hold(`nothing failed on the page ${JSON.stringify(failures)}`, failures.length === 0);
  hold('the adapter is named', (await page.evaluate(`document.querySelector('#adapter td').textContent`)).length > 3);
  hold('limits are listed', (await page.evaluate(`document.querySelectorAll('#limits tr').length`)) >= 5);

  const rows = await page.evaluate(`[...document.querySelectorAll('tr[data-case]')].map((e) => ({ op: e.dataset.case, ok: e.dataset.ok, text: e.innerText || e.textContent }))`);
  const bad = rows.filter(({ ok }) => ok !== 'true');
  for (const { op, text } of bad.slice(0, 10)) console.log(`     ${op}: ${text.replace(/\s+/g, ' ')}`);
  hold(`all ${rows.length} rows of the verify table pass (${bad.length} do not)`, bad.length === 0);
  hold('there are more than 100 of them, of 20 operations', rows.length > 100 && new Set(rows.map(({ op }) => op)).size >= 20);

  const facts = await page.evaluate(`[...document.querySelectorAll('[data-fact]')].map((e) => e.dataset.fact)`);
  hold(`the probe has ${facts.length} facts`, facts.length >= 40);
  const timed = await page.evaluate(`[...document.querySelectorAll('[data-workload]')].map((e) => ({ ...e.dataset, text: [...e.children].map((c) => c.textContent).join('  ') }))`);
  for (const { text } of timed) console.log(`     ${text}`);
  hold(`the bench has ${timed.length} rows with times`, timed.length === 8 && timed.every(({ seconds }) => Number(seconds) > 0));

  // Some frames more, now that nothing else runs.
  const frames = Number(await page.evaluate(`document.querySelector('#smoke').dataset.frames ?? 0`));
  await until(page, `Number(document.querySelector('#smoke').dataset.frames) >= ${Math.max(frames + 20, 60)}`, 120_000);
  await page.evaluate(`seen.look = true`);
  await until(page, `seen.picture !== undefined`, 20_000);
  const seen = await page.evaluate(`seen`);
  hold(`${seen.frames} frames: one submission each, nothing mapped ${JSON.stringify(seen)}`, seen.submits === seen.frames && seen.worst === 1 && seen.maps === 0);
  hold(`the canvas shows ${seen.picture.colours} colours, smoke among them`, seen.picture.colours > 100 && seen.picture.bright > 128);
  const { before, after } = await page.evaluate(`({ ...document.querySelector('#smoke').dataset })`);
  hold(`divergence ${before} falls to ${after}`, Number(before) > 0 && Number(after) < Number(before) / 10 && Number(after) < 1e-2);

  // Each of the others in turn: its iterations are shown, and ten frames later it divides the divergence.
  const shown = () => page.evaluate(`({ pressure: document.querySelector('#pressure').textContent, ...document.querySelector('#smoke').dataset })`);
  const ways = [];
  for (const method of ['jacobi', 'pcg', 'cg']) {
    const before = await shown();
    await page.evaluate(`document.querySelector('input[value=${method}]').click()`);
    await until(page, `Number(document.querySelector('#smoke').dataset.frames) >= ${Number(before.frames) + 10}`, 60_000);
    const now = await shown();
    ways.push({ method, pressure: now.pressure, dividedBy: Number(now.before) / Number(now.after), failed: now.state !== 'good' });
  }
  const [jacobi, pcg, cg] = ways;
  const different = new Set(ways.map(({ pressure }) => pressure)).size === 3;
  const better = ways.every(({ dividedBy }) => dividedBy > 5);
  hold(`the method can be changed ${JSON.stringify(ways)}`, different && better && !ways.some(({ failed }) => failed));

  await page.evaluate(`document.querySelector('#operations .toggle').click()`);
  await page.picture('page.png');
  await page.resize(400, 800);
  await pause(300);
  hold('it fits 400 pixels', (await page.evaluate('document.documentElement.scrollWidth')) <= 400);
  await page.picture('page-400.png');
  hold(`the console has no uncaught errors ${JSON.stringify(page.complaints())}`, page.complaints().length === 0);
  await page.close();
}

async function withoutWebGpu(browser, url) {
  const page = await browser.open(url, `Object.defineProperty(Navigator.prototype, 'gpu', { get: () => undefined })`);
  await until(page, `document.body?.dataset.done === 'true'`, 30_000);
  const said = await page.evaluate(`document.querySelector('#failures').textContent`);
  hold('without WebGPU the page says so, and how to get it', said.includes('no WebGPU') && said.includes('Chrome'));
  await page.picture('page-without.png');
  await page.close();
}

const profile = await mkdtemp(join(tmpdir(), 'macheps-web-'));
await mkdir(pictures, { recursive: true });
const server = await serve();
const url = `http://127.0.0.1:${server.address().port}/`;
const chromium = new Browser(profile);
try {
  await withoutWebGpu(chromium, url);
  await wholePage(chromium, url);
} catch (error) {
  hold(`the test ran to its end: ${error.stack}`, false);
} finally {
  server.close();
  const ended = chromium.gone.catch(() => {});
  chromium.process.kill();
  await ended;
  await rm(profile, { recursive: true, force: true, maxRetries: 5 });
}
console.log(`${problems.length ? 'FAILED' : 'passed'}: the page in Chromium; screenshots in ${pictures}`);
// As Rust's test runner says it, so that it is counted.
console.log(`test result: ${problems.length ? 'FAILED' : 'ok'}. ${held - problems.length} passed; ${problems.length} failed; 0 ignored`);
process.exit(problems.length ? 1 : 0);
