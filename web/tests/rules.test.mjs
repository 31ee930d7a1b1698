// What the sources may not have: ways by which a text could become a page, a script, or a request to somebody else.
import assert from 'node:assert/strict';
import { readFileSync, readdirSync } from 'node:fs';
import { test } from 'node:test';
import { fileURLToPath } from 'node:url';

const root = fileURLToPath(new URL('..', import.meta.url));
const files = ['src', 'public']
  .flatMap((folder) => readdirSync(root + folder, { recursive: true }).map((name) => `${folder}/${name}`))
  .concat('index.html')
  .filter((name) => /\.(svelte|ts|js|css|html|svg)$/.test(name) && !name.endsWith('schema.d.ts'));

const FORBIDDEN = [
  [/\{@html/, 'a text that becomes a page'],
  [/\b(innerHTML|outerHTML|insertAdjacentHTML|document\.write|srcdoc)\b/, 'a text that becomes a page'],
  [/\beval\(|new Function\(/, 'a text that becomes a script'],
  [/javascript:/, 'a script in an address'],
  [/\sstyle=/, 'an inline style, which the policy refuses'],
  [/\son(?!ly)\w+="/, 'an inline handler, which the policy refuses'],
  [/target="_blank"/, 'a way out'],
  [/@import|url\(/, 'a style that loads something'],
];

test('no source has a way for a text to become more than text', () => {
  assert.ok(files.length > 40);
  for (const name of files) {
    const text = readFileSync(root + name, 'utf8');
    for (const [pattern, what] of FORBIDDEN) assert.ok(!pattern.test(text), `${name} has ${what}`);
  }
});

test('no source names another host', () => {
  for (const name of files) {
    // What is shown as an example is never asked for.
    const text = readFileSync(root + name, 'utf8').replace(/https:\/\/(hooks|git)\.example\.com/g, '').replace('http://www.w3.org/2000/svg', '');
    assert.ok(!/\b(https?|wss?):\/\//.test(text), `${name} names another host`);
  }
});

test('every question of a page is one that the benchmark asks', () => {
  const shape = (path) => path.replace(/\?.*$/, '').replace(/\$?\{[^}]*\}|\/bench-7/g, (found) => (found.startsWith('/') ? '/{}' : '{}'));
  const asked = new Set([...readFileSync(`${root}../worker/src/bench/pages.rs`, 'utf8').matchAll(/"(\/api\/[^"]*)"/g)].map(([, path]) => shape(path)));
  // A patch and a difference are not read from lists; an ask is one row.
  for (const path of ['/api/change-sets/{}/files/{}', '/api/change-sets/{}/interdiff', '/api/asks/{}']) asked.add(path);
  for (const name of files) {
    for (const [, path] of readFileSync(root + name, 'utf8').matchAll(/(?<![.\w])(?:get|getAll|getWhole|listing)(?:<[^(]*>)?\(\s*(?:\(\) => )?[`']([^`']*)/g)) {
      if (path.startsWith('/api/')) assert.ok(asked.has(shape(path)), `${name} asks ${shape(path)}, which bench/pages.rs does not`);
    }
  }
});

test('every address that is asked is in the API’s document, with its method', () => {
  const known = new Set();
  for (const [path, item] of Object.entries(JSON.parse(readFileSync(`${root}openapi.json`, 'utf8')).paths)) {
    if (item.get?.parameters?.some(({ name }) => name === 'cursor')) known.add(`PAGED ${path.replace(/\{[^}]*\}/g, '{}')}`);
    for (const method of Object.keys(item)) known.add(`${method.toUpperCase()} ${path.replace(/\{[^}]*\}/g, '{}')}`);
  }
  let count = 0;
  for (const name of files) {
    const text = readFileSync(root + name, 'utf8');
    for (const [, verb, method, path] of text.matchAll(/(?<![.\w])(get|getAll|getWhole|getText|send|tell|listing)(?:<[^(]*>)?\(\s*(?:'([A-Z]+)', |\(\) => )?[`']([^`']*)/g)) {
      if (!path.startsWith('/')) continue;
      const asked = `${method ?? (verb === 'tell' ? 'POST' : 'GET')} ${path.replace(/\$\{[^}]*\}/g, '{}').replace('/api/tasks/{}', verb === 'send' && name.endsWith('many.ts') ? '/api/tasks/retry' : '/api/tasks/{}')}`;
      assert.ok(known.has(asked), `${name} asks ${asked}`);
      if (verb === 'getAll' || verb === 'listing') assert.ok(known.has(asked.replace('GET', 'PAGED')), `${name}: ${asked} has no pages`);
      count += 1;
    }
  }
  assert.ok(count > 40, `${count}`);
});
