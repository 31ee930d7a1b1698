import assert from 'node:assert/strict';
import { test } from 'node:test';

import { load } from './load.mjs';

const { parsePatch, patchOfEdit, sideBySide } = await load('lib/patch.ts');

const PATCH = `diff --git a/greet b/greet
old mode 100644
new mode 100755
index 1..2
--- a/greet
+++ b/greet
@@ -1,4 +1,5 @@ fn main() {
 same
-let name = "Ada";
+let name = "Linus";
+let more = 1;
 end
\\ No newline at end of file
`;

test('lines are numbered on both sides', () => {
  const patch = parsePatch(PATCH);
  assert.deepEqual(patch.notes, ['old mode 100644', 'new mode 100755']);
  assert.equal(patch.hunks.length, 1);
  assert.equal(patch.hunks[0].header, '@@ -1,4 +1,5 @@ fn main() {');
  assert.deepEqual(
    patch.hunks[0].lines.map(({ kind, before, after }) => [kind, before, after]),
    [['same', 1, 1], ['remove', 2, null], ['add', null, 2], ['add', null, 3], ['same', 3, 4], ['note', null, null]],
  );
});

test('content that looks like headers is content', () => {
  const patch = parsePatch('--- a/x\n+++ b/x\n@@ -1,2 +1,2 @@\n--- a/y\n+++ b/z\n+@@ -1 +1 @@\n diff --git a/q b/q\n');
  assert.equal(patch.hunks.length, 1);
  assert.deepEqual(patch.hunks[0].lines.map((line) => line.kind), ['remove', 'add', 'add', 'same']);
  assert.equal(patch.hunks[0].lines[0].text, '-- a/y');
});

test('two columns put what was replaced beside what replaces it', () => {
  const rows = sideBySide(parsePatch(PATCH).hunks[0].lines);
  assert.deepEqual(
    rows.map(({ left, right }) => [left?.text ?? null, right?.text ?? null]),
    [['same', 'same'], ['let name = "Ada";', 'let name = "Linus";'], [null, 'let more = 1;'], ['end', 'end'], ['No newline at end of file', null]],
  );
});

test('words that differ are marked, and no part of a word', () => {
  const patch = parsePatch('@@ -1 +1 @@\n-call(first, second)\n+call(first, third)\n');
  const [old, now] = patch.hunks[0].lines;
  assert.deepEqual(old.pieces.filter((piece) => piece.is).map((piece) => piece.text), ['second']);
  assert.deepEqual(now.pieces.filter((piece) => piece.is).map((piece) => piece.text), ['third']);
  for (const line of [old, now]) assert.equal(line.pieces.map((piece) => piece.text).join(''), line.text);
});

test('a binary patch has no lines', () => {
  const patch = parsePatch('diff --git a/x b/x\nindex 1..2\nGIT binary patch\nliteral 3\nKcmZ\n');
  assert.equal(patch.isBinary, true);
  assert.equal(patch.hunks.length, 0);
});

test('an edit of a tool shows what it replaced, with a little around it', () => {
  const patch = patchOfEdit('a\nb\nc\nd\ne\n', 'a\nb\nc\nX\ne\n');
  assert.deepEqual(patch.hunks[0].lines.map(({ kind, text }) => `${kind} ${text}`), ['same a', 'same b', 'same c', 'remove d', 'add X', 'same e']);
  assert.deepEqual(patchOfEdit('', 'new\n').hunks[0].lines.map((line) => line.kind), ['add']);
});

test('a long patch is read quickly', () => {
  const body = Array.from({ length: 200_000 }, (_, at) => `${at % 3 === 0 ? '-' : '+'}line ${at}`).join('\n');
  const start = performance.now();
  assert.equal(parsePatch(`@@ -1,70000 +1,130000 @@\n${body}\n`).hunks[0].lines.length, 200_000);
  assert.ok(performance.now() - start < 2000);
});
