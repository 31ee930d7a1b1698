// Loads a module of the dashboard, as it is, into a test: Node does not read TypeScript by itself before version 22.
import { build } from 'esbuild';
import { fileURLToPath } from 'node:url';

export async function load(path) {
  const entry = fileURLToPath(new URL(`../src/${path}`, import.meta.url));
  const built = await build({ entryPoints: [entry], bundle: true, format: 'esm', write: false, platform: 'node' });
  return await import(`data:text/javascript;base64,${Buffer.from(built.outputFiles[0].contents).toString('base64')}`);
}
