//! Rows as finished, failed and waiting tasks leave them, without the turns that would make them.

use anyhow::Result;

use super::Cli;

/// The patch of the change in [`some_of_everything`]; its last line has no end, and it is not UTF-8.
pub(crate) const PATCH: [&[u8]; 2] = [
    b"diff --git a/README.md b/README.md\nindex ce01362..94954ab 100644\n--- a/README.md\n+++ b/README.md\n@@ -1 +1,2 @@\n hello\n+world\n",
    b"diff --git a/caf\xe9.txt b/caf\xe9.txt\nnew file mode 100644\nindex 0000000..9405325\n--- /dev/null\n+++ \"b/caf\\351.txt\"\n@@ -0,0 +1 @@\n+\x1b]0;owned\x07\xe9\n\\ No newline at end of file\n",
];

/// What the session of these rows is called has a terminal's escape sequence in it.
pub(crate) const HOSTILE_PROMPT: &str = "Clear\u{1b}[2J the \u{202e}screen";

impl Cli {
    /// One task in each state that a person can meet:
    /// t1 completed with changes, t2 failed and holding, t3 behind it, t4 in backoff, t5 blocked, t6 cancelled, t7 pending.
    pub(crate) async fn some_of_everything(&self) -> Result<()> {
        let client = self.db.client().await?;
        client
            .batch_execute(
                "INSERT INTO millhand.projects (name, source, base_branch) VALUES ('acme', 'https://example.com/acme.git', 'main');
                 INSERT INTO millhand.tasks (project, prompt, model, idempotency_key)
                     VALUES ('acme', 'Say hello to the world', 'anthropic/claude', 'k1');
                 INSERT INTO millhand.tasks (session_id, prompt, idempotency_key) VALUES (1, 'Now add tests for it', 'k2');
                 INSERT INTO millhand.tasks (session_id, prompt, idempotency_key) VALUES (1, 'And document it', 'k3');
                 INSERT INTO millhand.tasks (project, prompt, idempotency_key) VALUES ('acme', 'Try later', 'k4');
                 INSERT INTO millhand.tasks (project, prompt, idempotency_key) VALUES ('acme', 'Lost too often', 'k5');
                 INSERT INTO millhand.tasks (project, prompt, idempotency_key) VALUES ('acme', 'Never mind', 'k6');
                 UPDATE millhand.sessions SET base_branch = 'main', base_commit = repeat('ab', 20), home_host = 'h1' WHERE id = 1;
                 UPDATE millhand.tasks SET state = 'completed', lane = NULL, attempts = 1, last_attempt = 1, tokens = 1234, cost_usd = 0.0123,
                     output_summary = 'README.md says hello to the world now.', created_at = now() - interval '3 hours',
                     started_at = now() - interval '3 hours', finished_at = now() - interval '3 hours' + interval '8 seconds' WHERE id = 1;
                 INSERT INTO millhand.attempts (task_id, number, prompt, worker_id, host_id, token, agent_requested, agent_resolved,
                     model_requested, model_resolved, agent_session, started_at, ended_at, outcome)
                     VALUES (1, 1, 'x', gen_random_uuid(), 'h1', gen_random_uuid(), 'opencode', 'opencode/build', 'anthropic/claude',
                     'anthropic/claude', 'ses_1', now() - interval '3 hours', now() - interval '3 hours' + interval '8 seconds', 'completed');
                 INSERT INTO millhand.usage (attempt_id, task_id, project, agent, model, agent_session, message_id, input_tokens,
                     output_tokens, cache_read_tokens, cost_usd)
                     VALUES (1, 1, 'acme', 'opencode', 'anthropic/claude', 'ses_1', 'm1', 1000, 34, 200, 0.0123),
                            (NULL, NULL, 'gone', 'opencode', 'openai/gpt', 'ses_0', 'm0', 25000, 1000000, 0, 12.345678),
                            (NULL, NULL, 'gone', 'opencode', 'local/llama', 'ses_0', 'm2', 500, 20, 0, NULL);
                 UPDATE millhand.tasks SET state = 'failed', lane = NULL, holds_line = true, attempts = 3, last_attempt = 3, error_class = 'agent_failed',
                     error_message = E'the model stopped at its output limit\\nask for less at once', created_at = now() - interval '2 hours',
                     finished_at = now() - interval '2 hours' WHERE id = 2;
                 UPDATE millhand.tasks SET created_at = now() - interval '2 hours' WHERE id = 3;
                 UPDATE millhand.tasks SET run_at = now() + interval '1 hour', attempts = 1, error_class = 'agent_failed',
                     error_message = 'provider error 500', created_at = now() - interval '2 hours' WHERE id = 4;
                 UPDATE millhand.tasks SET state = 'blocked', lane = NULL, infra_losses = 11, error_class = 'infrastructure_lost',
                     error_message = 'the agent''s server died 11 times', created_at = now() - interval '2 hours',
                     finished_at = now() - interval '3 hours' WHERE id = 5;
                 UPDATE millhand.tasks SET state = 'cancelled', lane = NULL, created_at = now() - interval '2 hours' WHERE id = 6;
                 INSERT INTO millhand.change_sets (session_id, task_id, attempt_id, project, agent, base_commit, commit_id, tree_id,
                     patch_sha256, files, additions, deletions, notes, state, created_at)
                     VALUES (1, 1, 1, 'acme', 'opencode', repeat('ab', 20), repeat('cd', 20), repeat('ef', 20), '\\x00', 2, 2, 0,
                     '[\"a nested repository is not part of the change: vendor/x\"]', 'open', now() - interval '3 hours');",
            )
            .await?;
        let insert = "INSERT INTO millhand.pending_changes (change_set_id, session_id, task_id, agent, path, path_bytes, kind, \
                      old_mode, new_mode, additions, flags, patch, state) \
                      VALUES (1, 1, 1, 'opencode', $1, $2, $3, $4, 33188, 1, $5, $6, 'pending')";
        let flags: [Vec<&str>; 2] = [vec![], vec!["encoding"]];
        let none: Option<&[u8]> = None;
        client.execute(insert, &[&"README.md", &none, &"modified", &33188_i32, &flags[0], &PATCH[0]]).await?;
        let odd: &[u8] = b"caf\xe9.txt";
        client.execute(insert, &[&"caf\u{fffd}.txt", &Some(odd), &"added", &0_i32, &flags[1], &PATCH[1]]).await?;
        client
            .execute(
                "INSERT INTO millhand.tasks (project, prompt, idempotency_key, created_at, run_at) \
                 VALUES ('acme', $1, 'k7', now() - interval '1 hour', now() - interval '1 hour')",
                &[&HOSTILE_PROMPT],
            )
            .await?;
        Ok(())
    }

    /// A worker that is heard of, on host h1.
    pub(crate) async fn live_worker(&self) -> Result<()> {
        let sql = "INSERT INTO millhand.workers (id, host_id, hostname, version, capacity) VALUES (gen_random_uuid(), 'h1', 'box', '0', 4)";
        self.db.client().await?.batch_execute(sql).await?;
        Ok(())
    }
}
