// Shows /openapi.json. Text only: nothing that the document says is taken for markup.
'use strict';

const make = (name, text = '', className = '') => {
  const element = document.createElement(name);
  element.textContent = text;
  if (className) element.className = className;
  return element;
};

// A schema in the words of TypeScript, its references resolved as far down as is of use.
function shape(root, schema, depth = 0, seen = []) {
  if (!schema) return 'unknown';
  if (schema.$ref) {
    const name = schema.$ref.split('/').pop();
    if (seen.includes(name) || depth > 2) return name;
    return shape(root, root.components.schemas[name], depth, [...seen, name]);
  }
  const parts = schema.allOf ?? schema.oneOf ?? schema.anyOf;
  if (parts) return parts.map((part) => shape(root, part, depth, seen)).join(schema.allOf ? ' & ' : ' | ');
  if (schema.enum) return schema.enum.map((value) => JSON.stringify(value)).join(' | ');
  const types = [schema.type ?? 'unknown'].flat();
  return types
    .map((type) => {
      if (type === 'array') return `${shape(root, schema.items, depth, seen)}[]`;
      if (type !== 'object' || !schema.properties) return type;
      const indent = '  '.repeat(depth + 1);
      const lines = Object.entries(schema.properties).map(([name, of]) => {
        const optional = schema.required?.includes(name) ? '' : '?';
        const said = of.description ? `  // ${of.description.replace(/\s+/g, ' ')}` : '';
        return `${indent}${name}${optional}: ${shape(root, of, depth + 1, seen)};${said}`;
      });
      return `{\n${lines.join('\n')}\n${'  '.repeat(depth)}}`;
    })
    .join(' | ');
}

function bodies(root, content) {
  return Object.entries(content ?? {}).map(([type, of]) => `${type}\n${shape(root, of.schema)}`);
}

function operation(root, path, method, of) {
  const element = make('details');
  const summary = make('summary');
  summary.append(make('span', method.toUpperCase(), 'method'), make('code', path), make('span', of['x-scope'] ?? 'open', 'scope'));
  summary.append(make('span', of.summary ?? '', 'said'));
  const inside = make('div');
  if (of.description) inside.append(make('p', of.description));
  if (of.parameters?.length) {
    const table = make('table');
    for (const parameter of of.parameters) {
      const row = make('tr');
      const name = make('td');
      name.append(make('code', parameter.name));
      row.append(name, make('td', parameter.in + (parameter.required ? ', required' : '')), make('td', parameter.description ?? ''));
      table.append(row);
    }
    inside.append(make('h4', 'Parameters'), table);
  }
  for (const body of bodies(root, of.requestBody?.content)) inside.append(make('h4', 'Body'), make('pre', body));
  for (const [status, said] of Object.entries(of.responses)) {
    inside.append(make('h4', `${status}: ${said.description}`));
    if (status !== 'default') for (const body of bodies(root, said.content)) inside.append(make('pre', body));
  }
  element.append(summary, inside);
  element.dataset.words = `${method} ${path} ${of.summary} ${of['x-scope']} ${of.tags}`.toLowerCase();
  return element;
}

async function show() {
  const main = document.getElementById('operations');
  const answer = await fetch('/openapi.json');
  const root = await answer.json();
  if (!answer.ok) throw new Error(root.detail);
  document.getElementById('about').textContent = `${root.info.description} Version ${root.info.version}.`;
  const groups = new Map();
  for (const [path, item] of Object.entries(root.paths)) {
    for (const [method, of] of Object.entries(item)) {
      const tag = of.tags?.[0] ?? '';
      if (!groups.has(tag)) groups.set(tag, []);
      groups.get(tag).push(operation(root, path, method, of));
    }
  }
  main.replaceChildren();
  for (const [tag, operations] of groups) {
    const section = make('section');
    section.append(make('h2', tag), ...operations);
    main.append(section);
  }
  document.getElementById('find').addEventListener('input', (event) => {
    const words = event.target.value.toLowerCase().split(/\s+/).filter(Boolean);
    for (const one of main.querySelectorAll('details')) one.hidden = !words.every((word) => one.dataset.words.includes(word));
    for (const section of main.children) section.hidden = !section.querySelector('details:not([hidden])');
  });
}

show().catch((error) => {
  document.getElementById('operations').textContent = `The document cannot be read: ${error.message}`;
});
