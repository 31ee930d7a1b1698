// Makes a client from the document that is served, by a generator that knows nothing of us, and uses the server with it.
//
// Types are checked while it is compiled (what `walk.ts` sends and reads is what the document says), requests and answers while it runs.
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { copyFileSync, mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath, pathToFileURL } from 'node:url';
import { createClient } from '@hey-api/openapi-ts';

const { MILLHAND_CLIENT_URL: url, MILLHAND_CLIENT_TOKEN: token, MILLHAND_CLIENT_REPOSITORY: repository } = process.env;
const web = fileURLToPath(new URL('../..', import.meta.url));

const served = await fetch(`${url}/openapi.json`, { headers: { Authorization: `Bearer ${token}` } });
assert.equal(served.status, 200);
const openapi = await served.json();

// In here, so that it finds the libraries that it stands on.
const cache = join(web, 'node_modules/.cache');
mkdirSync(cache, { recursive: true });
const folder = mkdtempSync(join(cache, 'client-'));
try {
  writeFileSync(join(folder, 'openapi.json'), JSON.stringify(openapi));
  await createClient({
    input: join(folder, 'openapi.json'),
    logs: { level: 'warn', file: false },
    output: { path: join(folder, 'client'), module: { extension: '.js' } },
    plugins: ['@hey-api/client-fetch', '@hey-api/typescript', 'zod', { name: '@hey-api/sdk', validator: 'zod' }],
  });
  copyFileSync(fileURLToPath(new URL('walk.ts', import.meta.url)), join(folder, 'walk.ts'));
  writeFileSync(join(folder, 'package.json'), '{"type": "module"}');
  const compilerOptions = { target: 'es2022', module: 'nodenext', strict: true, skipLibCheck: true, outDir: 'made', lib: ['es2023', 'dom', 'dom.iterable'], types: [] };
  writeFileSync(join(folder, 'tsconfig.json'), JSON.stringify({ compilerOptions, include: ['walk.ts', 'client'] }));
  execFileSync(process.execPath, [join(web, 'node_modules/typescript/bin/tsc'), '-p', folder], { stdio: 'inherit' });
  const { walk } = await import(pathToFileURL(join(folder, 'made/walk.js')).href);
  await walk({ url, token, repository, document: openapi });
} finally {
  rmSync(folder, { recursive: true, force: true });
}
