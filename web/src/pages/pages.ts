// Which page a path is.

import type { Component } from 'svelte';

import type { Query } from '../lib/query.svelte.ts';
import type { Activity } from '../lib/rows.ts';
import Agents from './Agents.svelte';
import Costs from './Costs.svelte';
import Fleet from './Fleet.svelte';
import Inbox from './Inbox.svelte';
import Missing from './Missing.svelte';
import Projects from './Projects.svelte';
import Queue from './Queue.svelte';
import Session from './Session.svelte';
import Sessions from './Sessions.svelte';
import TaskPage from './TaskPage.svelte';
import Webhooks from './Webhooks.svelte';
import Workers from './Workers.svelte';
import Worktrees from './Worktrees.svelte';

export interface PageProps {
  activity: Query<Activity>;
  id?: number;
}

export interface Page {
  key: string;
  title: string;
  component: Component<PageProps>;
  parameters: { id?: number };
}

interface Route {
  path: RegExp;
  title: string;
  component: Component<PageProps>;
}

const ROUTES: Route[] = [
  { path: /^\/$/, title: 'Fleet', component: Fleet },
  { path: /^\/queue$/, title: 'Queue', component: Queue },
  { path: /^\/inbox$/, title: 'Inbox', component: Inbox },
  { path: /^\/sessions$/, title: 'Sessions', component: Sessions },
  { path: /^\/costs$/, title: 'Costs', component: Costs },
  { path: /^\/projects$/, title: 'Projects', component: Projects },
  { path: /^\/worktrees$/, title: 'Worktrees', component: Worktrees },
  { path: /^\/agents$/, title: 'Agents and servers', component: Agents },
  { path: /^\/workers$/, title: 'Workers', component: Workers },
  { path: /^\/webhooks$/, title: 'Webhooks', component: Webhooks },
  { path: /^\/sessions\/s?(\d+)$/, title: 's', component: Session },
  { path: /^\/tasks\/t?(\d+)$/, title: 't', component: TaskPage },
];

export function pageAt(path: string): Page {
  for (const route of ROUTES) {
    const match = route.path.exec(path);
    if (!match) continue;
    const id = match[1] === undefined ? undefined : Number(match[1]);
    const title = id === undefined ? route.title : `${route.title}${id}`;
    return { key: path, title, component: route.component, parameters: id === undefined ? {} : { id } };
  }
  return { key: 'missing', title: 'Not found', component: Missing, parameters: {} };
}
