import assert from 'node:assert/strict';
import { test } from 'node:test';

import { load } from './load.mjs';

const { ago, bytes, firstLine, money, short, span, visible } = await load('lib/format.ts');
const { prose } = await load('lib/prose.ts');

test('what cannot be seen, or turns the direction, is made visible', () => {
  assert.equal(visible('a\u202eb\u0007c\u200bd\r'), 'a⟨202E⟩b␇c⟨200B⟩d␍');
  assert.equal(visible('tab\tand\nline'), 'tab\tand\nline');
  assert.equal(visible('👩\u200d👩\u200d👧 x\u200dy'), '👩\u200d👩\u200d👧 x⟨200D⟩y');
  assert.equal(visible('\u{e0041}'), '⟨E0041⟩');
});

test('an unknown cost is not nothing', () => {
  assert.equal(money(0), '$0.00');
  assert.equal(money(0, 2), 'unknown');
  assert.equal(money(1.5, 1), '$1.50 + ?');
  assert.equal(money(0.0042), '$0.0042');
  assert.equal(money(null), 'unknown');
});

test('numbers, sizes and times are short', () => {
  assert.deepEqual([0, 999, 1000, 12_345, 999_949, 999_950, 4_100_000].map(short), ['0', '999', '1.0k', '12.3k', '1000k', '1.0M', '4.1M']);
  assert.deepEqual([0, 999, 1500, 2_000_000_000].map(bytes), ['0 B', '999 B', '1.5 kB', '2.0 GB']);
  assert.deepEqual([0, 59, 200, 7500, 270_000].map(span), ['0s', '59s', '3m 20s', '2h 05m', '3d 3h']);
  const now = Date.parse('2026-11-21T12:00:00Z');
  assert.equal(ago('2026-11-21T11:55:00Z', now), '5 min ago');
  assert.equal(ago('2026-11-21T15:00:00Z', now), 'in 3 h');
});

test('a title is the first line that says something', () => {
  assert.equal(firstLine('\n\n  Add it \nand more'), 'Add it');
  assert.equal(firstLine(''), '');
});

test('the Markdown of agents becomes a tree of plain text', () => {
  const found = prose('# Done\n\nI ran `npm test` and **it passed**:\n- one\n  - two\n1. three\n\n```sh\n<b>raw</b>\n```\nend');
  assert.deepEqual(found.map((block) => block.kind), ['heading', 'paragraph', 'list', 'code', 'paragraph']);
  assert.deepEqual(found[1].spans.map((span) => span.kind), ['text', 'code', 'text', 'bold', 'text']);
  assert.deepEqual(found[2].items.map((item) => [item.depth, item.mark]), [[0, '•'], [1, '•'], [0, '1.']]);
  assert.equal(found[3].text, '<b>raw</b>');
  // A fence that is never closed, as while it streams.
  assert.equal(prose('```\nx').at(-1).text, 'x');
});
