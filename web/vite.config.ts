import { svelte } from '@sveltejs/vite-plugin-svelte';
import { defineConfig } from 'vite';

// Where `npm run dev` finds a Millhand to talk to.
const api = process.env.MILLHAND_API ?? 'http://127.0.0.1:7341';

export default defineConfig({
  plugins: [svelte()],
  // The content security policy allows no data: script and no inline style: everything is a file of its own.
  build: { target: 'es2022', assetsInlineLimit: 0, modulePreload: { polyfill: false }, chunkSizeWarningLimit: 400 },
  server: {
    proxy: Object.fromEntries(
      ['/api', '/openapi.json', '/docs', '/login', '/healthz', '/readyz', '/metrics'].map((path) => [path, api]),
    ),
  },
});
