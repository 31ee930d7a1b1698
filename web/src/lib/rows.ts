// What the API answers with and takes, as its document says: `schema.d.ts` is made from `openapi.json`. Here it gets the dashboard's words.

import type { components } from './schema.d.ts';

type Schemas = components['schemas'];

export interface Page<T> {
  items: T[];
  next?: string | null;
}

export type Activity = Schemas['Activity'];
export type AddedWebhook = Schemas['AddedWebhook'];
export type AgentRow = Schemas['AgentRow'];
export type AgentSession = Schemas['AgentSessionRow'];
export type Applied = Schemas['Applied'];
export type Ask = Schemas['AskRow'];
export type Attempt = Schemas['AttemptRow'];
export type Budget = Schemas['BudgetRow'];
export type BulkDone = Schemas['BulkDone'];
export type ChangeSet = Schemas['ChangeSetRow'];
export type ChangeSetDetail = Schemas['ChangeSetDetail'];
export type Check = Schemas['CheckRow'];
export type CheckRun = Schemas['CheckRunRow'];
export type Checkpoint = Schemas['CheckpointRow'];
export type Comment = Schemas['CommentRow'];
export type Conflict = Schemas['ConflictRow'];
export type Costs = Schemas['CostSums'];
export type Delivery = Schemas['DeliveryRow'];
export type FileDetail = Schemas['FileDetail'];
export type FileRow = Schemas['PendingChangeRow'];
export type Forecast = Schemas['ForecastRow'];
export type InboxItem = Schemas['InboxRow'];
export type Interdiff = Schemas['InterdiffDetail'];
export type Price = Schemas['PriceRow'];
export type Project = Schemas['ProjectLook'];
export type ReapLine = Schemas['ReapLine'];
export type RunningTurn = Schemas['RunningTurn'];
export type Server = Schemas['ServerRow'];
export type Session = Schemas['SessionRow'];
export type SessionDetail = Schemas['SessionDetail'];
export type Task = Schemas['Look'];
export type TaskDetail = Schemas['TaskDetail'];
export type TurnEvent = Schemas['TurnEventRow'];
export type Webhook = Schemas['WebhookRow'];
export type Worker = Schemas['LiveWorker'];
export type Worktree = Schemas['WorktreeRow'];

export type AddProjectRequest = Schemas['AddProjectRequest'];
export type AddWebhookRequest = Schemas['AddWebhookRequest'];
export type AnswerRequest = Schemas['AnswerRequest'];
export type ApplyChangesRequest = Schemas['ApplyChangesRequest'];
export type BudgetsRequest = Schemas['BudgetsRequest'];
export type BulkRequest = Schemas['BulkRequest'];
export type CheckRequest = Schemas['CheckRequest'];
export type CommentRequest = Schemas['CommentRequest'];
export type NewTaskRequest = Schemas['NewTaskRequest'];
export type PostAgainRequest = Schemas['PostAgainRequest'];
export type ReapRequest = Schemas['ReapRequest'];
export type RejectChangesRequest = Schemas['RejectChangesRequest'];
export type RetryRequest = Schemas['RetryRequest'];
export type RollbackRequest = Schemas['RollbackRequest'];
export type SendRequest = Schemas['SendRequest'];
export type SendBackRequest = Schemas['SendBackRequest'];
export type SendConflictsRequest = Schemas['SendConflictsRequest'];
export type SetProjectRequest = Schemas['SetProjectRequest'];
export type SetWebhookRequest = Schemas['SetWebhookRequest'];

/** What an agent wants to know: a part of `Ask.what`. */
export interface Question {
  question: string;
  options: { label: string; description: string }[];
  multiple: boolean;
}
