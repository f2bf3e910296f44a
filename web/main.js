// The page: asks the WebAssembly module for tables and shows them. What goes wrong is shown here too, never only in the console.

import init, { Host } from './pkg/macheps_web.js';

const $ = (id) => document.getElementById(id);

function element(tag, options = {}, ...children) {
  const { attributes = {}, ...properties } = options;
  const made = Object.assign(document.createElement(tag), properties);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.append(...children);
  return made;
}

const cell = (content, className = '') => element('td', { className }, content);
const row = (...cells) => element('tr', {}, ...cells);

// ---- failures

function failed(text) {
  $('failures').hidden = false;
  const said = [...$('failures').children].some((one) => one.textContent === text);
  // A frame that fails does so sixty times a second.
  if (!said && $('failures').childElementCount < 12) {
    $('failures').append(element('p', { className: 'failure', textContent: text }));
  }
  document.body.dataset.failed = 'true';
}

const text = (error) => error?.message ?? String(error);
addEventListener('error', (event) => failed(text(event.error ?? event.message)));
addEventListener('unhandledrejection', (event) => failed(text(event.reason)));

function state(section, words, kind = '') {
  const label = $(section).querySelector('.state');
  label.textContent = words;
  label.className = `state ${kind}`;
  $(section).dataset.state = kind || 'busy';
}

// ---- numbers

// Large and small ones with a power of ten, as people write it.
function number(value, digits = 3) {
  if (value === null || !Number.isFinite(value)) return '–';
  if (value === 0) return '0';
  const power = Math.floor(Math.log10(Math.abs(value)));
  if (power < -3 || power > 5) {
    const raised = String(power).replace('-', '⁻').replace(/\d/g, (d) => '⁰¹²³⁴⁵⁶⁷⁸⁹'[d]);
    return `${(value / 10 ** power).toFixed(digits - 1)} · 10${raised}`;
  }
  return value.toLocaleString('en', { maximumSignificantDigits: digits });
}

function bytes(value) {
  const units = ['bytes', 'KiB', 'MiB', 'GiB', 'TiB'];
  let at = 0;
  while (value >= 1024 && at + 1 < units.length) [value, at] = [value / 1024, at + 1];
  return `${number(value)} ${units[at]}`;
}

function seconds(value) {
  return value < 1e-3 ? `${number(value * 1e6)} µs` : `${number(value * 1e3)} ms`;
}

function meter(fraction) {
  const bar = element('i');
  bar.style.setProperty('--share', `${Math.min(100, 100 * fraction)}%`);
  return element('span', { className: 'meter' }, bar, element('b', { textContent: `${number(100 * fraction, 2)} %` }));
}

// ---- device

async function showDevice(host) {
  const { info, features, limits } = JSON.parse(host.device());
  // What the browser says of the adapter; it may keep any of it to itself.
  const adapter = await navigator.gpu.requestAdapter({ powerPreference: 'high-performance' });
  const said = adapter?.info ?? {};
  const name = said.description || [said.vendor, said.architecture].filter(Boolean).join(' ') || 'an adapter without a name';
  const fallback = said.isFallbackAdapter || info.kind === 'software';
  const facts = [
    ['name', name],
    ['vendor', said.vendor],
    ['architecture', said.architecture],
    ['device', said.device],
    ['runs on', fallback ? 'the CPU (a software adapter)' : 'hardware, as far as the browser says'],
    ['seen by wgpu as', `${info.name || 'no name'}, ${info.backend}`],
  ];
  $('adapter').replaceChildren(
    ...facts.map(([key, value]) => row(element('th', { textContent: key }), cell(value || 'not said', value ? '' : 'quiet'))),
  );
  $('features').replaceChildren(
    ...features.map(({ name, granted, use }) =>
      row(
        element('th', {}, name, element('small', { textContent: use })),
        cell(granted ? 'granted' : 'not there', granted ? 'good' : 'quiet'),
      ),
    ),
  );
  $('limits').replaceChildren(
    ...limits.map(({ name, value, unit }) =>
      row(element('th', { textContent: name }), cell(unit === 'bytes' ? bytes(value) : value.toLocaleString('en'), 'number')),
    ),
  );
  state('device', 'open', 'good');
  return { name, software: /swiftshader|llvmpipe|lavapipe/i.test(`${name} ${said.architecture}`) || Boolean(fallback) };
}

// ---- smoke

function plot(records) {
  const [left, right, top, bottom] = [38, 352, 10, 118];
  const values = records.flatMap(({ before, after }) => [before, after]).filter((value) => value > 0);
  if (values.length === 0) return;
  const low = Math.floor(Math.log10(Math.min(...values)));
  const high = Math.max(low + 1, Math.ceil(Math.log10(Math.max(...values))));
  const y = (value) => bottom - ((Math.log10(value) - low) / (high - low)) * (bottom - top);
  const x = (at) => left + (at / Math.max(1, records.length - 1)) * (right - left);
  const line = (key) =>
    records.map((one, at) => (one[key] > 0 ? `${at && records[at - 1][key] > 0 ? 'L' : 'M'}${x(at).toFixed(1)} ${y(one[key]).toFixed(1)}` : '')).join('');
  let drawn = '';
  for (let power = low; power <= high; power += Math.ceil((high - low) / 4)) {
    const at = y(10 ** power).toFixed(1);
    const raised = String(power).replace('-', '⁻').replace(/\d/g, (d) => '⁰¹²³⁴⁵⁶⁷⁸⁹'[d]);
    drawn += `<line x1="${left}" x2="${right}" y1="${at}" y2="${at}"/><text x="${left - 6}" y="${+at + 3}" text-anchor="end">10${raised}</text>`;
  }
  drawn += `<text x="${left}" y="${bottom + 16}">${records.length} frames ago</text><text x="${right}" y="${bottom + 16}" text-anchor="end">now</text>`;
  $('plot').innerHTML = `${drawn}<path class="before" d="${line('before')}"/><path class="after" d="${line('after')}"/>`;
}

class Show {
  constructor(host, software) {
    // A driver on the CPU draws a small picture.
    const [side, dispatches, pixels] = software ? [96, 60, 288] : [256, 90, 768];
    $('canvas').width = $('canvas').height = pixels;
    this.smoke = host.smoke($('canvas'), side, dispatches);
    this.cells = side;
    this.frames = 0;
    this.reasons = new Set();
    this.describe();
    $('pause').onclick = () => (this.reasons.has('button') ? this.go('button') : this.rest('button'));
    for (const input of $('methods').querySelectorAll('input')) {
      input.onchange = () => {
        this.smoke.set_method(input.value);
        this.describe();
      };
    }
    this.last = { time: performance.now(), frames: 0 };
    this.looking = setInterval(() => this.look(), 400);
    this.draw = this.draw.bind(this);
    requestAnimationFrame(this.draw);
  }

  describe() {
    const { iterations, dispatches } = JSON.parse(this.smoke.pressure());
    $('pressure').textContent = `${iterations} iterations in ${dispatches} dispatches`;
    state('smoke', `${this.cells} × ${this.cells} cells`, 'good');
  }

  // The frame loop: records, submits, and asks for the next one.
  draw() {
    try {
      this.smoke.frame();
      this.frames += 1;
    } catch (error) {
      this.stop(error);
      return;
    }
    this.running = this.reasons.size === 0;
    if (this.running) requestAnimationFrame(this.draw);
  }

  rest(reason) {
    this.reasons.add(reason);
    $('pause').textContent = this.reasons.has('button') ? 'Go on' : 'Pause';
  }

  go(reason) {
    this.reasons.delete(reason);
    $('pause').textContent = 'Pause';
    this.last = { time: performance.now(), frames: this.frames };
    if (this.reasons.size === 0 && !this.running) requestAnimationFrame(this.draw);
  }

  // Figures, apart from the frames.
  async look() {
    if (this.busy || this.reasons.size > 0) return;
    this.busy = true;
    try {
      const { records } = JSON.parse(await this.smoke.history());
      const now = { time: performance.now(), frames: this.frames };
      if (now.frames > this.last.frames) {
        $('rate').textContent = number((1000 * (now.frames - this.last.frames)) / (now.time - this.last.time));
      }
      this.last = now;
      const latest = records.at(-1);
      if (!latest) return;
      $('before').textContent = number(latest.before);
      $('after').textContent = number(latest.after);
      $('ratio').textContent = number(latest.before / latest.after);
      Object.assign($('smoke').dataset, { frames: this.frames, before: latest.before, after: latest.after });
      plot(records);
    } catch (error) {
      this.stop(error);
    } finally {
      this.busy = false;
    }
  }

  stop(error) {
    clearInterval(this.looking);
    state('smoke', 'failed', 'bad');
    failed(`Smoke: ${text(error)}`);
  }
}

// ---- probe

async function showProbe(host) {
  state('probe', 'measuring…');
  const facts = JSON.parse(await host.probe());
  const rows = [];
  let group = '';
  for (const fact of facts) {
    if (fact.group !== group) {
      group = fact.group;
      rows.push(element('tr', { className: 'group' }, element('th', { colSpan: 3, textContent: group })));
    }
    const kind = { ok: 'good', beware: 'warn', info: 'quiet' }[fact.verdict];
    const shown = row(cell(fact.what), cell(fact.value), cell(fact.verdict, kind));
    shown.dataset.fact = fact.id;
    rows.push(shown);
  }
  $('facts').replaceChildren(...rows);
  const beware = facts.filter((fact) => fact.verdict === 'beware').length;
  state('probe', `${facts.length} facts, ${beware} to beware of`, 'good');
}

// ---- verify

// How much of its bound a case uses; a bound of 0 is one that is met exactly.
function ofBound({ ok, max_error, bound }) {
  if (max_error === null) return ok ? 0 : Infinity;
  return max_error === 0 ? 0 : max_error / bound;
}

function caseRow(report) {
  const shown = row(
    cell(report.shape),
    cell(report.dtype),
    cell(report.message ? element('span', {}, report.detail, element('small', { className: 'bad', textContent: report.message })) : report.detail),
    cell(number(report.max_error), 'number'),
    cell(number(report.bound), 'number'),
    cell(report.unit),
    cell(report.ok ? 'pass' : 'FAIL', report.ok ? 'good' : 'bad'),
  );
  Object.assign(shown.dataset, { case: report.op, ok: report.ok });
  return shown;
}

function showOperation(op, reports) {
  const bad = reports.filter((report) => !report.ok).length;
  const worst = Math.max(...reports.map(ofBound));
  const head = row(...['Shape', 'Type', 'Values and options', 'Error', 'Bound', 'Unit', 'Verdict'].map((title) => element('th', { textContent: title })));
  const inner = element('table', {}, element('thead', {}, head), element('tbody', {}, ...reports.map(caseRow)));
  const details = element('tr', { className: 'cases', hidden: bad === 0 }, element('td', { colSpan: 4 }, element('div', { className: 'scroll' }, inner)));
  const toggle = element('button', { type: 'button', className: 'toggle', textContent: op, attributes: { 'aria-expanded': String(bad > 0) } });
  toggle.onclick = () => {
    details.hidden = !details.hidden;
    toggle.setAttribute('aria-expanded', String(!details.hidden));
  };
  const share = Number.isFinite(worst) ? (worst === 0 ? 'exact' : meter(worst)) : '–';
  $('operations').append(
    row(element('th', { scope: 'row' }, toggle), cell(String(reports.length), 'number'), cell(share), cell(bad ? `${bad} failed` : 'pass', bad ? 'bad' : 'good')),
    details,
  );
}

// Of each operation's cases so many, evenly spread, unless all are asked for.
const SAMPLE = 4;

function sample(cases) {
  if (cases.length <= SAMPLE) return cases;
  return Array.from({ length: SAMPLE }, (_, at) => cases[Math.round((at * (cases.length - 1)) / (SAMPLE - 1))]);
}

async function showVerify(host, all) {
  const operations = new Map();
  const ops = host.cases();
  ops.forEach((op, index) => operations.set(op, [...(operations.get(op) ?? []), index]));
  for (const [op, cases] of operations) operations.set(op, all ? cases : sample(cases));
  const total = [...operations.values()].reduce((sum, cases) => sum + cases.length, 0);
  let [done, bad] = [0, 0];
  $('operations').replaceChildren();
  $('verified').hidden = false;
  $('verified').max = total;
  for (const [op, cases] of operations) {
    const reports = [];
    for (const index of cases) {
      const report = JSON.parse(await host.verify(index));
      reports.push(report);
      done += 1;
      bad += report.ok ? 0 : 1;
      $('verified').value = done;
      state('verify', `${done} of ${total}${bad ? `, ${bad} failed` : ''}`, bad ? 'bad' : '');
    }
    showOperation(op, reports);
  }
  $('verified').hidden = true;
  const of = all ? '' : ` (a sample of ${ops.length.toLocaleString('en')})`;
  state('verify', bad ? `${bad} of ${total} cases failed` : `${total} cases within their bounds${of}`, bad ? 'bad' : 'good');
  return { total, bad };
}

// ---- bench

async function showBench(host) {
  const workloads = host.workloads();
  for (const [index, op] of workloads.entries()) {
    state('bench', `${op}, ${index + 1} of ${workloads.length}`);
    const report = JSON.parse(await host.bench(index));
    const shown = row(
      element('th', { scope: 'row', textContent: report.op }),
      cell(`${report.shape} ${report.dtype}`),
      cell(seconds(report.seconds_median), 'number'),
      cell(number(report.gbps), 'number'),
      cell(number(report.copy_gbps), 'number'),
      cell(meter(report.fraction_of_copy)),
      cell(report.timer === 'wall' ? 'wall' : 'device'),
    );
    Object.assign(shown.dataset, { workload: report.op, seconds: report.seconds_median });
    $('workloads').append(shown);
  }
  state('bench', `${workloads.length} workloads`, 'good');
}

// ---- all of it

const without = `This browser has no WebGPU, so there is nothing to compute on.
Chrome and Edge have it since version 113 (on Linux: start with --enable-unsafe-webgpu --enable-features=Vulkan if it is switched off), Safari since 26, Firefox since 141 on Windows and 145 on macOS. \
Pages get it over https or from localhost only.`;

async function step(section, run) {
  try {
    return await run();
  } catch (error) {
    state(section, 'failed', 'bad');
    failed(`${section}: ${text(error)}`);
    return undefined;
  }
}

async function main() {
  if (!navigator.gpu) {
    document.querySelector('main').hidden = true;
    $('summary').textContent = isSecureContext ? 'No WebGPU here.' : 'No WebGPU on a page that comes over plain http.';
    failed(without);
    document.body.dataset.done = 'true';
    return;
  }
  const host = await step('device', async () => {
    await init();
    return Host.open(failed);
  });
  if (!host) {
    $('summary').textContent = 'The device could not be opened.';
    document.body.dataset.done = 'true';
    return;
  }
  const device = await step('device', () => showDevice(host));
  $('summary').textContent = `On ${device?.name}: verifying…`;
  const show = await step('smoke', () => new Show(host, device?.software));
  await step('probe', () => showProbe(host));

  const verify = async (all) => {
    $('all').disabled = true;
    // On a CPU the frames would take most of the time.
    if (device?.software) show?.rest('verify');
    const verified = await step('verify', () => showVerify(host, all));
    show?.go('verify');
    $('all').disabled = false;
    $('summary').textContent = !verified
      ? `On ${device?.name}: verification could not be run.`
      : `On ${device?.name}: ${verified.bad ? `${verified.bad} of ${verified.total} cases FAILED` : `${verified.total} cases verified, all within their bounds`}.`;
  };
  $('all').textContent = `Verify all ${host.cases().length.toLocaleString('en')} cases`;
  $('all').onclick = () => verify(true);
  await verify(false);

  // Frames would be in the measurement, and so would another verification.
  show?.rest('bench');
  $('all').disabled = true;
  await step('bench', () => showBench(host));
  show?.go('bench');
  $('all').disabled = false;
  document.body.dataset.done = 'true';
}

main().catch((error) => failed(text(error)));
