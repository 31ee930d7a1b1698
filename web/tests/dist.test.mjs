// What is built: how large it is, and that its page holds to the policy.
import assert from 'node:assert/strict';
import { existsSync, readFileSync, readdirSync } from 'node:fs';
import { test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { gzipSync } from 'node:zlib';

const dist = fileURLToPath(new URL('../dist/', import.meta.url));
const skip = existsSync(`${dist}index.html`) ? false : 'not built: ops/web';

test('all JavaScript is below 250 kB, compressed', { skip }, () => {
  const sizes = readdirSync(`${dist}assets`).filter((name) => name.endsWith('.js')).map((name) => gzipSync(readFileSync(`${dist}assets/${name}`)).length);
  const total = sizes.reduce((sum, size) => sum + size, 0);
  assert.ok(sizes.length > 0 && total < 250_000, `${total} bytes`);
});

test('the page has no script, style or handler of its own, and names no other host', { skip }, () => {
  const page = readFileSync(`${dist}index.html`, 'utf8');
  for (const [, attributes, body] of page.matchAll(/<script([^>]*)>([^]*?)<\/script>/g)) {
    assert.match(attributes, /src="\//);
    assert.equal(body.trim(), '');
  }
  assert.ok(!/<style|\sstyle=|\son\w+=|https?:\/\//.test(page), page);
});
